"""The fields of an event and of the lake's tables, with Arrow types, and the SQL of an event's id.

A tracker's own `event_id` is kept. If there is none, the id is the MD5 (32 lower-case hex digits) of the nine REES46
columns in file order, joined by the unit separator U+001F: the time as epoch microseconds, the price in
ten-thousandths, ids in decimal, a missing text as an empty one. Validation rejects control characters, so different
events never share that text. The same content has the same id, whatever format it came in. Two rows are duplicates if
`event_time` and `event_id` are equal.

MD5 identifies content here and protects nothing; DuckDB, Flink and Athena all compute it.
"""

import pyarrow as pa

from shopstream.events.columns import EVENT_COLUMNS, Column

PRICE_TYPE = pa.decimal128(18, 4)
"""Money: exact to four decimals, the finest minor unit of any currency in ISO 4217."""


_ARROW_TYPES: dict[str, pa.DataType] = {
    "BIGINT": pa.int64(),
    "BLOB": pa.binary(),
    "BOOLEAN": pa.bool_(),
    "DECIMAL(18,4)": PRICE_TYPE,
    "TIMESTAMPTZ": pa.timestamp("us", "UTC"),
    "VARCHAR": pa.string(),
}


class Field(Column):
    """A column with its Arrow type."""

    __slots__ = ()

    @property
    def arrow(self) -> pa.DataType:
        """The in-memory type."""
        return _ARROW_TYPES[self.duckdb]


EVENT_FIELDS: tuple[Field, ...] = tuple(
    Field(column.name, column.duckdb, column.required, column.doc) for column in EVENT_COLUMNS
)

_PROVENANCE: tuple[Field, ...] = (
    Field("arrival_time", "TIMESTAMPTZ", True, "When the stream (or the bulk load) received it, UTC."),
    Field("is_late", "BOOLEAN", True, "Behind its shard's watermark: stored here, but in no live window."),
)

LAKE_FIELDS: tuple[Field, ...] = EVENT_FIELDS + _PROVENANCE
"""Columns of the lakehouse table `events`; there `event_id` is never null."""

DEAD_LETTER_FIELDS: tuple[Field, ...] = (
    Field("dead_letter_id", "VARCHAR", True, "Derived from shard, sequence number and place."),
    Field("reason", "VARCHAR", True, "Name of the rule that rejected it (see events.validation)."),
    Field("detail", "VARCHAR", True, "What was expected, what came, and what to do."),
    Field("payload", "BLOB", True, "The rejected bytes, unchanged."),
    Field("shard_id", "VARCHAR", True, "Its shard of the stream."),
    Field("sequence_number", "VARCHAR", True, "The record's place in the shard."),
    Field("place", "BIGINT", True, "Row inside an aggregated record, from 0."),
    Field("arrival_time", "TIMESTAMPTZ", True, "When the stream received it, UTC."),
)


def arrow_schema(fields: tuple[Field, ...]) -> pa.Schema:
    """Arrow schema of the given fields, in order."""
    return pa.schema([pa.field(f.name, f.arrow, nullable=not f.required) for f in fields])


def duckdb_columns(fields: tuple[Field, ...]) -> dict[str, str]:
    """Column name → DuckDB type, in order."""
    return {f.name: f.duckdb for f in fields}


WIRE_SCHEMA: pa.Schema = arrow_schema(EVENT_FIELDS)
"""A decoded, valid event in memory (text columns may be dictionary-encoded)."""

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
"""The same over `time_us` and `price_units` columns, which the decoder has as integers anyway; twice as fast."""
