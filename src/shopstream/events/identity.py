"""Who an event is: the same content has the same id, whichever format or path brought it.

A tracker's own `event_id` stands. Where none came, the id is the MD5 (32 lower-case hex digits) of the nine REES46
columns in file order, joined by the unit separator U+001F: the time as epoch microseconds, the price as whole
ten-thousandths, ids in decimal, an absent text as nothing. Control characters never pass validation, so no two
different events share that text. Two rows are duplicates when `event_time` and `event_id` agree.

MD5 names content here and protects nothing; it is chosen because DuckDB, Flink and Athena all compute it.
"""

from decimal import Decimal
from hashlib import md5

__all__ = ["EVENT_ID_SQL", "content_id"]

_SEPARATOR = "\x1f"
_PARTS = (
    "{time_us}",
    "event_type",
    "product_id",
    "category_id",
    "coalesce(category_code, '')",
    "coalesce(brand, '')",
    "{price_units}",
    "user_id",
    "coalesce(user_session, '')",
)


def _event_id_sql(time_us: str, price_units: str) -> str:
    parts = ", ".join(_PARTS).format(time_us=time_us, price_units=price_units)
    return f"coalesce(event_id, md5(concat_ws(chr(31), {parts})))"


EVENT_ID_SQL = _event_id_sql("epoch_us(event_time)", "(price * 10000)::BIGINT")
"""DuckDB expression over the columns of `WIRE_SCHEMA`."""

EVENT_ID_SQL_OVER_INTEGERS = _event_id_sql("time_us", "price_units")
"""The same over `time_us` and `price_units` columns, twice as fast: the decoder has them as integers already."""


def content_id(
    *,
    time_us: int,
    event_type: str,
    product_id: int,
    category_id: int,
    category_code: str | None,
    brand: str | None,
    price: Decimal,
    user_id: int,
    user_session: str | None,
) -> str:
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
    return md5(_SEPARATOR.join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()
