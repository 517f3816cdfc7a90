"""Maintenance of the Iceberg tables: compaction, expiry of snapshots, removal of orphans.

PyIceberg commits the metadata; this module moves rows and deletes files. A crash at any step leaves the table in its
old or its new state, and at most files that no snapshot names.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from datetime import timedelta

import duckdb
import pyarrow as pa
from pyiceberg.exceptions import ValidationException
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import parquet_files_to_data_files
from pyiceberg.manifest import DataFile, ManifestFile
from pyiceberg.table import Table, Transaction
from pyiceberg.table.snapshots import Snapshot

from shopstream.clock import Clock
from shopstream.errors import RetryableError, StateError
from shopstream.lakehouse.catalog import LakeCatalog, NotCommittedError, add_nothing, carrier_of
from shopstream.lakehouse.files import ROW_GROUP, ParquetFile, conform
from shopstream.lakehouse.ports import LakeTable
from shopstream.lakehouse.tables import TABLES, register_storage, view_sql

_FULL_ENOUGH = 0.75
"""A file of this share of the target size is not rewritten."""


def compact(catalog: LakeCatalog, table: LakeTable) -> int:
    """Merge small files inside each partition, rows sorted; one snapshot. Returns by how many files the table shrank.

    The setting `compaction_memory` bounds memory; beyond it, sorting spills to temporary files. Concurrent appends are
    not disturbed: only the merged files are replaced.

    Raises:
        RetryableError: another program removed one of the files; nothing was changed.
    """
    current = catalog.load(table)
    groups = list(_groups(current, catalog.settings.target_file_bytes))
    if not groups:
        return 0
    replaced = [file for group in groups for file in group]
    merged: list[str] = []

    def replace(transaction: Transaction, summary: dict[str, str]) -> None:
        with transaction.update_snapshot(snapshot_properties=summary).overwrite() as overwrite:
            # Without a predicate, PyIceberg searches no manifest of an unpartitioned table.
            overwrite.delete_by_predicate(AlwaysTrue())
            for file in replaced:
                overwrite.delete_data_file(file)
            for file in parquet_files_to_data_files(current.io, current.metadata, iter(merged)):
                overwrite.append_data_file(file)

    try:
        for group in groups:
            _merge(catalog, table, group, merged)
        catalog.commit(table, replace)
    except (ValidationException, NotCommittedError, duckdb.Error, OSError) as error:  # certainly not committed
        catalog.storage.remove(merged)
        if isinstance(error, ValidationException):
            raise RetryableError(
                f"another program replaced files of {table}; nothing was changed, try again"
            ) from error
        raise
    return len(replaced) - len(merged)


def _groups(table: Table, target_bytes: int) -> Iterator[list[DataFile]]:
    """Groups of files to merge into one; each is from one partition, and not much larger than the target."""
    partitions: dict[tuple[int, str], list[DataFile]] = defaultdict(list)
    for task in table.scan().plan_files():
        if task.file.file_size_in_bytes < _FULL_ENOUGH * target_bytes:
            partitions[task.file.spec_id, str(task.file.partition)].append(task.file)
    for key in sorted(partitions):
        group: list[DataFile] = []
        weight = 0
        for file in sorted(partitions[key], key=lambda file: (file.file_size_in_bytes, file.file_path)):
            if weight + file.file_size_in_bytes > target_bytes and group:
                if len(group) > 1:
                    yield group
                group, weight = [], 0
            group.append(file)
            weight += file.file_size_in_bytes
        if len(group) > 1:
            yield group


def _merge(catalog: LakeCatalog, table: LakeTable, group: list[DataFile], merged: list[str]) -> None:
    """Write the rows of several files to one, sorted; appends its location to `merged`."""
    declaration, settings = TABLES[table], catalog.settings
    query = f"{view_sql(table, [file.file_path for file in group])} ORDER BY {', '.join(declaration.sort_by)}"
    folder = group[0].file_path.rpartition("/")[0]
    rows = 0
    with duckdb.connect(config=_limits(catalog)) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        register_storage(connection, catalog.storage.file_system)
        file: ParquetFile | None = None
        try:
            for batch in connection.sql(query).to_arrow_reader(ROW_GROUP):
                part = conform(pa.Table.from_batches([batch]), declaration)
                if file is None:
                    file = ParquetFile(
                        catalog.storage, folder, part.schema, declaration, settings.compression, packed=True
                    )
                    merged.append(file.location)
                file.write(part)
                rows += part.num_rows
            if file is not None:
                file.close()
        except BaseException:
            if file is not None:
                file.abandon()
            raise
    expected = sum(file.record_count for file in group)
    if rows != expected:
        raise StateError(
            f"expected {expected} rows in {len(group)} files of {table}, read {rows}; nothing was changed, "
            "check the disk"
        )


def _limits(catalog: LakeCatalog) -> dict[str, str | bool | int | float | list[str]]:
    return {
        "memory_limit": f"{catalog.settings.compaction_memory >> 20}MiB",
        "temp_directory": str(catalog.spill_folder),
        "preserve_insertion_order": "true",
    }


def expire(catalog: LakeCatalog, table: str, keep_last: int, *, delete_data: bool = True) -> int:
    """Expire all but the newest snapshots (and those of branches and tags); returns how many files were deleted.

    A file is deleted if only expired snapshots name it. Without `delete_data`, only metadata is deleted: data files
    that a compaction replaced stay for readers that planned with them, and become orphans.

    The positions survive: if no kept snapshot carries them, an empty one that does is committed first.
    """
    current = catalog.load(table)
    kept = _kept(current, keep_last)
    carrier = carrier_of(current)
    if carrier is not None and carrier.snapshot_id not in kept:
        current = catalog.commit(table, add_nothing)
        kept = _kept(current, keep_last)
    forgotten = [snapshot for snapshot in current.snapshots() if snapshot.snapshot_id not in kept]
    if not forgotten:
        return 0
    before = _Reachable(current, forgotten)
    after = catalog.forget(table, [snapshot.snapshot_id for snapshot in forgotten])
    # Files of concurrent commits are new, or reachable from the newest snapshot that was kept.
    needed = _Reachable(after, after.snapshots())
    gone = (before.metadata - needed.metadata) | (
        before.data(needed.manifests) - needed.data() if delete_data else set()
    )
    return catalog.storage.remove(gone)


def _kept(table: Table, keep_last: int) -> set[int]:
    newest = sorted(table.snapshots(), key=lambda snapshot: snapshot.sequence_number or 0)[-keep_last:]
    return {snapshot.snapshot_id for snapshot in newest} | {ref.snapshot_id for ref in table.refs().values()}


class _Reachable:
    """Files that the given snapshots name."""

    def __init__(self, table: Table, snapshots: Iterable[Snapshot]) -> None:
        self._io = table.io
        self.manifests: dict[str, ManifestFile] = {}
        self.metadata: set[str] = set()
        """Manifest lists and manifests."""
        for snapshot in snapshots:
            self.metadata.add(snapshot.manifest_list)
            self.manifests.update({manifest.manifest_path: manifest for manifest in snapshot.manifests(self._io)})
        self.metadata |= self.manifests.keys()

    def data(self, besides: Collection[str] = ()) -> set[str]:
        """Data files, except those of some manifests."""
        return {
            entry.data_file.file_path
            for path, manifest in self.manifests.items()
            if path not in besides
            for entry in manifest.fetch_manifest_entry(self._io, discard_deleted=True)
        }


def find_orphans(catalog: LakeCatalog, table: LakeTable, older_than: timedelta, clock: Clock) -> list[str]:
    """Files of a table that no snapshot names, e.g. those of a commit that crashed.

    Files younger than `older_than` are excluded: they may belong to a running commit.
    """
    newest = clock.now_ms() / 1000 - older_than.total_seconds()
    # Listed before the table is loaded: the list lacks the files of later commits.
    listing = catalog.storage.listing(catalog.location(table))
    old = [location for location, modified in sorted(listing) if modified < newest]
    current = catalog.load(table)
    reachable = _Reachable(current, current.snapshots())
    named = reachable.metadata | reachable.data() | {current.metadata_location}
    named |= {entry.metadata_file for entry in current.metadata.metadata_log}
    return [location for location in old if location not in named]
