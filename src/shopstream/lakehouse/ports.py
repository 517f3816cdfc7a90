"""The port of the lakehouse: tables whose commits are snapshots that name the sequence numbers they hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa
    from fsspec import AbstractFileSystem


class LakeTable(StrEnum):
    """The tables of the lakehouse."""

    EVENTS = "events"
    DEAD_LETTERS = "dead_letters"
    DETECTIONS = "detections"


@dataclass(frozen=True, slots=True)
class TableStatus:
    """Size and health of one table."""

    table: str
    rows: int
    data_files: int
    bytes: int
    snapshots: int
    current_snapshot_id: int | None
    positions: Mapping[str, int]


class LakeReader(Protocol):
    """Names the files of tables, for DuckDB."""

    @property
    def file_system(self) -> "AbstractFileSystem | None":
        """The file system through which DuckDB reads `data_files`; None if DuckDB reads them itself."""
        ...

    def data_files(self, table: LakeTable) -> list[str]:
        """Parquet files of the current snapshot, for readers without Iceberg support."""
        ...


class Lakehouse(LakeReader, Protocol):
    """Stores rows permanently, in a format that other programs read."""

    def append(
        self,
        table: LakeTable,
        rows: "pa.Table",
        positions: Mapping[str, int],
        *,
        after: Mapping[str, int] | None = None,
    ) -> None:
        """Commit rows as one snapshot that carries `positions` (shard id → last sequence number it holds).

        The caller skips rows that `positions()` already covers. Rows may be empty: the positions still advance.

        With `after`, the table must hold exactly these positions for the shards in `positions` (a missing shard: none)
        at the time of the commit; otherwise another worker has committed, and a StateError is raised.
        """
        ...

    def positions(self, table: LakeTable) -> dict[str, int]:
        """Shard id → last sequence number the table holds, over all its snapshots so far."""
        ...

    def status(self) -> list[TableStatus]:
        """One row per table."""
        ...

    def compact(self, table: LakeTable) -> int:
        """Merge small files inside each partition; returns by how many files the table shrank."""
        ...

    def expire(self, table: LakeTable, keep_last: int) -> int:
        """Expire all but the newest snapshots, and delete files that only they need; returns the number of files.

        The positions survive.
        """
        ...
