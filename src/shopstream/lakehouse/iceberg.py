"""The lakehouse over any Iceberg catalog; `embedded.py` and `aws.py` supply catalog and files."""

from collections.abc import Mapping
from contextlib import suppress
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

_TRIM_AT = 2
"""A commit expires old snapshots when there are this many times as many as shall be kept."""


class IcebergLakehouse:
    """Iceberg tables; any number of processes may append to and read them.

    Args:
        catalog: versions and files of the tables.
        clock: for the age of files that may be orphans.
    """

    def __init__(self, catalog: LakeCatalog, clock: Clock | None = None) -> None:
        self.catalog = catalog
        self.settings = catalog.settings
        self._clock = clock or SystemClock()
        self._planned: dict[LakeTable, tuple[int | None, list[str]]] = {}

    @property
    def file_system(self) -> AbstractFileSystem | None:
        """The file system through which DuckDB reads data files; None if DuckDB reads them itself."""
        return self.catalog.storage.file_system

    def close(self) -> None:
        """Close the catalog."""
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

        Text columns may be dictionary-encoded. Rows may be empty: the positions still advance. Old snapshots are
        expired from time to time (setting `keep_snapshots`), since every commit gets slower with their number.

        Args:
            table: which one.
            rows: with the table's columns.
            positions: of the shards that the rows come from.
            after: positions that the table must hold for these shards (a missing shard: none); None: any. Checked in
                the commit itself, so that only one of two workers continues.

        Raises:
            PermanentError: a column is missing, of another type, or null where it must not be.
            StateError: the positions are not `after`; nothing was committed.
            RetryableError: other writers kept the table busy; nothing was committed. After an OutcomeUnknownError,
                compare the positions first.
        """
        self.add(table, self.write(table, rows), positions, after=after)

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
        after: Mapping[str, int] | None = None,
    ) -> None:
        """Commit files of `write` as one snapshot that carries positions, together with properties of the table.

        Args:
            table: which one.
            files: their locations.
            positions: merged into those of the table.
            properties: table properties to set.
            expected: values that table properties must have (None: absent), checked in the commit.
            after: see `append`.

        Raises:
            RetryableError: other writers kept the table busy, or changed an expected property; nothing was committed,
                and the files are deleted. After an OutcomeUnknownError, the commit may have succeeded.
        """

        def change(transaction: Transaction, summary: dict[str, str]) -> None:
            there = transaction.table_metadata.properties
            for name, value in (expected or {}).items():
                if there.get(name) != value:
                    raise NotCommittedError(
                        f"another process has changed {name} of the lakehouse table {table}; nothing was committed, "
                        "wait for it and start again"
                    )
            if properties:
                transaction.set_properties(dict(properties))
            if files:
                transaction.add_files(files, snapshot_properties=summary, check_duplicate_files=False)
            else:
                add_nothing(transaction, summary)

        try:
            committed = self.catalog.commit(table, change, positions, after=after)
        except (NotCommittedError, PermanentError):  # after any other error the commit may have succeeded
            self.catalog.storage.remove(files)
            raise
        if len(committed.metadata.snapshots) >= _TRIM_AT * self.settings.keep_snapshots:
            # If a compaction or expiry is running, the next commit expires them.
            with suppress(RetryableError), self.catalog.maintenance():
                maintenance.expire(self.catalog, table, self.settings.keep_snapshots, delete_data=False)

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
            # A concurrent writer may expire this snapshot and delete its manifests: then plan again.
            files = sorted(task.file.file_path for task in current.scan().plan_files())
            known = self._planned[table] = (snapshot, files)
        return list(known[1])

    def status(self) -> list[TableStatus]:
        """One row per table."""
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
        """Merge small files inside each partition; returns by how many files the table shrank. Rows and positions stay.

        The merged files stay on the disk for older snapshots; `expire` deletes them.

        Raises:
            RetryableError: another compaction or expiry is running; nothing was changed.
        """
        with self.catalog.maintenance():
            return maintenance.compact(self.catalog, table)

    def expire(self, table: LakeTable, keep_last: int) -> int:
        """Expire all but the newest snapshots, and delete files that only they need; returns the number of files.

        The positions survive. A reader that still uses an expired snapshot may miss its files.

        Raises:
            ValueError: `keep_last` is less than 1.
            RetryableError: another compaction or expiry is running; nothing was changed.
        """
        if keep_last < 1:
            raise ValueError(f"expected to keep at least 1 snapshot, got {keep_last}; a table without any has no rows")
        with self.catalog.maintenance():
            return maintenance.expire(self.catalog, table, keep_last)

    def orphans(self, table: LakeTable, older_than: timedelta | None = None, *, delete: bool) -> list[str]:
        """Locations of files that no snapshot names.

        Args:
            table: which one.
            older_than: younger files may belong to a running commit; None takes the setting `orphan_age`.
            delete: whether to delete them, too.

        Raises:
            RetryableError: a compaction or expiry is running; nothing was deleted.
        """
        age = self.settings.orphan_age if older_than is None else older_than
        with self.catalog.maintenance():
            found = maintenance.find_orphans(self.catalog, table, age, self._clock)
            if delete:
                self.catalog.storage.remove(found)
        return found
