"""Arrow IPC payloads: the format in which shopstream's own writers send many events in one record."""

import re
from collections.abc import Callable

import pyarrow as pa

from shopstream.events.schema import EVENT_FIELDS, WIRE_SCHEMA
from shopstream.events.text import read_times
from shopstream.events.validation import EventValues, Fault, Reason, RowError, read_values

MARKER = b"\xff\xff\xff\xff"
"""First bytes of an Arrow IPC stream."""

_TEXT = pa.dictionary(pa.int32(), pa.string())

ENCODED_SCHEMA: pa.Schema = pa.schema(
    [pa.field(f.name, _TEXT if f.arrow == pa.string() else f.arrow, nullable=True) for f in EVENT_FIELDS]
)
"""`WIRE_SCHEMA` with dictionary-encoded text, as on the wire and in the decoder's output."""

_DAMAGED = (pa.ArrowException, OSError, ValueError, ArithmeticError, MemoryError, KeyError)
"""Errors that Arrow raises on damaged bytes (UnicodeError is a ValueError)."""

_ZONE = re.compile(r"[A-Za-z0-9_+:/-]{1,64}")
_PLAUSIBLE = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_boolean,
    pa.types.is_date,
    pa.types.is_null,
)

_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_READ = pa.ipc.IpcReadOptions(use_threads=False)

ArrowBlock = tuple[pa.Table, list[int] | range, dict[int, Fault]]
"""Events in `ENCODED_SCHEMA`, the row of each, and row → fault."""


def encode_arrow(events: pa.Table) -> bytes:
    """One IPC stream: lz4, dictionary-encoded text, without empty columns.

    The caller keeps the result within the stream's limit for a record.
    """
    names = [f.name for f in EVENT_FIELDS if f.name in events.column_names and events[f.name].null_count < len(events)]
    columns = []
    for name in names:
        column = events[name].combine_chunks()
        if column.type == pa.string():
            column = column.dictionary_encode()
        elif pa.types.is_dictionary(column.type):
            used = column.indices.dictionary_encode()  # drops entries that no row uses
            column = pa.DictionaryArray.from_arrays(used.indices, column.dictionary.take(used.dictionary))
        columns.append(column)
    table = pa.table(columns, schema=pa.schema([ENCODED_SCHEMA.field(name) for name in names]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_OPTIONS) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def read_payload(payload: bytes) -> ArrowBlock:
    """Read one IPC stream.

    Raises:
        RowError: the payload as a whole is damaged.
    """
    try:
        table = _known_columns(pa.ipc.open_stream(pa.py_buffer(payload), options=_READ).read_all())
        table.validate(full=True)  # bytes from outside: no offset or index may point out of its buffer
        return conform(table)
    except _DAMAGED as error:
        raise RowError(
            Reason.MALFORMED_ARROW,
            f"expected an Arrow IPC stream, got {len(payload)} damaged bytes ({str(error)[:200]}); send it again",
        ) from error


def _known_columns(table: pa.Table) -> pa.Table:
    """The columns of an event.

    Raises:
        ArrowInvalid: a column has a type that no field can come in. A damaged schema message can declare types, such as
            a decimal of scale 10^9, on which Arrow's own conversions never return.
    """
    known = table.select([name for name in dict.fromkeys(table.column_names) if name in WIRE_SCHEMA.names])
    for field in known.schema:
        if not _is_plausible(_value_type(field.type)):
            raise pa.ArrowInvalid(f"column {field.name} has a type no event field can come in")
    return known


def _is_plausible(kind: pa.DataType) -> bool:
    if pa.types.is_decimal(kind):
        return bool(0 <= kind.scale <= kind.precision)
    if pa.types.is_timestamp(kind):
        return kind.tz is None or bool(_ZONE.fullmatch(kind.tz))
    return any(test(kind) for test in _PLAUSIBLE)


def row_source(payload: bytes) -> Callable[[int], bytes]:
    """For a readable payload: index → that row as its own stream, in its producer's types without dictionaries."""
    table = _known_columns(pa.ipc.open_stream(pa.py_buffer(payload), options=_READ).read_all())
    plain = [field.with_type(_value_type(field.type)) for field in table.schema]

    def row_bytes(place: int) -> bytes:
        row = table.slice(place, 1).cast(pa.schema(plain))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, row.schema) as writer:
            writer.write_table(row)
        return bytes(sink.getvalue())

    return row_bytes


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def conform(table: pa.Table) -> ArrowBlock:
    """Convert a table of any producer to `ENCODED_SCHEMA`; row by row if a column does not convert exactly."""
    try:
        return _conform_columns(table), range(len(table)), {}
    except (pa.ArrowException, KeyError, UnicodeError, ArithmeticError):  # single rows show the reason
        return _conform_rows(table)


def _conform_columns(table: pa.Table) -> pa.Table:
    arrays = []
    for field in ENCODED_SCHEMA:
        places = table.schema.get_all_field_indices(field.name)
        if not places and WIRE_SCHEMA.field(field.name).nullable:
            arrays.append(pa.nulls(len(table), field.type))
            continue
        (place,) = places or [None]
        if place is None:
            raise KeyError(field.name)
        arrays.append(_conform_column(table.column(place), field.type))
    return pa.table(arrays, schema=ENCODED_SCHEMA)


def _conform_column(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    if wanted == _TEXT:
        if column.type == _TEXT and not any(_has_blank(chunk.dictionary) for chunk in column.chunks):
            return column
        texts = column.cast(pa.string())
        return pa.compute.if_else(pa.compute.equal(texts, ""), None, texts).dictionary_encode()
    if column.type == wanted:
        return column
    if pa.types.is_string(column.type) and pa.types.is_timestamp(wanted):
        return read_times(column)
    if pa.types.is_floating(column.type):
        # The shortest text of a float is what its producer meant: 489.07, not 489.06999999999999.
        column = column.cast(pa.string())
    elif pa.types.is_timestamp(column.type) and column.type.tz is None:
        column = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())  # no zone: UTC
    elif pa.types.is_timestamp(column.type):
        return column.cast(wanted, safe=False)  # nanoseconds are cut
    elif not (pa.types.is_integer(column.type) or pa.types.is_decimal(column.type)):
        raise pa.ArrowInvalid(f"{column.type} has no direct way to {wanted}")
    return column.cast(wanted)


def _has_blank(texts: pa.Array) -> bool:
    return bool(texts.null_count > 0 or pa.compute.index(texts, "").as_py() >= 0)


def _conform_rows(table: pa.Table) -> ArrowBlock:
    rows: list[EventValues] = []
    kept: list[int] = []
    faults: dict[int, Fault] = {}
    for place in range(len(table)):
        try:
            rows.append(read_values(_values(table.slice(place, 1))))
            kept.append(place)
        except RowError as error:
            faults[place] = error.fault
    return _conform_columns(pa.Table.from_pylist(rows, schema=WIRE_SCHEMA)), kept, faults


def _values(row: pa.Table) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, column in zip(row.column_names, row.columns, strict=True):
        if name in WIRE_SCHEMA.names:
            try:
                values[name] = column[0].as_py()
            except (ValueError, ArithmeticError, pa.ArrowException):
                values[name] = str(column[0])  # out of Python's range: validated, and rejected, as text
    return values
