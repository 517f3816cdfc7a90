"""CSV and JSON lines to columns.

A row is a line: a stray quote or a cut end spoils its own line, never its neighbours. A block of lines is read by
Arrow's parsers at once; a block that does not fit is halved until few lines are left, and those are read one by one
by `events.rows`, which knows the reason. One bad line in a million costs some twenty extra parses of ever smaller
blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from shopstream.events.rows import Row, RowError, read_csv_line, read_json_line
from shopstream.events.schema import EVENT_FIELDS, PRICE_TYPE, REES46_COLUMNS, WIRE_SCHEMA
from shopstream.events.validation import Fault

__all__ = ["BYTE_ORDER_MARK", "TextBlock", "csv_columns", "event_lines", "read_block"]

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_FEW = 64
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


@dataclass(slots=True)
class TextBlock:
    """What came of a sequence of lines.

    Args:
        events: `WIRE_SCHEMA` columns, `event_id` null where the tracker sent none.
        lines: index of the line each event came from, ascending.
        faults: line index → why it is no event.
    """

    events: pa.Table
    lines: list[int] | range
    faults: dict[int, Fault] = field(default_factory=dict)


def event_lines(payload: bytes) -> list[bytes]:
    """Lines that are not blank, without line ends and byte order mark."""
    text = payload.removeprefix(BYTE_ORDER_MARK)
    lines = text.split(b"\n")
    if b"\r" in text:
        lines = [line.removesuffix(b"\r") for line in lines]
    return list(filter(None, lines))


def csv_columns(first_line: bytes) -> tuple[str, ...] | None:
    """Columns that a header line names, or None when the line is data: a header names `event_time`."""
    if b"event_time" not in first_line:
        return None
    names = tuple(part.strip(' \t"') for part in first_line.decode("utf-8", "replace").split(","))
    return names if "event_time" in names else None


def read_block(lines: Sequence[bytes], columns: tuple[str, ...] | None) -> TextBlock:
    """Read lines of one layout.

    Args:
        lines: as `event_lines` gives them, without a header.
        columns: CSV columns in order (`REES46_COLUMNS` without a header); None reads JSON lines.
    """
    tables: list[pa.Table] = []
    kept: list[int] = []
    faults: dict[int, Fault] = {}
    spans = [(0, len(lines))]
    while spans:
        start, end = spans.pop()
        try:
            tables.append(_read_at_once(lines[start:end], columns))
            kept.extend(range(start, end))
        except (pa.ArrowException, UnicodeError, OverflowError):  # the reason is found line by line
            if end - start > _FEW:
                middle = (start + end) // 2
                spans += [(middle, end), (start, middle)]
                continue
            rows: list[Row] = []
            for place in range(start, end):
                try:
                    rows.append(
                        read_json_line(lines[place]) if columns is None else read_csv_line(lines[place], columns)
                    )
                    kept.append(place)
                except RowError as error:
                    faults[place] = error.fault
            tables.append(pa.Table.from_pylist(rows, schema=WIRE_SCHEMA))
    events = pa.concat_tables(tables) if tables else WIRE_SCHEMA.empty_table()
    return TextBlock(events, kept if faults else range(len(lines)), faults)


def _read_at_once(lines: Sequence[bytes], columns: tuple[str, ...] | None) -> pa.Table:
    """All lines as columns.

    Raises:
        ArrowInvalid: a line does not fit, or has a form whose meaning `events.rows` alone decides.
    """
    text = b"\n".join(lines)
    raw = _read_json(text, lines) if columns is None else _read_csv(text, columns)
    if raw.num_rows != len(lines):
        raise pa.ArrowInvalid("lines and rows differ")
    arrays = []
    for column in WIRE_SCHEMA:
        if column.name not in raw.column_names:
            if not column.nullable:
                raise pa.ArrowInvalid(f"no column {column.name}")
            arrays.append(pa.nulls(len(lines), column.type))
            continue
        values = raw[column.name]
        if not column.nullable and values.null_count:
            raise pa.ArrowInvalid(f"{column.name} is required")
        if column.name == "event_time":
            values = _times(values)
        elif values.type != column.type:
            values = values.cast(column.type)
        elif columns is None and values.type == pa.string() and pc.any(pc.equal(values, "")).as_py():
            raise pa.ArrowInvalid("empty text means null")
        arrays.append(values)
    return pa.table(arrays, schema=WIRE_SCHEMA)


def _read_csv(text: bytes, columns: tuple[str, ...]) -> pa.Table:
    if b'"' in text or b"\r" in text or b"0x" in text or b"0X" in text or len(set(columns)) != len(columns):
        raise pa.ArrowInvalid("quotes, lone carriage returns and hexadecimal numbers are read line by line")
    return pa.csv.read_csv(
        pa.BufferReader(text),
        read_options=pa.csv.ReadOptions(column_names=list(columns), block_size=max(1 << 20, _longest_block(text))),
        parse_options=pa.csv.ParseOptions(quote_char=False),
        convert_options=pa.csv.ConvertOptions(
            column_types=_CSV_TYPES,
            null_values=[""],
            strings_can_be_null=True,
            include_columns=[name for name in columns if name in _NAMES],
        ),
    )


def _read_json(text: bytes, lines: Sequence[bytes]) -> pa.Table:
    if not all(line[:1] == b"{" and line[-1:] == b"}" for line in lines):
        raise pa.ArrowInvalid("a line is no object")
    text.decode()  # Arrow's JSON parser does not look at the encoding
    return pa.json.read_json(
        pa.BufferReader(text),
        read_options=pa.json.ReadOptions(block_size=max(1 << 20, _longest_block(text))),
        parse_options=_JSON_PARSE,
    )


def _longest_block(text: bytes) -> int:
    """Arrow refuses a line longer than a block; a small payload is one block."""
    return min(len(text) + 1, 1 << 24)


def _times(values: pa.ChunkedArray) -> pa.ChunkedArray:
    lengths = pc.min_max(pc.binary_length(values)).as_py()
    if lengths["min"] is not None and lengths["min"] < _SHORTEST_TIME:
        raise pa.ArrowInvalid("short times are read line by line")
    # One-second times repeat: parse each distinct text once.
    encoded = values.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    texts = encoded.dictionary
    moments = _moments(texts)
    return pa.chunked_array([moments.take(encoded.indices)])


def _moments(texts: pa.Array) -> pa.Array:
    if pc.all(pc.ends_with(texts, _UTC_SUFFIX)).as_py():
        plain = pc.utf8_slice_codeunits(texts, 0, -len(_UTC_SUFFIX))
        return plain.cast(pa.timestamp("us")).cast(pa.int64()).cast(WIRE_SCHEMA.field("event_time").type)
    texts = pc.replace_substring_regex(texts, " ?UTC$", "Z")
    zoned = pc.match_substring_regex(texts, r"(Z|[+-]\d\d(:?\d\d)?)$")
    return pc.if_else(zoned, texts, pc.binary_join_element_wise(texts, "Z", "")).cast(
        WIRE_SCHEMA.field("event_time").type
    )


DEFAULT_CSV_COLUMNS = REES46_COLUMNS
