"""Events as CSV and JSON lines, and the reference of an event's id."""

import csv
import io
import json
from datetime import UTC
from hashlib import md5

from shopstream.events.columns import REES46_COLUMNS
from shopstream.events.schema import EVENT_FIELDS


def encode_csv(events):
    """CSV with a header line: the nine REES46 columns, and those optional ones that hold any value."""
    names = [*REES46_COLUMNS, *_used_options(events)]
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(names)
    for row in events.select(names).to_pylist():
        row["event_time"] = _time_text(row["event_time"])
        row["price"] = _price_text(row["price"])
        writer.writerow("" if value is None else value for value in row.values())
    return sink.getvalue().encode()


def encode_json(events):
    """JSON lines; absent values are left out, the price is a number written in full."""
    names = [*REES46_COLUMNS, *_used_options(events)]
    lines = []
    for row in events.select(names).to_pylist():
        price = _price_text(row.pop("price"))
        row["event_time"] = row["event_time"].astimezone(UTC).isoformat().replace("+00:00", "Z")
        rest = json.dumps({name: value for name, value in row.items() if value is not None}, ensure_ascii=False)
        lines.append(f'{rest[:-1]}, "price": {price}}}\n')
    return "".join(lines).encode()


def _used_options(events):
    options = (field.name for field in EVENT_FIELDS[len(REES46_COLUMNS) :])
    return [name for name in options if name in events.column_names and events[name].null_count < len(events)]


def _time_text(moment):
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(' ')} UTC"


def _price_text(price):
    whole, _, decimals = f"{price:f}".partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def content_id(
    *,
    time_us,
    event_type,
    product_id,
    category_id,
    category_code,
    brand,
    price,
    user_id,
    user_session,
):
    """The id of one event without a tracker's id: the reference that the SQL is tested against."""
    parts = (
        time_us,
        event_type,
        product_id,
        category_id,
        category_code or "",
        brand or "",
        int(price.scaleb(4)),
        user_id,
        user_session or "",
    )
    return md5("\x1f".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()
