"""The lakehouse on local files: Iceberg tables by PyIceberg, the catalog in SQLite.

Order of a commit, and what a crash between two steps leaves:

1. Parquet files are written and forced to the disk      → files that no snapshot knows; `orphans` removes them
2. manifests and table metadata are written likewise     → the same
3. one UPDATE in SQLite moves the table to the new metadata: rows and positions are there, all or nothing
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
from pyiceberg.table import Transaction
from tenacity import retry, retry_if_exception_type, stop_after_attempt

from shopstream.clock import Clock, SystemClock
from shopstream.errors import RetryableError
from shopstream.lakehouse import maintenance
from shopstream.lakehouse.catalog import LocalCatalog, add_nothing, positions_of
from shopstream.lakehouse.files import by_day, conform, day_folder, write_file
from shopstream.lakehouse.ports import LakeTable, TableStatus
from shopstream.lakehouse.settings import LakehouseSettings
from shopstream.lakehouse.tables import TABLES

__all__ = ["EmbeddedLakehouse"]

_TRIM_AT = 2
"""Snapshots, as a multiple of those to keep, at which a commit forgets the older ones."""


class EmbeddedLakehouse:
    """Iceberg tables on local files; any number of processes may append to and read them.

    Args:
        path: folder of catalog and tables; made where there is none. Iceberg stores absolute paths: do not move it.
        settings: codec, file sizes, durability.
        clock: tells the age of files that may be orphans.
    """

    def __init__(self, path: Path, settings: LakehouseSettings | None = None, clock: Clock | None = None) -> None:
        self.catalog = LocalCatalog(path, settings)
        self.settings = self.catalog.settings
        self._clock = clock or SystemClock()
        self._planned: dict[LakeTable, tuple[int | None, list[str]]] = {}

    def close(self) -> None:
        """Let go of the catalog."""
        self.catalog.close()

    def append(self, table: LakeTable, rows: pa.Table, positions: Mapping[str, int]) -> None:
        """Commit rows as one snapshot that carries `positions` (shard id → last sequence number it holds).

        Text columns may be dictionary-encoded. Rows may be empty: the positions still advance. Older snapshots are
        forgotten from time to time (setting `keep_snapshots`), since every commit gets slower with their number.

        Raises:
            PermanentError: a column is missing, of another type, or null where it must not be.
            RetryableError: other writers kept the table busy; nothing was committed.
        """
        self.add(table, self.write(table, rows), positions)

    def write(self, table: LakeTable, rows: pa.Table) -> list[Path]:
        """Write rows to Parquet files, one for each partition, without committing them (see `add`)."""
        declaration, settings = TABLES[table], self.settings
        if not rows.num_rows:
            return []
        rows = conform(rows, declaration)
        data = self.catalog.location(table) / "data"
        if declaration.day_of is None:
            parts = [(data, rows)]
        else:
            column = declaration.day_of
            parts = [(day_folder(data, column, day), part) for day, part in by_day(rows, column)]
        return [
            write_file(part, folder, declaration, settings.compression, durable=settings.durable)
            for folder, part in parts
        ]

    def add(
        self,
        table: LakeTable,
        files: list[Path],
        positions: Mapping[str, int],
        properties: Mapping[str, str] | None = None,
    ) -> None:
        """Commit files of `write` as one snapshot that carries positions, together with properties of the table.

        Raises:
            RetryableError: other writers kept the table busy; nothing was committed, and the files are gone.
        """

        def change(transaction: Transaction, summary: dict[str, str]) -> None:
            if properties:
                transaction.set_properties(dict(properties))
            if files:
                paths = [str(path) for path in files]
                transaction.add_files(paths, snapshot_properties=summary, check_duplicate_files=False)
            else:
                add_nothing(transaction, summary)

        try:
            committed = self.catalog.commit(table, change, positions)
        except RetryableError:  # surely not committed; after any other error the snapshot may stand
            maintenance.remove(files)
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

    def orphans(self, table: LakeTable, older_than: timedelta | None = None, *, delete: bool) -> list[Path]:
        """Files that no snapshot names, and delete them if told so.

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
                maintenance.remove(found)
        return found
