"""The fields of an event and of what the lake keeps beside it, with Arrow types; an event's are those of `columns`."""

from dataclasses import dataclass

import pyarrow as pa

from shopstream.events.columns import EVENT_COLUMNS, REES46_COLUMNS, EventType

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
