"""The Iceberg catalog in SQLite: opens tables, and commits changes that carry the positions forward."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table, Transaction
from pyiceberg.table.snapshots import Snapshot
from sqlalchemy import URL
from sqlalchemy.exc import OperationalError
from tenacity import RetryError, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from shopstream.errors import RetryableError, StateError
from shopstream.lakehouse.durable import DurableFileIO
from shopstream.lakehouse.ports import LakeTable
from shopstream.lakehouse.settings import LakehouseSettings
from shopstream.lakehouse.tables import NAMESPACE, TABLES

__all__ = [
    "CATALOG_FILE",
    "CATALOG_NAME",
    "POSITIONS_PROPERTY",
    "LocalCatalog",
    "add_nothing",
    "carrier_of",
    "positions_of",
]

CATALOG_NAME = "shopstream"
"""Name under which another program opens the catalog."""

CATALOG_FILE = "catalog.db"
"""The SQLite catalog, inside the lakehouse's folder."""

POSITIONS_PROPERTY = "shopstream.positions"
"""Snapshot property: JSON object, shard id → last sequence number the table holds."""

_COMMIT_PATIENCE_S = 60.0


class LocalCatalog:
    """The tables' versions; any number of processes may commit and read.

    Args:
        path: folder of catalog and tables; made where there is none. Iceberg stores absolute paths: do not move it.
        settings: codec, file sizes, durability.

    Raises:
        RetryableError: another process kept it busy for a minute.
        StateError: the folder was moved.
    """

    def __init__(self, path: Path, settings: LakehouseSettings | None = None) -> None:
        self.path = path.resolve()
        self.settings = settings or LakehouseSettings()
        database = str(self.path / CATALOG_FILE)
        self.uri = URL.create("sqlite", database=database).render_as_string()
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path / "commit.lock", timeout=_COMMIT_PATIENCE_S)
        self._maintenance = FileLock(self.path / "maintenance.lock", timeout=0)
        properties = {"uri": self.uri, "warehouse": str(self.path)}
        if self.settings.durable:
            properties["py-io-impl"] = f"{DurableFileIO.__module__}.{DurableFileIO.__qualname__}"
        try:
            with self._lock:
                self._catalog = SqlCatalog(CATALOG_NAME, **properties)
                self._create_tables()
        except TimeoutError as error:
            raise RetryableError(f"the lakehouse at {self.path} is kept busy by another process; try again") from error

    def _create_tables(self) -> None:
        self._catalog.create_namespace_if_not_exists(NAMESPACE)
        there = set(self._catalog.list_tables(NAMESPACE))
        for table, declaration in TABLES.items():
            identifier = (NAMESPACE, table.value)
            if identifier not in there:
                self._catalog.create_table(
                    identifier,
                    declaration.schema(),
                    location=str(self.location(table)),
                    partition_spec=declaration.partition_spec(),
                    properties=declaration.properties(self.settings.target_file_bytes),
                )
                continue
            table_there = self.load(table)
            if len(table_there.schema().fields) < len(declaration.fields):  # made by an older version
                with table_there.update_schema() as update:
                    update.union_by_name(declaration.schema())

    def close(self) -> None:
        """Let go of the catalog."""
        self._catalog.close()

    def location(self, table: LakeTable) -> Path:
        """Folder of a table, with `data/` and `metadata/` in it."""
        return self.path / NAMESPACE / table.value

    def load(self, table: LakeTable) -> Table:
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

    @contextmanager
    def maintenance(self) -> Iterator[None]:
        """Only one compaction, expiry or removal of orphans at a time; appends go on meanwhile.

        Raises:
            RetryableError: another one is under way.
        """
        try:
            self._maintenance.acquire()
        except TimeoutError as error:
            raise RetryableError(
                f"another compaction or expiry of the lakehouse at {self.path} is under way; try again when it is done"
            ) from error
        try:
            yield
        finally:
            self._maintenance.release()

    def forget(self, table: LakeTable, snapshots: list[int]) -> Table:
        """Take snapshots out of a table's history; deletes no file."""

        def change(current: Table) -> Table:
            current.maintenance.expire_snapshots().by_ids(snapshots).commit()
            return self.load(table)

        return self._attempt(table, change)

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

        def stage(current: Table) -> Table:
            held = positions_of(current)
            for shard, position in (positions or {}).items():
                held[shard] = max(position, held.get(shard, position))
            summary = {POSITIONS_PROPERTY: json.dumps(held, sort_keys=True), **(properties or {})}
            transaction = current.transaction()
            change(transaction, summary)
            return transaction.commit_transaction()

        return self._attempt(table, stage)

    def _attempt(self, table: LakeTable, change: Callable[[Table], Table]) -> Table:
        attempts = Retrying(
            retry=retry_if_exception(_not_committed),
            wait=wait_random_exponential(multiplier=0.05, max=2),
            stop=stop_after_delay(_COMMIT_PATIENCE_S),
        )

        def once() -> Table:
            with self._lock:
                return change(self.load(table))

        try:
            return attempts(once)
        except (RetryError, TimeoutError) as error:
            raise RetryableError(
                f"the lakehouse table {table} was changed by others for {_COMMIT_PATIENCE_S:.0f} s; nothing was "
                "committed, try again"
            ) from error


def add_nothing(transaction: Transaction, summary: dict[str, str]) -> None:
    """Stage a snapshot without rows: it carries the positions alone."""
    with transaction.update_snapshot(snapshot_properties=summary).fast_append():
        pass


def carrier_of(table: Table) -> Snapshot | None:
    """The newest snapshot that carries positions: one of a foreign writer does not."""
    snapshot = table.current_snapshot()
    while snapshot is not None and _positions_text(snapshot) is None:
        parent = snapshot.parent_snapshot_id
        snapshot = table.snapshot_by_id(parent) if parent is not None else None
    return snapshot


def positions_of(table: Table) -> dict[str, int]:
    """Shard id → last sequence number the table holds."""
    carrier = carrier_of(table)
    text = _positions_text(carrier) if carrier else None
    return {str(shard): int(position) for shard, position in json.loads(text or "{}").items()}


def _positions_text(snapshot: Snapshot) -> str | None:
    return snapshot.summary.additional_properties.get(POSITIONS_PROPERTY) if snapshot.summary else None


def _not_committed(error: BaseException) -> bool:
    """Another writer was faster, or SQLite was busy: certain not to have been committed."""
    if isinstance(error, OperationalError):
        return "locked" in str(error.orig)
    return isinstance(error, CommitFailedException)
