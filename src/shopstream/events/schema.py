"""The fields of an event, declared once.

Arrow, DuckDB, Iceberg and dbt columns all derive from `EVENT_FIELDS`; a new field is added here and nowhere else.
The first nine are REES46's columns in file order; the next four are what a production tracker adds.
"""

from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

__all__ = [
    "DEAD_LETTER_FIELDS",
    "EVENT_FIELDS",
    "LAKE_FIELDS",
    "PRICE_TYPE",
    "REES46_COLUMNS",
    "WIRE_SCHEMA",
    "EventType",
    "Field",
    "arrow_schema",
    "duckdb_columns",
]

PRICE_TYPE = pa.decimal128(18, 4)
"""Money: exact to four decimals, the finest minor unit of any currency in ISO 4217."""

_TIME = pa.timestamp("us", "UTC")


class EventType(StrEnum):
    """What a shopper did. A multi-category shop may never send `remove_from_cart`."""

    VIEW = "view"
    CART = "cart"
    REMOVE_FROM_CART = "remove_from_cart"
    PURCHASE = "purchase"


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


EVENT_FIELDS: tuple[Field, ...] = (
    Field("event_time", _TIME, "TIMESTAMPTZ", True, "When it happened, UTC."),
    Field("event_type", pa.string(), "VARCHAR", True, "view, cart, remove_from_cart or purchase."),
    Field("product_id", pa.int64(), "BIGINT", True, "The product."),
    Field("category_id", pa.int64(), "BIGINT", True, "The product's category; the stream's partition key by default."),
    Field("category_code", pa.string(), "VARCHAR", False, "Dotted path of the category, where the shop has one."),
    Field("brand", pa.string(), "VARCHAR", False, "Brand in lower case; `nan` is the name of a real one."),
    Field("price", PRICE_TYPE, "DECIMAL(18,4)", True, "Price of one piece in the shop's currency."),
    Field("user_id", pa.int64(), "BIGINT", True, "The shopper; personal data."),
    Field("user_session", pa.string(), "VARCHAR", False, "The tracker's session id; may be absent or shared."),
    Field(
        "event_id", pa.string(), "VARCHAR", False, "The tracker's id of this event, or one derived from its content."
    ),
    Field("ip", pa.string(), "VARCHAR", False, "Client address, where the tracker sends it; personal data."),
    Field("user_agent", pa.string(), "VARCHAR", False, "Client software, where the tracker sends it."),
    Field("url", pa.string(), "VARCHAR", False, "Page address, where the tracker sends it."),
)

REES46_COLUMNS: tuple[str, ...] = tuple(field.name for field in EVENT_FIELDS[:9])
"""The header of a REES46 file."""

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
