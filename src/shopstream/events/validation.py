"""Validation: the rules that an event must meet, and the exact reading of a single row.

There are two kinds of fault: bytes that cannot be read as typed values (`read_csv_line`, `read_json_line`,
`read_values`), and typed values that no shop event can have (`first_faults`). Either way, the row becomes a dead letter
with reason, detail and bytes.

The vectorised readers of `events.text` and `events.arrow_ipc` try whole blocks first and use the readers of single rows
only for blocks with faults; both give the same events (a property test compares them).
"""

import csv
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation, localcontext
from enum import StrEnum
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shopstream.events.columns import EventType
from shopstream.events.schema import EVENT_FIELDS


class Reason(StrEnum):
    """Name of the rule that rejected a row, with its meaning; stored in dead letters, so names never change."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:  # noqa: D102  the docstring of the class says it
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    UNKNOWN_FORMAT = "unknown_format", "The payload is empty, or not an Arrow IPC stream, JSON lines or CSV."
    MALFORMED_ARROW = "malformed_arrow", "The payload is a damaged or truncated Arrow IPC stream."
    MALFORMED_CSV = "malformed_csv", "The line has too many or too few fields, or broken quotes."
    MALFORMED_JSON = "malformed_json", "The line is not a JSON object."
    NOT_UTF8 = "not_utf8", "The line is not UTF-8."
    MISSING_FIELD = "missing_field", "A required field is missing or empty."
    BAD_EVENT_TIME = (
        "bad_event_time",
        "The time is not `YYYY-MM-DD hh:mm:ss`, optionally with a fraction and UTC, Z or an offset.",
    )
    EVENT_TIME_TOO_OLD = "event_time_too_old", "The time is before the year 2000."
    EVENT_TIME_IN_FUTURE = "event_time_in_future", "The time is more than one day after the record's arrival."
    UNKNOWN_EVENT_TYPE = "unknown_event_type", "The type is not view, cart, remove_from_cart or purchase."
    BAD_PRODUCT_ID = "bad_product_id", "The product id is not an integer from 0 to 2^63-1."
    BAD_CATEGORY_ID = "bad_category_id", "The category id is not an integer from 0 to 2^63-1."
    BAD_USER_ID = "bad_user_id", "The user id is not an integer from 0 to 2^63-1."
    BAD_PRICE = "bad_price", "The price is not a decimal number."
    NEGATIVE_PRICE = "negative_price", "The price is below zero."
    PRICE_TOO_LARGE = "price_too_large", "The price has more than 14 digits before the point."
    PRICE_TOO_PRECISE = "price_too_precise", "The price has more than four decimals."
    BAD_TEXT = "bad_text", "A text field holds a value that is not text."
    CONTROL_CHARACTER = "control_character", "A text field holds a control character (below U+0020, or U+007F)."
    TEXT_TOO_LONG = "text_too_long", "A text field is longer than its limit."


MAX_TEXT = {"ip": 64, "user_agent": 4096, "url": 8192}
"""Longest value of a text column in bytes of UTF-8; 1,024 for those not named."""

_DEFAULT_MAX_TEXT = 1024
_DAY_US = 86_400_000_000
_OLDEST_US = 946_684_800_000_000  # 2000-01-01
_PRICE_LIMIT = 10**18  # ten-thousandths that decimal(18,4) can hold
_FIRST_PRINTABLE = 0x20
_DELETE = 0x7F

_TEXT = tuple(field.name for field in EVENT_FIELDS if field.arrow == pa.string())
_REQUIRED = tuple(field.name for field in EVENT_FIELDS if field.required)
_IDS = {
    "product_id": Reason.BAD_PRODUCT_ID,
    "category_id": Reason.BAD_CATEGORY_ID,
    "user_id": Reason.BAD_USER_ID,
}
_EVENT_TYPES = pa.array([kind.value for kind in EventType])

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a row was rejected."""

    reason: Reason
    detail: str


def time_us(events: pa.Table) -> npt.NDArray[np.int64]:
    """`event_time` as epoch microseconds; undefined for nulls."""
    return _numbers(events["event_time"], np.int64, 1)


def price_units(events: pa.Table) -> npt.NDArray[np.int64]:
    """`price` in ten-thousandths: the low 64 bits of each decimal128; undefined for nulls."""
    return _numbers(events["price"], np.int64, 2)


def _numbers(column: pa.ChunkedArray, dtype: type[np.int64], words: int, word: int = 0) -> npt.NDArray[np.int64]:
    parts = []
    for chunk in column.chunks:
        values = np.frombuffer(chunk.buffers()[1] or b"", dtype=dtype)
        parts.append(values[chunk.offset * words + word : (chunk.offset + len(chunk)) * words : words])
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def first_faults(events: pa.Table, arrival_us: npt.NDArray[np.int64]) -> dict[int, Fault]:
    """Rows that cannot be shop events, each with the first rule that it breaks.

    Args:
        events: `WIRE_SCHEMA` columns (text may be dictionary-encoded) and `record`.
        arrival_us: arrival of each record, indexed by `record`.

    Nulls, extremes and dictionaries of whole columns are checked first; single rows only where a column failed.
    """
    found: dict[int, Fault] = {}

    def note(bad: Mask, reason: Reason, detail: Callable[[int], str]) -> None:
        for row in np.flatnonzero(bad).tolist():
            found.setdefault(row, Fault(reason, detail(row)))

    for name in _REQUIRED:
        if events[name].null_count:
            note(_mask(pc.is_null(events[name])), Reason.MISSING_FIELD, lambda _, name=name: _missing(name))  # type: ignore[misc]
    _check_time(events, arrival_us, note)
    _check_type(events, note)
    for name, reason in _IDS.items():
        if (pc.min(events[name]).as_py() or 0) < 0:
            bad = _mask(pc.less(events[name], 0))
            note(bad, reason, lambda row, name=name: _bad_id(name, events[name][row].as_py()))  # type: ignore[misc]
    _check_price(events, note)
    for name in _TEXT:
        _check_text(name, events[name], note)
    return found


_Note = Callable[[Mask, Reason, Callable[[int], str]], None]


def _missing(name: str) -> str:
    return f"expected a value in {name}, got none; send it with every event"


def _bad_id(name: str, value: object) -> str:
    return f"expected {name} to be an integer from 0 to 2^63-1, got {value}; send the shop's own numeric id"


def _check_time(events: pa.Table, arrival_us: npt.NDArray[np.int64], note: _Note) -> None:
    times = time_us(events)
    if not len(times):
        return
    if times.min() < _OLDEST_US:
        note(
            times < _OLDEST_US,
            Reason.EVENT_TIME_TOO_OLD,
            lambda row: (
                f"expected an event_time from 2000-01-01 on, got {_utc_text(times[row])}; check the tracker's clock"
            ),
        )
    if times.max() > arrival_us.min() + _DAY_US:
        arrived = arrival_us[_record_numbers(events["record"])]
        note(
            times > arrived + _DAY_US,
            Reason.EVENT_TIME_IN_FUTURE,
            lambda row: (
                f"expected an event_time at most one day after arrival at {_utc_text(arrived[row])}, "
                f"got {_utc_text(times[row])}; check the tracker's clock"
            ),
        )


def _utc_text(us: np.int64) -> str:
    return str(np.datetime64(int(us), "us")) + "Z"


def _record_numbers(column: pa.ChunkedArray) -> npt.NDArray[np.int32]:
    result: npt.NDArray[np.int32] = column.to_numpy()
    return result


def _check_type(events: pa.Table, note: _Note) -> None:
    column = events["event_type"]
    if all(pc.all(pc.is_in(values, value_set=_EVENT_TYPES)).as_py() is not False for values in _values(column)):
        return
    plain = column.cast(pa.string())
    note(
        _mask(pc.invert(pc.is_in(plain, value_set=_EVENT_TYPES))),
        Reason.UNKNOWN_EVENT_TYPE,
        lambda row: (
            f"expected event_type to be one of {', '.join(EventType)}, got {str(plain[row].as_py())[:80]!r}; "
            "map the tracker's names to these"
        ),
    )


def _check_price(events: pa.Table, note: _Note) -> None:
    units = price_units(events)
    high = _numbers(events["price"], np.int64, 2, 1)
    if not len(units) or (not high.any() and units.min() >= 0 and units.max() < _PRICE_LIMIT):
        return
    column = events["price"]
    note(
        high < 0,
        Reason.NEGATIVE_PRICE,
        lambda row: (
            f"expected a price of at least 0, got {column[row].as_py()}; send refunds as events of another kind"
        ),
    )
    note(
        (high > 0) | (units < 0) | (units >= _PRICE_LIMIT),
        Reason.PRICE_TOO_LARGE,
        lambda _: "expected a price of at most 14 digits before the point, got more; check the currency's unit",
    )


def _check_text(name: str, column: pa.ChunkedArray, note: _Note) -> None:
    if column.null_count == len(column):
        return
    limit = MAX_TEXT.get(name, _DEFAULT_MAX_TEXT)
    if not any(_suspicious(values, limit) for values in _values(column)):
        return
    plain = column.cast(pa.string())
    note(
        _mask(pc.greater(pc.binary_length(plain), limit)),
        Reason.TEXT_TOO_LONG,
        lambda row: f"expected {name} of at most {limit} bytes, got {len(plain[row].as_buffer())}; shorten it",
    )
    note(
        _mask(pc.match_substring_regex(plain, r"[\x00-\x1f\x7f]")),
        Reason.CONTROL_CHARACTER,
        lambda _: f"expected {name} without control characters, got some; send plain text",
    )


def _values(column: pa.ChunkedArray) -> list[pa.Array]:
    """The distinct texts of a dictionary-encoded column, else all values."""
    if pa.types.is_dictionary(column.type):
        return [chunk.dictionary for chunk in column.chunks]
    return list(column.chunks)


def _suspicious(values: pa.Array, limit: int) -> bool:
    if not len(values):
        return False
    _, offset_buffer, data_buffer = values.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int32)[values.offset : values.offset + len(values) + 1]
    if data_buffer is None or offsets[-1] == offsets[0]:
        return False
    data = np.frombuffer(data_buffer, dtype=np.uint8)[offsets[0] : offsets[-1]]
    return bool(data.min() < _FIRST_PRINTABLE or (data == _DELETE).any() or np.diff(offsets).max() > limit)


def _mask(bad: pa.ChunkedArray) -> Mask:
    result: Mask = pc.fill_null(bad, False).to_numpy()
    return result


EventValues = dict[str, Any]
"""Values of `WIRE_SCHEMA` columns, ready for Arrow."""

_ID_REASONS = {
    "product_id": Reason.BAD_PRODUCT_ID,
    "category_id": Reason.BAD_CATEGORY_ID,
    "user_id": Reason.BAD_USER_ID,
}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_MAX_NUMBER = 64
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?: ?UTC|(Z)|([+-])(\d\d)(?::?(\d\d))?)?", re.ASCII
)
_LARGEST_ID = (1 << 63) - 1
_LARGEST_PRICE = Decimal(10**14)
_LARGEST_OFFSET = (23, 59)
_SHOWN = 80


class RowError(Exception):
    """A row cannot be read; carries the fault."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.fault = Fault(reason, detail)


def read_csv_line(line: bytes, columns: tuple[str, ...]) -> EventValues:
    """A CSV line (without its line end) as values.

    Raises:
        RowError: with the fault.
    """
    text = _utf8(line)
    try:
        (fields,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as error:
        raise RowError(
            Reason.MALFORMED_CSV, f"expected one CSV line, got {_show(text)} ({error}); quote as in RFC 4180"
        ) from error
    if len(fields) != len(columns):
        raise RowError(
            Reason.MALFORMED_CSV,
            f"expected {len(columns)} fields ({', '.join(columns)}), got {len(fields)}; "
            "send each event whole, or name the columns in a header line",
        )
    return read_values(dict(zip(columns, fields, strict=True)))


def read_json_line(line: bytes) -> EventValues:
    """A JSON object on one line as values; numbers never pass through binary floating point.

    Raises:
        RowError: with the fault.
    """
    text = _utf8(line)
    try:
        values = json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=str)
    except (ValueError, RecursionError, InvalidOperation) as error:
        raise RowError(
            Reason.MALFORMED_JSON,
            f"expected one JSON object per line, got {_show(text)} ({error}); send valid JSON lines",
        ) from error
    if not isinstance(values, dict):
        raise RowError(Reason.MALFORMED_JSON, f"expected a JSON object, got {_show(text)}; send one object a line")
    return read_values(values)


def read_values(values: Mapping[str, object]) -> EventValues:
    """Loosely typed values (text, numbers, times) as the typed values of an event; unknown names are ignored.

    Raises:
        RowError: with the fault.
    """
    row: EventValues = {}
    for field in EVENT_FIELDS:
        value = values.get(field.name)
        if value is None or value == "":
            if field.required:
                raise RowError(
                    Reason.MISSING_FIELD, f"expected a value in {field.name}, got none; send it with every event"
                )
            row[field.name] = None
        elif field.name == "event_time":
            row[field.name] = _time(value)
        elif field.name == "price":
            row[field.name] = _price(value)
        elif field.arrow == pa.int64():
            row[field.name] = _id(field.name, value)
        else:
            row[field.name] = _text(field.name, value)
    return row


def _utf8(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise RowError(
            Reason.NOT_UTF8, f"expected UTF-8, got byte 0x{line[error.start]:02x} at {error.start}; encode as UTF-8"
        ) from error


def _show(value: object) -> str:
    return repr(str(value)[:_SHOWN])


def _time(value: object) -> datetime:
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match:
        day, clock, fraction, _, sign, hours, minutes = match.groups()
        offset = (int(hours or 0), int(minutes or 0))
        if offset[0] <= _LARGEST_OFFSET[0] and offset[1] <= _LARGEST_OFFSET[1]:
            try:
                moment = datetime.fromisoformat(f"{day} {clock}.{(fraction or '0')[:6]:0<6}+00:00")
                shift = timedelta(hours=offset[0], minutes=offset[1])
                return moment + shift if sign == "-" else moment - shift
            except (ValueError, OverflowError):
                pass  # not a time of the calendar: reported below
    shown = value.isoformat() if isinstance(value, date) else value
    raise RowError(
        Reason.BAD_EVENT_TIME,
        f"expected event_time as 2019-11-01 00:00:00 UTC or 2019-11-01T00:00:00.000Z, got {_show(shown)}; send UTC",
    )


def _number(value: object) -> Decimal | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, Decimal | int):
        number = Decimal(value)
    elif isinstance(value, float):
        number = Decimal(repr(value))
    elif isinstance(value, str) and len(value) <= _MAX_NUMBER and _NUMBER.fullmatch(value.strip(" \t")):
        number = Decimal(value.strip(" \t"))
    else:
        return None
    return number if number.is_finite() else None


def _id(name: str, value: object) -> int:
    number = _number(value)
    # Check the magnitude first: an exponent of a billion must not become a billion digits.
    if number is not None and number.copy_abs() <= _LARGEST_ID and number == int(number):
        return int(number)
    raise RowError(
        _ID_REASONS[name],
        f"expected {name} to be an integer from 0 to 2^63-1, got {_show(value)}; send the shop's own numeric id",
    )


def _price(value: object) -> Decimal:
    number = _number(value)
    if number is None:
        raise RowError(Reason.BAD_PRICE, f"expected price as a decimal number, got {_show(value)}; send e.g. 489.07")
    if number.copy_abs() >= _LARGEST_PRICE:
        if number < 0:
            raise RowError(Reason.NEGATIVE_PRICE, "expected a price of at least 0, got a negative one; check the sign")
        raise RowError(
            Reason.PRICE_TOO_LARGE,
            "expected a price of at most 14 digits before the point, got more; check the currency's unit",
        )
    with localcontext() as context:
        context.prec = 2 * _MAX_NUMBER
        exact = number.quantize(Decimal("0.0001"))
    if exact != number:
        raise RowError(
            Reason.PRICE_TOO_PRECISE,
            f"expected a price of at most four decimals, got {_show(value)}; round it at its source",
        )
    return exact


def _text(name: str, value: object) -> str:
    if isinstance(value, bytes):
        value = _utf8(value)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RowError(
                Reason.BAD_TEXT, f"expected {name} as Unicode text, got half a surrogate pair; send valid text"
            ) from error
        return value
    raise RowError(Reason.BAD_TEXT, f"expected {name} as text, got {_show(value)}; quote it")
