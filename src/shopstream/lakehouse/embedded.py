"""The lakehouse on local files: Iceberg tables by PyIceberg, the catalog in SQLite.

Order of a commit, and what a crash between two steps leaves:

1. Parquet files are written and forced to the disk      → files that no snapshot names; `orphans` removes them
2. manifests and table metadata are written likewise     → the same
3. one UPDATE in SQLite moves the table to the new metadata: rows and positions are there, all or nothing
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from io import BufferedWriter, FileIO
from pathlib import Path

from filelock import FileLock
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO
from sqlalchemy import URL
from sqlalchemy.exc import OperationalError

from shopstream.clock import Clock
from shopstream.engine.checkpoint import sync
from shopstream.errors import RetryableError
from shopstream.lakehouse.catalog import CATALOG_NAME, LakeCatalog
from shopstream.lakehouse.files import locked
from shopstream.lakehouse.iceberg import IcebergLakehouse
from shopstream.lakehouse.reader import CATALOG_FILE
from shopstream.lakehouse.settings import LakehouseSettings
from shopstream.lakehouse.tables import NAMESPACE


class _SyncedStream(BufferedWriter):
    """A file that is synced to the disk when it is closed."""

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        super().__init__(FileIO(path, "w" if overwrite else "x"), buffer_size=1 << 20)

    def close(self) -> None:
        """Flush, sync, close."""
        if self.closed:
            return
        self.flush()
        os.fsync(self.fileno())
        super().close()
        sync(self._path.parent)


class _DurableFile(PyArrowFile):
    """A local file whose writes are durable."""

    def create(self, overwrite: bool = False) -> _SyncedStream:
        """Open for writing.

        Raises:
            FileExistsError: it is there and `overwrite` is not set.
        """
        return _SyncedStream(Path(self._path), overwrite=overwrite)


class DurableFileIO(PyArrowFileIO):
    """PyIceberg's Arrow FileIO for local files, with durable writes."""

    def new_output(self, location: str) -> _DurableFile:
        """A file to write."""
        file = super().new_output(location)
        return _DurableFile(location=location, path=file._path, fs=file._filesystem)  # noqa: SLF001  its only way out


_BUSY_PATIENCE_S = 60.0


class LocalStorage:
    """Files by absolute path.

    Args:
        durable: force each file to the disk.
    """

    file_system: None = None
    """DuckDB reads local files itself."""

    def __init__(self, *, durable: bool) -> None:
        self._durable = durable

    def draft(self, location: str) -> Path:
        """The path itself; creates its folder."""
        path = Path(location)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def keep(self, draft: Path, location: str) -> None:  # noqa: ARG002  the draft is written where it stays
        """Force a finished file to the disk."""
        if self._durable:
            sync(draft)
            sync(draft.parent)

    def remove(self, locations: Iterable[str]) -> int:
        """Delete files; returns how many existed. Folders stay: a writer may be about to use one."""
        removed = 0
        for path in map(Path, sorted(locations)):
            try:
                path.unlink()
            except FileNotFoundError:
                continue  # deleted by an earlier run that crashed
            removed += 1
        return removed

    def listing(self, folder: str) -> Iterator[tuple[str, float]]:
        """Every file below a folder, with the time of its last change in s since 1970."""
        for path in Path(folder).rglob("*"):
            if path.is_file():
                yield str(path), path.stat().st_mtime


class LocalCatalog(LakeCatalog):
    """The catalog in SQLite; any number of processes of one machine may commit and read.

    Args:
        path: folder of catalog and tables, created if missing. Iceberg stores absolute paths: do not move it.
        settings: codec, file sizes, durability.

    Raises:
        RetryableError: another process kept it busy for a minute.
        StateError: the folder was moved.
    """

    def __init__(self, path: Path, settings: LakehouseSettings | None = None) -> None:
        settings = settings or LakehouseSettings()
        self.path = path.resolve()
        database = str(self.path / CATALOG_FILE)
        self.uri = URL.create("sqlite", database=database).render_as_string()
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path / "commit.lock", timeout=_BUSY_PATIENCE_S)
        properties = {"uri": self.uri, "warehouse": str(self.path)}
        if settings.durable:
            properties["py-io-impl"] = f"{DurableFileIO.__module__}.{DurableFileIO.__qualname__}"
        try:
            with self._lock:
                catalog = SqlCatalog(CATALOG_NAME, **properties)
                super().__init__(catalog, NAMESPACE, str(self.path), LocalStorage(durable=settings.durable), settings)
                catalog.create_namespace_if_not_exists(NAMESPACE)
                self.create_tables()
        except TimeoutError as error:
            raise RetryableError(f"another process keeps the lakehouse at {self.path} busy; try again") from error

    @property
    def description(self) -> str:
        """Location of catalog and tables, as text."""
        return f"Iceberg tables in {self.path}, catalog `{CATALOG_FILE}` (SQLite), namespace `{self.namespace}`."

    @property
    def spill_folder(self) -> Path:
        """Beside the tables, on the disk that has room."""
        return self.path / "tmp"

    def committing(self) -> AbstractContextManager[object]:
        """A lock: waiting is cheaper than losing a race."""
        return self._lock

    def maintenance(self) -> AbstractContextManager[None]:
        """A lock: only one compaction, expiry or removal of orphans at a time; appends continue."""
        message = f"another compaction or expiry of the lakehouse at {self.path} is running; try again when it is done"
        return locked(self.path / "maintenance.lock", message)

    def loading(self, key: str, location: str) -> AbstractContextManager[None]:
        """A lock: only one bulk load of a file at a time."""
        return locked(self.path / f"{key}.lock", f"another process is loading {location}; wait for it")

    def is_retryable(self, error: BaseException) -> bool:
        """Whether another writer was faster, or SQLite was busy: then nothing was committed."""
        if isinstance(error, OperationalError):
            return "locked" in str(error.orig)
        return super().is_retryable(error)


class EmbeddedLakehouse(IcebergLakehouse):
    """Iceberg tables on local files; any number of processes may append to and read them.

    Args:
        path: folder of catalog and tables, created if missing. Iceberg stores absolute paths: do not move it.
        settings: codec, file sizes, durability.
        clock: for the age of files that may be orphans.
    """

    catalog: LocalCatalog

    def __init__(self, path: Path, settings: LakehouseSettings | None = None, clock: Clock | None = None) -> None:
        super().__init__(LocalCatalog(path, settings), clock)
