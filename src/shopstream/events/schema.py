"""The fields of an event and of what the lake keeps beside it, with Arrow types; an event's are those of `columns`.

Who an event is: the same content has the same id, whichever format or path brought it.

A tracker's own `event_id` stands. Where none came, the id is the MD5 (32 lower-case hex digits) of the nine REES46
columns in file order, joined by the unit separator U+001F: the time as epoch microseconds, the price as whole
ten-thousandths, ids in decimal, an absent text as nothing. Control characters never pass validation, so no two
different events share that text. Two rows are duplicates when `event_time` and `event_id` agree.

MD5 names content here and protects nothing; it is chosen because DuckDB, Flink and Athena all compute it.
"""

from dataclasses import dataclass
from decimal import Decimal
from hashlib import md5

import pyarrow as pa

from shopstream.events.columns import EVENT_COLUMNS, REES46_COLUMNS, EventType

__all__ = [
    "DEAD_LETTER_FIELDS",
    "EVENT_FIELDS",
    "EVENT_ID_SQL",
    "LAKE_FIELDS",
    "PRICE_TYPE",
    "REES46_COLUMNS",
    "WIRE_SCHEMA",
    "EventType",
    "Field",
    "arrow_schema",
    "content_id",
    "duckdb_columns",
]

PRICE_TYPE = pa.decimal128(18, 4)
"""Money: exact to four decimals, the finest minor unit of any currency in ISO 4217."""

_TIME = pa.timestamp("us", "UTC")


@dataclass(frozen=True, slots=True)
class Field:
    """One column.

    Args:
        name: the same in every store.
        arrow: in-memory type; `duckdb` is the SQL type it maps to.
        required: never null.
        doc: one sentence, the column's description in every catalogue.
    """

    name: str
    arrow: pa.DataType
    duckdb: str
    required: bool
    doc: str


_ARROW: dict[str, pa.DataType] = {
    "TIMESTAMPTZ": _TIME,
    "VARCHAR": pa.string(),
    "BIGINT": pa.int64(),
    "DECIMAL(18,4)": PRICE_TYPE,
}

EVENT_FIELDS: tuple[Field, ...] = tuple(
    Field(column.name, _ARROW[column.duckdb], column.duckdb, column.required, column.doc) for column in EVENT_COLUMNS
)

_PROVENANCE: tuple[Field, ...] = (
    Field("arrival_time", _TIME, "TIMESTAMPTZ", True, "When the stream (or the bulk load) took it in, UTC."),
    Field("is_late", pa.bool_(), "BOOLEAN", True, "Behind its shard's watermark: kept here, in no live window."),
)

LAKE_FIELDS: tuple[Field, ...] = EVENT_FIELDS + _PROVENANCE
"""Columns of the lakehouse table `events`; there `event_id` is never null."""

DEAD_LETTER_FIELDS: tuple[Field, ...] = (
    Field("dead_letter_id", pa.string(), "VARCHAR", True, "Derived from shard, sequence number and place."),
    Field("reason", pa.string(), "VARCHAR", True, "Name of the rule that rejected it (see events.validation)."),
    Field("detail", pa.string(), "VARCHAR", True, "Expected what, came what, do what."),
    Field("payload", pa.binary(), "BLOB", True, "The rejected bytes, as they came."),
    Field("shard_id", pa.string(), "VARCHAR", True, "Where in the stream it stood."),
    Field("sequence_number", pa.string(), "VARCHAR", True, "The record's place in the shard."),
    Field("place", pa.int64(), "BIGINT", True, "Row inside an aggregated record, from 0."),
    Field("arrival_time", _TIME, "TIMESTAMPTZ", True, "When the stream took it in, UTC."),
)


def arrow_schema(fields: tuple[Field, ...]) -> pa.Schema:
    """Arrow schema of the given fields, in order."""
    return pa.schema([pa.field(f.name, f.arrow, nullable=not f.required) for f in fields])


def duckdb_columns(fields: tuple[Field, ...]) -> dict[str, str]:
    """Column name → DuckDB type, in order."""
    return {f.name: f.duckdb for f in fields}


WIRE_SCHEMA: pa.Schema = arrow_schema(EVENT_FIELDS)
"""What a decoded, valid event looks like in memory (text columns may come dictionary-encoded)."""

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
