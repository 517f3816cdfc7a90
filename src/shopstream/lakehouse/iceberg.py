"""What every lakehouse of Iceberg tables does, wherever files and catalog are; see `embedded.py` and `aws.py`."""

from collections.abc import Mapping
from datetime import timedelta

import pyarrow as pa
from fsspec import AbstractFileSystem
from pyiceberg.table import Transaction
from tenacity import retry, retry_if_exception_type, stop_after_attempt

from shopstream.clock import Clock, SystemClock
from shopstream.errors import PermanentError, RetryableError
from shopstream.lakehouse import maintenance
from shopstream.lakehouse.catalog import LakeCatalog, NotCommittedError, add_nothing, positions_of
from shopstream.lakehouse.ports import LakeTable, TableStatus
from shopstream.lakehouse.tables import TABLES

__all__ = ["IcebergLakehouse"]

_TRIM_AT = 2
"""Snapshots, as a multiple of those to keep, at which a commit forgets the older ones."""


class IcebergLakehouse:
    """Iceberg tables; any number of processes may append to and read them.

    Args:
        catalog: the tables' versions and files.
        clock: tells the age of files that may be orphans.
    """

    def __init__(self, catalog: LakeCatalog, clock: Clock | None = None) -> None:
        self.catalog = catalog
        self.settings = catalog.settings
        self._clock = clock or SystemClock()
        self._planned: dict[LakeTable, tuple[int | None, list[str]]] = {}

    @property
    def file_system(self) -> AbstractFileSystem | None:
        """What DuckDB reads the data files with; None where it does so by itself."""
        return self.catalog.storage.file_system

    def close(self) -> None:
        """Let go of the catalog."""
        self.catalog.close()

    def append(
        self,
        table: LakeTable,
        rows: pa.Table,
        positions: Mapping[str, int],
        *,
        after: Mapping[str, int] | None = None,
    ) -> None:
        """Commit rows as one snapshot that carries `positions` (shard id → last sequence number it holds).

        Text columns may be dictionary-encoded. Rows may be empty: the positions still advance. Older snapshots are
        forgotten from time to time (setting `keep_snapshots`), since every commit gets slower with their number.

        Args:
            table: which one.
            rows: with the table's columns.
            positions: of the shards the rows come from.
            after: the positions that the table must have of these shards (none: it must hold nothing of a shard);
                None: any. Checked in the commit itself, so that of two workers only one goes on.

        Raises:
            PermanentError: a column is missing, of another type, or null where it must not be.
            StateError: the positions are not `after`; nothing was committed.
            RetryableError: other writers kept the table busy; nothing was committed. Of an OutcomeUnknownError, compare
                the positions first.
        """
        self._add(table, self.write(table, rows), positions, after=after)

    def write(self, table: LakeTable, rows: pa.Table) -> list[str]:
        """Write rows to Parquet files, one for each partition, without committing them (see `add`).

        Returns:
            Their locations.
        """
        return self.catalog.writer.write(table, rows)

    def add(
        self,
        table: LakeTable,
        files: list[str],
        positions: Mapping[str, int],
        properties: Mapping[str, str] | None = None,
        *,
        expected: Mapping[str, str | None] | None = None,
    ) -> None:
        """Commit files of `write` as one snapshot that carries positions, together with properties of the table.

        Args:
            table: which one.
            files: their locations.
            positions: merged into those it has.
            properties: properties of the table to set.
            expected: properties that the table must have as they are here (None: not at all), checked in the commit.

        Raises:
            RetryableError: other writers kept the table busy, or changed what was expected; nothing was committed, and
                the files are gone. Of an OutcomeUnknownError, the commit may stand.
        """
        self._add(table, files, positions, properties=properties, expected=expected)

    def _add(
        self,
        table: LakeTable,
        files: list[str],
        positions: Mapping[str, int],
        *,
        properties: Mapping[str, str] | None = None,
        expected: Mapping[str, str | None] | None = None,
        after: Mapping[str, int] | None = None,
    ) -> None:
        def change(transaction: Transaction, summary: dict[str, str]) -> None:
            there = transaction.table_metadata.properties
            for name, value in (expected or {}).items():
                if there.get(name) != value:
                    raise NotCommittedError(
                        f"another process has moved {name} of the lakehouse table {table} meanwhile; nothing was "
                        "committed, wait for it and start again"
                    )
            if properties:
                transaction.set_properties(dict(properties))
            if files:
                transaction.add_files(files, snapshot_properties=summary, check_duplicate_files=False)
            else:
                add_nothing(transaction, summary)

        try:
            committed = self.catalog.commit(table, change, positions, after=after)
        except (NotCommittedError, PermanentError):  # after any other error the snapshot may stand
            self.catalog.storage.remove(files)
            raise
        if len(committed.metadata.snapshots) >= _TRIM_AT * self.settings.keep_snapshots:
            self._trim(table)

    def _trim(self, table: LakeTable) -> None:
        try:
            with self.catalog.maintenance():
                maintenance.expire(self.catalog, table, self.settings.keep_snapshots, delete_data=False)
        except RetryableError:
            return  # a compaction or expiry is at it: the next commit will trim

    def positions(self, table: LakeTable) -> dict[str, int]:
        """Shard id → last sequence number the table holds, over all its snapshots so far."""
        return positions_of(self.catalog.load(table))

    @retry(retry=retry_if_exception_type(FileNotFoundError), stop=stop_after_attempt(5), reraise=True)
    def data_files(self, table: LakeTable) -> list[str]:
        """Parquet files of the current snapshot, for readers without Iceberg support; oldest partition first."""
        current = self.catalog.load(table)
        snapshot = current.metadata.current_snapshot_id
        known = self._planned.get(table)
        if known is None or known[0] != snapshot:
            # A concurrent writer may have forgotten this snapshot meanwhile: then its manifests are gone, plan anew.
            files = sorted(task.file.file_path for task in current.scan().plan_files())
            known = self._planned[table] = (snapshot, files)
        return list(known[1])

    def status(self) -> list[TableStatus]:
        """One row a table."""
        rows = []
        for table in TABLES:
            current = self.catalog.load(table)
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

    def compact(self, table: LakeTable) -> int:
        """Merge small files inside each partition; returns how many files went away. Rows and positions stay.

        The merged files stay on the disk for the older snapshots; `expire` deletes them.

        Raises:
            RetryableError: another compaction or expiry is under way; nothing was changed.
        """
        with self.catalog.maintenance():
            return maintenance.compact(self.catalog, table)

    def expire(self, table: LakeTable, keep_last: int) -> int:
        """Forget all but the newest snapshots and delete files that none of the kept ones needs; returns deleted files.

        The positions survive. A reader that still works on a forgotten snapshot may miss its files.

        Raises:
            ValueError: `keep_last` is less than 1.
            RetryableError: another compaction or expiry is under way; nothing was changed.
        """
        if keep_last < 1:
            raise ValueError(f"expected to keep at least 1 snapshot, got {keep_last}; a table without any has no rows")
        with self.catalog.maintenance():
            return maintenance.expire(self.catalog, table, keep_last)

    def orphans(self, table: LakeTable, older_than: timedelta | None = None, *, delete: bool) -> list[str]:
        """Locations of files that no snapshot names; deletes them if told so.

        Args:
            table: which one.
            older_than: younger files may belong to a commit under way; None takes the setting `orphan_age`.
            delete: False only lists them.

        Raises:
            RetryableError: a compaction or expiry is under way; nothing was deleted.
        """
        age = self.settings.orphan_age if older_than is None else older_than
        with self.catalog.maintenance():
            found = maintenance.find_orphans(self.catalog, table, age, self._clock)
            if delete:
                self.catalog.storage.remove(found)
        return found
