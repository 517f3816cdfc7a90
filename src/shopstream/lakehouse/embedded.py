"""The lakehouse on local files: Iceberg tables by PyIceberg, the catalog in SQLite.

Order of a commit, and what a crash between two steps leaves:

1. Parquet files are written and forced to the disk      → files that no snapshot knows; `orphans` removes them
2. manifests and table metadata are written likewise     → the same
3. one UPDATE in SQLite moves the table to the new metadata: rows and positions are there, all or nothing
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
from filelock import FileLock
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table, Transaction
from sqlalchemy.exc import OperationalError
from tenacity import RetryError, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from shopstream.errors import ConfigurationError, RetryableError, StateError
from shopstream.lakehouse.durable import DurableFileIO
from shopstream.lakehouse.files import by_day, conform, day_folder, write_file
from shopstream.lakehouse.ports import LakeTable, TableStatus
from shopstream.lakehouse.settings import LakehouseSettings
from shopstream.lakehouse.tables import NAMESPACE, TABLES

__all__ = ["CATALOG_FILE", "CATALOG_NAME", "POSITIONS_PROPERTY", "EmbeddedLakehouse"]

CATALOG_NAME = "shopstream"
"""Name under which another program opens the catalog."""

CATALOG_FILE = "catalog.db"
"""The SQLite catalog, inside the lakehouse's folder."""

POSITIONS_PROPERTY = "shopstream.positions"
"""Snapshot property: JSON object, shard id → last sequence number the table holds."""

_COMMIT_PATIENCE_S = 60.0


class EmbeddedLakehouse:
    """Iceberg tables on local files; any number of processes may append to and read them.

    Args:
        path: folder of catalog and tables; made where there is none. Iceberg stores absolute paths: do not move it.
        settings: codec, file sizes, durability.

    Raises:
        ConfigurationError: SQLite cannot open a file of that name.
        StateError: the folder was moved since the tables were made.
    """

    def __init__(self, path: Path, settings: LakehouseSettings | None = None) -> None:
        self.path = path.resolve()
        self.settings = settings or LakehouseSettings()
        if "?" in str(self.path):
            raise ConfigurationError(
                f"expected a folder without `?` for the lakehouse, got {self.path}; choose another home"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path / "commit.lock", timeout=_COMMIT_PATIENCE_S)
        self._planned: dict[LakeTable, tuple[int | None, list[str]]] = {}
        properties = {"uri": f"sqlite:///{self.path / CATALOG_FILE}", "warehouse": str(self.path)}
        if self.settings.durable:
            properties["py-io-impl"] = f"{DurableFileIO.__module__}.{DurableFileIO.__qualname__}"
        with self._lock:
            self._catalog = SqlCatalog(CATALOG_NAME, **properties)
            self._create_tables()

    def _create_tables(self) -> None:
        self._catalog.create_namespace_if_not_exists(NAMESPACE)
        for table, declaration in TABLES.items():
            identifier = (NAMESPACE, table.value)
            if not self._catalog.table_exists(identifier):
                self._catalog.create_table(
                    identifier,
                    declaration.schema(),
                    location=str(self.location(table)),
                    partition_spec=declaration.partition_spec(),
                    properties=declaration.properties(self.settings.target_file_bytes),
                )

    def close(self) -> None:
        """Let go of the catalog."""
        self._catalog.close()

    def location(self, table: LakeTable) -> Path:
        """Folder of a table, with `data/` and `metadata/` in it."""
        return self.path / NAMESPACE / table.value

    def iceberg(self, table: LakeTable) -> Table:
        """The table as PyIceberg sees it, at its newest version.

        Raises:
            StateError: the folder was moved.
        """
        try:
            return self._catalog.load_table((NAMESPACE, table.value))
        except FileNotFoundError as error:
            raise StateError(
                f"expected the metadata of {table} where the catalog says, found none ({error}); Iceberg stores "
                "absolute paths: move the folder back to where it was made, or start a new home"
            ) from error

    def append(self, table: LakeTable, rows: pa.Table, positions: Mapping[str, int]) -> None:
        """Commit rows as one snapshot that carries `positions` (shard id → last sequence number it holds).

        Text columns may be dictionary-encoded. Rows may be empty: the positions still advance.

        Raises:
            PermanentError: a column is missing, of another type, or null where it must not be.
            RetryableError: other writers kept the table busy; nothing was committed.
        """
        paths = [str(path) for path in self.write(table, rows)]
        self.add(table, paths, positions)

    def write(self, table: LakeTable, rows: pa.Table) -> list[Path]:
        """Write rows to Parquet files, one for each partition, without committing them (see `add`)."""
        declaration = TABLES[table]
        if not rows.num_rows:
            return []
        rows = conform(rows, declaration)
        data = self.location(table) / "data"
        parts = (
            ((day_folder(data, declaration.day_of, day), part) for day, part in by_day(rows, declaration.day_of))
            if declaration.day_of
            else iter([(data, rows)])
        )
        settings = self.settings
        return [
            write_file(part, folder, declaration, settings.compression, durable=settings.durable)
            for folder, part in parts
        ]

    def add(
        self,
        table: LakeTable,
        paths: list[str],
        positions: Mapping[str, int],
        properties: Mapping[str, str] | None = None,
    ) -> None:
        """Commit files of `write` as one snapshot that carries positions and further properties.

        Raises:
            RetryableError: other writers kept the table busy; nothing was committed, and the files are gone.
        """

        def change(transaction: Transaction, summary: dict[str, str]) -> None:
            if paths:
                transaction.add_files(paths, snapshot_properties=summary, check_duplicate_files=False)
            else:
                with transaction.update_snapshot(snapshot_properties=summary).fast_append():
                    pass

        try:
            self.commit(table, change, positions, properties)
        except RetryableError:  # surely not committed; after any other error the snapshot may stand
            for path in paths:
                Path(path).unlink(missing_ok=True)
            raise

    def commit(
        self,
        table: LakeTable,
        change: Callable[[Transaction, dict[str, str]], None],
        positions: Mapping[str, int] | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> Table:
        """Apply a change to the newest version of a table; again on the next version where another writer was faster.

        Args:
            table: which one.
            change: stages the change; gets the transaction and the snapshot properties it has to pass on.
            positions: merged into those of the version it is applied to.
            properties: further snapshot properties.

        Raises:
            RetryableError: other writers kept the table busy for a minute; nothing was committed.
        """
        try:
            for attempt in Retrying(
                retry=retry_if_exception(_not_committed),
                wait=wait_random_exponential(multiplier=0.05, max=2),
                stop=stop_after_delay(_COMMIT_PATIENCE_S),
            ):
                with attempt, self._lock:
                    current = self.iceberg(table)
                    held = positions_of(current)
                    for shard, position in (positions or {}).items():
                        held[shard] = max(position, held.get(shard, position))
                    summary = {POSITIONS_PROPERTY: json.dumps(held, sort_keys=True), **(properties or {})}
                    transaction = current.transaction()
                    change(transaction, summary)
                    return transaction.commit_transaction()
        except (RetryError, TimeoutError) as error:
            raise RetryableError(
                f"the lakehouse table {table} was changed by others for {_COMMIT_PATIENCE_S:.0f} s; nothing was "
                "committed, try again"
            ) from error
        raise AssertionError("tenacity ends in a return or an error")

    def positions(self, table: LakeTable) -> dict[str, int]:
        """Shard id → last sequence number the table holds, over all its snapshots so far."""
        return positions_of(self.iceberg(table))

    def data_files(self, table: LakeTable) -> list[str]:
        """Parquet files of the current snapshot, for readers without Iceberg support; oldest partition first."""
        current = self.iceberg(table)
        snapshot = current.metadata.current_snapshot_id
        known = self._planned.get(table)
        if known is None or known[0] != snapshot:
            files = sorted(task.file.file_path for task in current.scan().plan_files())
            known = self._planned[table] = (snapshot, files)
        return list(known[1])

    def status(self) -> list[TableStatus]:
        """One row a table."""
        rows = []
        for table in TABLES:
            current = self.iceberg(table)
            snapshot = current.current_snapshot()
            total = snapshot.summary.additional_properties if snapshot and snapshot.summary else {}
            rows.append(
                TableStatus(
                    table=table.value,
                    rows=int(total.get("total-records", 0)),
                    data_files=int(total.get("total-data-files", 0)),
                    bytes=int(total.get("total-files-size", 0)),
                    snapshots=len(current.metadata.snapshots),
                    current_snapshot_id=current.metadata.current_snapshot_id,
                    positions=positions_of(current),
                )
            )
        return rows


def positions_of(table: Table) -> dict[str, int]:
    """Positions of the newest snapshot that carries any: a foreign writer's snapshot has none."""
    snapshot = table.current_snapshot()
    while snapshot is not None:
        if snapshot.summary and (text := snapshot.summary.additional_properties.get(POSITIONS_PROPERTY)) is not None:
            return {str(shard): int(position) for shard, position in json.loads(text).items()}
        parent = snapshot.parent_snapshot_id
        snapshot = table.snapshot_by_id(parent) if parent is not None else None
    return {}


def _not_committed(error: BaseException) -> bool:
    """Another writer was faster, or SQLite was busy: certain not to have been committed."""
    if isinstance(error, OperationalError):
        return "locked" in str(error.orig)
    return isinstance(error, CommitFailedException)
