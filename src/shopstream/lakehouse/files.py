"""Files of the lakehouse: where they are stored, and how rows become Parquet."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock
from fsspec import AbstractFileSystem

from shopstream.errors import PermanentError, RetryableError
from shopstream.lakehouse.ports import LakeTable
from shopstream.lakehouse.tables import TABLES, TableDeclaration


class Storage(Protocol):
    """Immutable files by location: an absolute path, or a URL such as s3://bucket/key."""

    @property
    def file_system(self) -> AbstractFileSystem | None:
        """The file system through which DuckDB reads the files; None if DuckDB reads them itself."""
        ...

    def draft(self, location: str) -> Path:
        """Local path to write a file to before `keep`; its folder exists."""
        ...

    def keep(self, draft: Path, location: str) -> None:
        """Store a finished draft at that location, whole and durable."""
        ...

    def remove(self, locations: Iterable[str]) -> int:
        """Delete files; returns how many. A missing file is not an error."""
        ...

    def listing(self, folder: str) -> Iterator[tuple[str, float]]:
        """Every file below a folder: (location, time of its last change in s since 1970)."""
        ...


@contextmanager
def locked(path: Path, message: str) -> Iterator[None]:
    """Hold a lock file without waiting for it.

    Raises:
        RetryableError: another process holds it; with that message.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except TimeoutError as error:
        raise RetryableError(message) from error
    try:
        yield
    finally:
        lock.release()


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
        rows = rows.unify_dictionaries()  # the Parquet writer gives up a dictionary that changes midway
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
    """Whether a dictionary is worth keeping: each row group stores all of it, used or not."""
    if not (pa.types.is_dictionary(column.type) and column.type.value_type == text):
        return False
    return column.num_chunks > 0 and len(column.chunk(0).dictionary) <= max(len(column) // 2, 64)


def by_day(rows: pa.Table, column: str) -> Iterator[tuple[int, pa.Table]]:
    """Rows of each UTC day, as (days since 1970, rows)."""
    times = rows.column(column).cast(pa.int64())
    bounds = pc.min_max(times)
    first, last = (bounds[name].as_py() // _DAY_US for name in ("min", "max"))
    if first == last:
        yield first, rows
        return
    days = pc.floor(pc.divide(times.cast(pa.float64()), float(_DAY_US))).cast(pa.int32())
    for day in sorted(pc.unique(days).to_pylist()):
        yield day, rows.filter(pc.equal(days, day))


def _day_folder(data: str, column: str, day: int) -> str:
    """Folder of one day's files; the name helps people, readers do not depend on it."""
    date = datetime.fromtimestamp(0, UTC) + timedelta(days=day)
    return f"{data}/{column}_day={date:%Y-%m-%d}"


class ParquetFile:
    """A file being written; rows may come in several pieces of one schema.

    Args:
        storage: stores the file.
        folder: folder of the file, whose name is random.
        schema: of the rows, see `conform`.
        declaration: of the table.
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

    def close(self) -> None:
        """Finish and store the file."""
        self._writer.close()
        self._storage.keep(self._draft, self.location)

    def abandon(self) -> None:
        """Drop the unfinished file."""
        self._writer.close()
        self._draft.unlink(missing_ok=True)


def _is_number(field: pa.Field) -> bool:
    kind = field.type
    return not (pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_binary(kind))


def write_file(rows: pa.Table, storage: Storage, folder: str, declaration: TableDeclaration, compression: str) -> str:
    """Write rows that `conform` to one Parquet file; returns its location. Only a commit makes it part of a table."""
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
    """Writes rows of the tables to files that a commit adds later; can be pickled for other machines.

    Args:
        root: folder or URL under which each table has a folder.
        storage: the files.
        compression: codec.
    """

    root: str
    storage: Storage
    compression: str

    def write(self, table: LakeTable, rows: pa.Table) -> list[str]:
        """Write one file for each partition; returns their locations.

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
            parts = [(_day_folder(data, column, day), part) for day, part in by_day(rows, column)]
        return [write_file(part, self.storage, folder, declaration, self.compression) for folder, part in parts]
