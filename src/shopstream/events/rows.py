"""One row at a time: the exact meaning of a row's text, and the name of what is wrong with it.

The vectorised readers of `events.text` and `events.arrow_ipc` try whole blocks first and come here only for blocks
that do not fit; both ways give the same events (a property test compares them).
"""

import csv
import json
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation, localcontext
from typing import Any

import pyarrow as pa

from shopstream.events.schema import EVENT_FIELDS
from shopstream.events.validation import Fault, Reason

__all__ = ["Row", "RowError", "read_csv_line", "read_json_line", "read_values"]

Row = dict[str, Any]
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
    """A row that cannot be read; carries the fault."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.fault = Fault(reason, detail)


def read_csv_line(line: bytes, columns: tuple[str, ...]) -> Row:
    """A CSV line (without its line end) as values.

    Raises:
        RowError: with the fault.
    """
    text = _utf8(line)
    try:
        (fields,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as error:
        raise RowError(
            Reason.MALFORMED_CSV, f"expected one CSV line, got {_show(text)} ({error}); quote as RFC 4180 has it"
        ) from error
    if len(fields) != len(columns):
        raise RowError(
            Reason.MALFORMED_CSV,
            f"expected {len(columns)} fields ({', '.join(columns)}), got {len(fields)}; "
            "send each event whole, or name the columns in a header line",
        )
    return read_values(dict(zip(columns, fields, strict=True)))


def read_json_line(line: bytes) -> Row:
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
            f"expected one JSON object a line, got {_show(text)} ({error}); send valid JSON lines",
        ) from error
    if not isinstance(values, dict):
        raise RowError(Reason.MALFORMED_JSON, f"expected a JSON object, got {_show(text)}; send one object a line")
    return read_values(values)


def read_values(values: Mapping[str, object]) -> Row:
    """Loosely typed values (text, numbers, times) as the typed values of an event; unknown names are ignored.

    Raises:
        RowError: with the fault.
    """
    row: Row = {}
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
                pass  # no such moment in the calendar: told below
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
    # The magnitude is bounded first: an exponent of a billion must not become a billion digits.
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
            f"expected a price of at most four decimals, got {_show(value)}; round it where it is made",
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
