"""Where the files of the tables lie: the few things that local folders and S3 do differently.

Parquet files of the lakehouse: how rows become files, fast.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from shopstream.errors import PermanentError
from shopstream.lakehouse.ports import LakeTable
from shopstream.lakehouse.tables import TABLES, TableDeclaration

__all__ = ["ROW_GROUP", "FileWriter", "ParquetFile", "Storage", "by_day", "conform", "day_folder", "write_file"]


class Storage(Protocol):
    """Files by location: an absolute path, or a URL such as s3://bucket/key. A file never changes once it is there."""

    @property
    def file_system(self) -> AbstractFileSystem | None:
        """What DuckDB reads the files with; None where it does so by itself."""
        ...

    def draft(self, location: str) -> Path:
        """Local path to write a file to before `keep`; its folder is there."""
        ...

    def keep(self, draft: Path, location: str) -> int:
        """Make a finished draft the file at that location, whole and durable; bytes it has."""
        ...

    def remove(self, locations: Iterable[str]) -> int:
        """Delete files that nothing needs; returns how many. One that is gone already is no error."""
        ...

    def listing(self, folder: str) -> Iterator[tuple[str, float]]:
        """Every file below a folder, by location: (location, time of its last change in s since 1970)."""
        ...


_DAY_US = 86_400_000_000
ROW_GROUP = 524_288
"""Rows of a row group: readers work on row groups in parallel."""

_DICTIONARY_BYTES = 8 << 20
"""Sessions repeat: their dictionary may be large."""

_PLAIN_INTEGERS = frozenset({"event_time", "arrival_time", "product_id", "category_id", "user_id"})
"""Delta-encoded: half the work of a dictionary for columns of many values, and smaller."""


def conform(rows: pa.Table, declaration: TableDeclaration) -> pa.Table:
    """Rows with the declared columns in order, field ids and nullability; dictionary-encoded text stays so.

    Raises:
        PermanentError: a column is missing, or null where it must not be.
    """
    if any(pa.types.is_dictionary(field.type) for field in rows.schema):
        rows = rows.unify_dictionaries()  # a dictionary that changes midway makes the Parquet writer give it up
    columns, fields = [], []
    for field in declaration.arrow():
        place = rows.schema.get_field_index(field.name)
        if place < 0:
            raise PermanentError(
                f"expected column {field.name} for the lakehouse table {declaration.table}, got {rows.column_names}; "
                "add it (null where there is no value)"
            )
        column = rows.column(place)
        if not field.nullable and column.null_count:
            raise PermanentError(
                f"expected no null in {declaration.table}.{field.name}, got {column.null_count}; "
                "such rows belong to the dead letters"
            )
        fits = column.type == field.type or _is_frugal(column, field.type)
        try:
            columns.append(column if fits else column.cast(field.type))
        except pa.ArrowException as error:
            raise PermanentError(
                f"expected {field.type} in {declaration.table}.{field.name}, got {column.type}: {error}; convert it"
            ) from error
        fields.append(field.with_type(columns[-1].type))
    return pa.table(columns, schema=pa.schema(fields))


def _is_frugal(column: pa.ChunkedArray, text: pa.DataType) -> bool:
    """Whether a dictionary is worth keeping: all of it goes into each row group, also what a slice does not use."""
    if not (pa.types.is_dictionary(column.type) and column.type.value_type == text):
        return False
    return column.num_chunks > 0 and len(column.chunk(0).dictionary) <= max(len(column) // 2, 64)


def by_day(rows: pa.Table, column: str) -> Iterator[tuple[int, pa.Table]]:
    """Rows of each UTC day, as (days since 1970, rows); in one piece where there is but one day."""
    times = rows.column(column).cast(pa.int64())
    bounds = pc.min_max(times)
    first, last = (bounds[name].as_py() // _DAY_US for name in ("min", "max"))
    if first == last:
        yield first, rows
        return
    days = pc.floor(pc.divide(times.cast(pa.float64()), float(_DAY_US))).cast(pa.int32())
    for day in sorted(pc.unique(days).to_pylist()):
        yield day, rows.filter(pc.equal(days, day))


def day_folder(data: str, column: str, day: int) -> str:
    """Folder of one day's files; readers do not depend on the name, people like it."""
    date = datetime.fromtimestamp(0, UTC) + timedelta(days=day)
    return f"{data}/{column}_day={date:%Y-%m-%d}"


class ParquetFile:
    """A file being written; rows may come in several pieces of one schema.

    Args:
        storage: where it will lie.
        folder: the folder it will lie in, under a name of its own.
        schema: of the rows, see `conform`.
        declaration: the table it is for.
        compression: codec.
        packed: compress event ids too.
    """

    def __init__(
        self,
        storage: Storage,
        folder: str,
        schema: pa.Schema,
        declaration: TableDeclaration,
        compression: str,
        *,
        packed: bool = False,
    ) -> None:
        self.location = f"{folder}/{uuid4().hex}.parquet"
        self._storage = storage
        self._draft = storage.draft(self.location)
        names = [field.name for field in schema]
        codec = dict.fromkeys(names, compression.upper())
        if not packed and "event_id" in codec:
            codec["event_id"] = "NONE"  # 128 random bits as hex: most of the cost of compression for a third off
        text = [f.name for f in schema if f.name != "event_id" and not _is_number(f)]
        self._writer = pq.ParquetWriter(
            self._draft,
            schema,
            compression=codec,
            use_dictionary=text,
            column_encoding={name: "DELTA_BINARY_PACKED" for name in names if name in _PLAIN_INTEGERS},
            write_statistics=[name for name in names if name in declaration.bounds],
            dictionary_pagesize_limit=_DICTIONARY_BYTES,
            store_decimal_as_integer=True,
            store_schema=False,
        )

    def write(self, rows: pa.Table) -> None:
        """Add rows."""
        self._writer.write_table(rows, row_group_size=ROW_GROUP)

    def close(self) -> int:
        """Finish the file and put it where it will lie; bytes it has."""
        self._writer.close()
        return self._storage.keep(self._draft, self.location)

    def abandon(self) -> None:
        """Drop the unfinished file."""
        self._writer.close()
        self._draft.unlink(missing_ok=True)


def _is_number(field: pa.Field) -> bool:
    kind = field.type
    return not (pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_binary(kind))


def write_file(rows: pa.Table, storage: Storage, folder: str, declaration: TableDeclaration, compression: str) -> str:
    """One Parquet file of rows that `conform`; returns its location. Nothing refers to it before a commit does."""
    file = ParquetFile(storage, folder, rows.schema, declaration, compression)
    try:
        file.write(rows)
        file.close()
    except BaseException:
        file.abandon()
        raise
    return file.location


@dataclass(frozen=True, slots=True)
class FileWriter:
    """Writes rows of the tables to files that a commit adds later; goes to other processes and machines.

    Args:
        root: folder or URL under which each table has a folder.
        storage: the files.
        compression: codec.
    """

    root: str
    storage: Storage
    compression: str

    def write(self, table: LakeTable, rows: pa.Table) -> list[str]:
        """One file for each partition; returns their locations.

        Raises:
            PermanentError: a column is missing, of another type, or null where it must not be.
        """
        if not rows.num_rows:
            return []
        declaration = TABLES[table]
        rows = conform(rows, declaration)
        data = f"{self.root}/{table}/data"
        if declaration.day_of is None:
            parts = [(data, rows)]
        else:
            column = declaration.day_of
            parts = [(day_folder(data, column, day), part) for day, part in by_day(rows, column)]
        return [write_file(part, self.storage, folder, declaration, self.compression) for folder, part in parts]
