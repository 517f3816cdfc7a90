"""The Iceberg catalog: opens tables, and commits changes that carry the positions forward."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from uuid import uuid4

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException, TableAlreadyExistsError
from pyiceberg.table import Table, Transaction
from pyiceberg.table.snapshots import Snapshot
from tenacity import RetryError, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from shopstream.errors import RetryableError, StateError
from shopstream.lakehouse.files import FileWriter, Storage
from shopstream.lakehouse.reader import moved_error
from shopstream.lakehouse.settings import LakehouseSettings
from shopstream.lakehouse.tables import TABLES

CATALOG_NAME = "shopstream"
"""Name of the catalog for other programs."""

POSITIONS_PROPERTY = "shopstream.positions"
"""Snapshot property: JSON object, shard id → last sequence number in the table."""

_COMMIT_PROPERTY = "shopstream.commit"
"""Snapshot property: id of the commit, the same for all its attempts."""

_COMMIT_PATIENCE_S = 60.0


class NotCommittedError(RetryableError):
    """Other writers kept a table busy; certainly nothing was committed."""


class OutcomeUnknownError(RetryableError):
    """The catalog did not answer a commit, which may have succeeded or not. Compare the positions before a retry."""


class LakeCatalog(ABC):
    """Versions of the tables; any number of processes may commit and read.

    Args:
        catalog: of PyIceberg.
        namespace: of the tables (in Glue: the database).
        root: folder or URL under which each table has a folder.
        storage: of the files.
        settings: codec, file sizes, durability.
    """

    def __init__(
        self, catalog: Catalog, namespace: str, root: str, storage: Storage, settings: LakehouseSettings
    ) -> None:
        self._catalog = catalog
        self.namespace = namespace
        self.root = root
        self.storage = storage
        self.settings = settings

    @property
    @abstractmethod
    def description(self) -> str:
        """Location of catalog and tables, as text."""

    @property
    @abstractmethod
    def spill_folder(self) -> Path:
        """Local folder for the temporary files of a compaction."""

    @abstractmethod
    def committing(self) -> AbstractContextManager[object]:
        """Context of each attempt to commit.

        Raises:
            TimeoutError: other processes keep the catalog busy.
        """

    @abstractmethod
    def maintenance(self) -> AbstractContextManager[None]:
        """Context of a compaction, expiry or removal of orphans; appends continue.

        Raises:
            RetryableError: another one is running, and this catalog allows only one.
        """

    @abstractmethod
    def loading(self, key: str, location: str) -> AbstractContextManager[None]:
        """Context of the bulk load of a file, identified by `key`.

        Raises:
            RetryableError: another process is loading it, as far as this catalog can know.
        """

    @property
    def writer(self) -> FileWriter:
        """Writes files for the tables."""
        return FileWriter(f"{self.root}/{self.namespace}", self.storage, self.settings.compression)

    def location(self, table: str) -> str:
        """Folder or URL of a table, with `data/` and `metadata/` in it."""
        return f"{self.root}/{self.namespace}/{table}"

    def create_tables(self) -> None:
        """Create missing tables, and add columns that an older version did not have."""
        existing = set(self._catalog.list_tables(self.namespace))
        for table, declaration in TABLES.items():
            identifier = (self.namespace, table.value)
            if identifier not in existing:
                try:
                    self._catalog.create_table(
                        identifier,
                        declaration.schema(),
                        location=self.location(table),
                        partition_spec=declaration.partition_spec(),
                        properties=declaration.properties(self.settings.target_file_bytes),
                    )
                except TableAlreadyExistsError:
                    continue  # another process was faster
                continue
            current = self.load(table)
            if len(current.schema().fields) < len(declaration.fields):
                with current.update_schema() as update:
                    update.union_by_name(declaration.schema())

    def close(self) -> None:
        """Close the catalog."""
        self._catalog.close()

    def load(self, table: str) -> Table:
        """The newest version of a table, as PyIceberg's object.

        Raises:
            StateError: its files are not where the catalog says.
        """
        try:
            return self._catalog.load_table((self.namespace, table))
        except FileNotFoundError as error:
            raise moved_error(table, error) from error

    def forget(self, table: str, snapshots: list[int]) -> Table:
        """Remove snapshots from a table's history; deletes no file."""

        def change(current: Table) -> Table:
            there = {snapshot.snapshot_id for snapshot in current.snapshots()}
            if wanted := [snapshot for snapshot in snapshots if snapshot in there]:
                current.maintenance.expire_snapshots().by_ids(wanted).commit()
            return self.load(table)

        return self._attempt(table, change)

    def commit(
        self,
        table: str,
        change: Callable[[Transaction, dict[str, str]], None],
        positions: Mapping[str, int] | None = None,
        *,
        after: Mapping[str, int] | None = None,
    ) -> Table:
        """Apply a change to the newest version of a table; repeats it on the next version if another writer was faster.

        Args:
            table: which one.
            change: stages the change; gets the transaction and the snapshot properties it has to pass on.
            positions: merged into those of the version that the change is applied to.
            after: positions that this version must hold for the shards in `positions`; None: any.

        Raises:
            NotCommittedError: other writers kept the table busy for a minute; nothing was committed.
            OutcomeUnknownError: the catalog did not answer, and does not show whether the commit succeeded.
            StateError: the table's positions are not `after`; nothing was committed.
        """
        commit_id = uuid4().hex
        tried: list[int | None] = []  # base snapshots of attempts whose outcome is unknown

        def stage(current: Table) -> Table:
            if tried:
                if _holds(current, commit_id):
                    return current
                _check_history(current, tried, table)
            held = positions_of(current)
            _check_positions(held, positions or {}, after, table)
            for shard, position in (positions or {}).items():
                held[shard] = max(position, held.get(shard, position))
            summary = {POSITIONS_PROPERTY: json.dumps(held, sort_keys=True), _COMMIT_PROPERTY: commit_id}
            transaction = current.transaction()
            change(transaction, summary)
            try:
                return transaction.commit_transaction()
            except OutcomeUnknownError:
                tried.append(current.metadata.current_snapshot_id)
                raise

        return self._attempt(table, stage)

    def _attempt(self, table: str, change: Callable[[Table], Table]) -> Table:
        attempts = Retrying(
            retry=retry_if_exception(self.is_retryable),
            wait=wait_random_exponential(multiplier=0.05, max=2),
            stop=stop_after_delay(_COMMIT_PATIENCE_S),
        )
        unknown: list[OutcomeUnknownError] = []

        def once() -> Table:
            with self.committing():
                current = self.load(table)
                try:
                    return change(current)
                except OutcomeUnknownError as error:
                    unknown.append(error)
                    raise

        try:
            return attempts(once)
        except (RetryError, TimeoutError) as error:
            if unknown:
                raise unknown[-1] from error
            raise NotCommittedError(
                f"the lakehouse table {table} was changed by others for {_COMMIT_PATIENCE_S:.0f} s; nothing was "
                "committed, try again"
            ) from error
        except RetryableError as error:
            if unknown and not isinstance(error, OutcomeUnknownError):
                raise unknown[-1] from error
            raise

    def is_retryable(self, error: BaseException) -> bool:
        """Whether another attempt may succeed: another writer was faster, or the answer was lost."""
        return isinstance(error, CommitFailedException | OutcomeUnknownError)


def _holds(table: Table, commit_id: str) -> bool:
    return any(
        snapshot.summary is not None and snapshot.summary.additional_properties.get(_COMMIT_PROPERTY) == commit_id
        for snapshot in table.snapshots()
    )


def _check_history(table: Table, tried: list[int | None], name: str) -> None:
    """A successful commit follows its base snapshot; if that was expired, the commit may have been, too."""
    there = {snapshot.snapshot_id for snapshot in table.snapshots()} | {None}
    if not there.issuperset(tried):
        raise RetryableError(f"the snapshots that would show whether a commit to {name} succeeded have expired")


def _check_positions(
    held: Mapping[str, int], positions: Mapping[str, int], after: Mapping[str, int] | None, table: str
) -> None:
    if after is None:
        return
    for shard in positions:
        if held.get(shard) != after.get(shard):
            raise StateError(
                f"expected the lakehouse table {table} to hold shard {shard} up to {after.get(shard)}, it holds it up "
                f"to {held.get(shard)}: another worker has committed; start again from the positions it holds"
            )


def add_nothing(transaction: Transaction, summary: dict[str, str]) -> None:
    """Stage a snapshot without rows, which carries only the positions."""
    with transaction.update_snapshot(snapshot_properties=summary).fast_append():
        pass


def carrier_of(table: Table) -> Snapshot | None:
    """The newest snapshot that carries positions; those of foreign writers do not."""
    snapshot = table.current_snapshot()
    while snapshot is not None and _positions_text(snapshot) is None:
        parent = snapshot.parent_snapshot_id
        snapshot = table.snapshot_by_id(parent) if parent is not None else None
    return snapshot


def positions_of(table: Table) -> dict[str, int]:
    """Shard id → last sequence number in the table."""
    carrier = carrier_of(table)
    text = _positions_text(carrier) if carrier else None
    return {str(shard): int(position) for shard, position in json.loads(text or "{}").items()}


def _positions_text(snapshot: Snapshot) -> str | None:
    return snapshot.summary.additional_properties.get(POSITIONS_PROPERTY) if snapshot.summary else None
