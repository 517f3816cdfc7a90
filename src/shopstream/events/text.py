"""Reads CSV and JSON lines into columns.

A row is a line: a stray quote or a truncated end affects its own line only. Arrow's parsers read a block of lines at
once; a block with a fault is halved until few lines are left, which `events.validation` reads one by one to find the
reason. One bad line in a million costs some twenty extra parses of ever smaller blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from shopstream.events.columns import REES46_COLUMNS
from shopstream.events.schema import EVENT_FIELDS, PRICE_TYPE, WIRE_SCHEMA
from shopstream.events.validation import EventValues, Fault, RowError, read_csv_line, read_json_line

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_FEW = 64
_BLOCK_BYTES = 1 << 20
_WINDOW_BYTES = 1 << 18  # stays in the processor's cache
_LOWER_CASE, _SMALL_X, _ZERO = 0x20, ord("x"), ord("0")
_FAULTS = (pa.ArrowException, UnicodeError, OverflowError)
_SHORTEST_TIME = len("2019-11-01 00:00:00")
_UTC_SUFFIX = " UTC"
_INTEGERS_AS_TEXT_OR_NUMBER = pa.decimal128(20, 0)
_NAMES = frozenset(WIRE_SCHEMA.names)
_JSON_SCHEMA = pa.schema(
    [
        (
            f.name,
            pa.string()
            if f.name == "event_time"
            else _INTEGERS_AS_TEXT_OR_NUMBER
            if f.arrow == pa.int64()
            else f.arrow,
        )
        for f in EVENT_FIELDS
    ]
)
_JSON_PARSE = pa.json.ParseOptions(explicit_schema=_JSON_SCHEMA, unexpected_field_behavior="ignore")
_CSV_TYPES = {
    f.name: pa.int64() if f.arrow == pa.int64() else PRICE_TYPE if f.arrow == PRICE_TYPE else pa.string()
    for f in EVENT_FIELDS
}


@dataclass(frozen=True, slots=True)
class TextBlock:
    """Events and faults of text payloads of one layout.

    Args:
        events: `WIRE_SCHEMA` columns, `event_id` null where the tracker sent none.
        counts: rows (events and faults) of each payload.
        kept: the row that each event came from, ascending; None: all rows.
        faults: row → fault and line.
    """

    events: pa.Table
    counts: list[int]
    kept: list[int] | None
    faults: dict[int, tuple[Fault, bytes]]


def event_lines(body: bytes) -> list[bytes]:
    """Lines that are not blank, without their line ends."""
    lines = body.split(b"\n")
    if b"\r" in body:
        lines = [line.removesuffix(b"\r") for line in lines]
    return list(filter(None, lines))


def body_of(payload: bytes) -> tuple[bytes, tuple[str, ...] | None]:
    """A text payload without byte order mark and header, and its CSV columns (None: JSON lines)."""
    text = payload.removeprefix(BYTE_ORDER_MARK).lstrip(b"\r\n")
    if text.lstrip().startswith(b"{"):
        return text, None
    end = text.find(b"\n")
    first = text if end < 0 else text[:end]
    header = csv_columns(first.removesuffix(b"\r"))
    if header is None:
        return text, REES46_COLUMNS
    return (b"" if end < 0 else text[end + 1 :]), header


def csv_columns(first_line: bytes) -> tuple[str, ...] | None:
    """Columns of a header line, which names `event_time`; None for a line of data."""
    if b"event_time" not in first_line:
        return None
    names = tuple(part.strip(' \t"') for part in first_line.decode("utf-8", "replace").split(","))
    return names if "event_time" in names else None


def read_block(bodies: Sequence[bytes], columns: tuple[str, ...] | None) -> TextBlock:
    """Read text payloads of one layout.

    Args:
        bodies: from `body_of`.
        columns: CSV columns in order; None reads JSON lines.
    """
    text = b"".join([body if body.endswith(b"\n") or not body else body + b"\n" for body in bodies])
    if b"\r" not in text:
        counts = [body.count(b"\n") + (not body.endswith(b"\n") and body != b"") for body in bodies]
        try:
            return TextBlock(_read_at_once(text, sum(counts), columns), counts, None, {})
        except _FAULTS:
            pass  # blank lines or faults: line by line
    lines = [event_lines(body) for body in bodies]
    events, kept, faults = _read_by_halves(list(chain.from_iterable(lines)), columns)
    return TextBlock(events, [len(part) for part in lines], kept, faults)


def _read_by_halves(
    lines: Sequence[bytes], columns: tuple[str, ...] | None
) -> tuple[pa.Table, list[int], dict[int, tuple[Fault, bytes]]]:
    tables: list[pa.Table] = [WIRE_SCHEMA.empty_table()]
    kept: list[int] = []
    faults: dict[int, tuple[Fault, bytes]] = {}
    spans = [(0, len(lines))]
    while spans:
        start, end = spans.pop()
        try:
            tables.append(_read_at_once(b"\n".join(lines[start:end]) + b"\n", end - start, columns))
            kept.extend(range(start, end))
        except _FAULTS:  # smaller blocks show which line, and why
            if end - start > _FEW:
                middle = (start + end) // 2
                spans += [(middle, end), (start, middle)]
                continue
            rows: list[EventValues] = []
            for place in range(start, end):
                line = lines[place]
                try:
                    rows.append(read_json_line(line) if columns is None else read_csv_line(line, columns))
                    kept.append(place)
                except RowError as error:
                    faults[place] = error.fault, line
            tables.append(pa.Table.from_pylist(rows, schema=WIRE_SCHEMA))
    return pa.concat_tables(tables), kept, faults


def _read_at_once(text: bytes, count: int, columns: tuple[str, ...] | None) -> pa.Table:
    """All lines as columns.

    Raises:
        ArrowInvalid: a line has a fault, or a form that only `events.validation` can read.
    """
    raw = _read_json(text, count) if columns is None else _read_csv(text, columns)
    if raw.num_rows != count:
        raise pa.ArrowInvalid("lines and rows differ")
    arrays = []
    for column in WIRE_SCHEMA:
        if column.name not in raw.column_names:
            if not column.nullable:
                raise pa.ArrowInvalid(f"no column {column.name}")
            arrays.append(pa.nulls(count, column.type))
            continue
        values = raw[column.name]
        if not column.nullable and values.null_count:
            raise pa.ArrowInvalid(f"{column.name} is required")
        if column.name == "event_time":
            values = read_times(values)
        elif values.type != column.type:
            values = values.cast(column.type)
        elif columns is None and values.type == pa.string() and pc.any(pc.equal(values, "")).as_py():
            raise pa.ArrowInvalid("empty text means null")
        arrays.append(values)
    return pa.table(arrays, schema=WIRE_SCHEMA)


def _read_csv(text: bytes, columns: tuple[str, ...]) -> pa.Table:
    if b'"' in text or b"\r" in text or _has_hexadecimal(text) or len(set(columns)) != len(columns):
        raise pa.ArrowInvalid("quotes, lone carriage returns and hexadecimal numbers are read line by line")
    return pa.csv.read_csv(
        pa.BufferReader(text),
        read_options=pa.csv.ReadOptions(column_names=list(columns), block_size=_BLOCK_BYTES),
        parse_options=pa.csv.ParseOptions(quote_char=False),
        convert_options=pa.csv.ConvertOptions(
            column_types=_CSV_TYPES,
            null_values=[""],
            strings_can_be_null=True,
            include_columns=[name for name in columns if name in _NAMES],
        ),
    )


def _has_hexadecimal(text: bytes) -> bool:
    """Whether the text contains 0x or 0X; five times as fast as two searches, which took a tenth of a bulk load."""
    codes = np.frombuffer(text, np.uint8)
    for start in range(0, len(codes), _WINDOW_BYTES):
        window = codes[start : start + _WINDOW_BYTES + 1]
        if (((window[1:] | _LOWER_CASE) == _SMALL_X) & (window[:-1] == _ZERO)).any():
            return True
    return False


def _read_json(text: bytes, count: int) -> pa.Table:
    if not (text.startswith(b"{") and text.endswith(b"}\n") and text.count(b"}\n{") == count - 1):
        raise pa.ArrowInvalid("a line is not an object")
    text.decode()  # Arrow's JSON parser does not check the encoding
    return pa.json.read_json(
        pa.BufferReader(text),
        read_options=pa.json.ReadOptions(block_size=_BLOCK_BYTES),
        parse_options=_JSON_PARSE,
    )


def read_times(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts of event times as timestamps.

    Raises:
        ArrowInvalid: a text is not a time, or has a form that only `events.validation` can read.
    """
    lengths = pc.min_max(pc.binary_length(values)).as_py()
    if lengths["min"] is not None and lengths["min"] < _SHORTEST_TIME:
        raise pa.ArrowInvalid("short times are read line by line")
    # One-second times repeat: parse each distinct text once.
    encoded = values.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    texts = encoded.dictionary
    moments = _parse_times(texts)
    return pa.chunked_array([moments.take(encoded.indices)])


def _parse_times(texts: pa.Array) -> pa.Array:
    if pc.all(pc.ends_with(texts, _UTC_SUFFIX)).as_py():
        plain = pc.utf8_slice_codeunits(texts, 0, -len(_UTC_SUFFIX))
        return plain.cast(pa.timestamp("us")).cast(pa.int64()).cast(WIRE_SCHEMA.field("event_time").type)
    texts = pc.replace_substring_regex(texts, " ?UTC$", "Z")
    zoned = pc.match_substring_regex(texts, r"(Z|[+-]\d\d(:?\d\d)?)$")
    return pc.if_else(zoned, texts, pc.binary_join_element_wise(texts, "Z", "")).cast(
        WIRE_SCHEMA.field("event_time").type
    )
