"""Derived columns: columns that the engine adds to each event for rules and detectors.

Stateless columns are expressions over the event alone. Stateful columns depend on earlier events of the same shopper,
in order of (event_time, event_id), without late events. `derived_rows` defines both as one query over a whole table.
The stream uses the same expressions for stateless columns, and computes stateful ones in `engine.sort_buffer` as the
watermark passes, with the same results.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shopstream.events.columns import EVENT_COLUMNS

if TYPE_CHECKING:  # functions that only read signals have no DuckDB
    import duckdb
    import pyarrow as pa

ACTOR_HORIZON_MS = 86_400_000
"""How long the shopper's last event is remembered."""

VISIT_HORIZON_MS = 3_600_000
"""How long the products that a shopper saw are remembered."""


@dataclass(frozen=True, slots=True)
class DerivedField:
    """One derived column.

    Args:
        name: no other derived or event column has it.
        duckdb: SQL type.
        needs: event columns it depends on, without `event_time`.
        sql: DuckDB expression over those and `t` (event time, epoch ms); None if it depends on other events.
        doc: one sentence.
    """

    name: str
    duckdb: str
    needs: tuple[str, ...]
    sql: str | None
    doc: str


_IP_NET = r"""CASE WHEN contains(ip, ':')
    THEN nullif(rtrim(regexp_extract(lower(ip), '^([0-9a-f]+:[0-9a-f]+:[0-9a-f]*)', 1), ':'), '') || '::/48'
    ELSE nullif(regexp_extract(ip, '^([0-9]+[.][0-9]+[.][0-9]+)[.]', 1), '') || '.0/24' END"""
_ORDER = ("user_id", "event_id")

DERIVED_FIELDS: tuple[DerivedField, ...] = (
    DerivedField("ip_net", "VARCHAR", ("ip",), _IP_NET, "The /24 of an IPv4 address, the /48 of an IPv6 address."),
    DerivedField("agent_hash", "VARCHAR", ("user_agent",), "left(md5(user_agent), 16)", "16 hex digits of its MD5."),
    DerivedField("hour_of_day", "BIGINT", (), "(t // 3600000) % 24", "Hour of event_time in UTC, 0 to 23."),
    DerivedField("hour", "BIGINT", (), "t // 3600000", "Whole hours since the epoch, for count(distinct hour)."),
    DerivedField(
        "gap_ms", "BIGINT", _ORDER, None, "Milliseconds since the shopper's previous event; null: none within 24 h."
    ),
    DerivedField("previous_gap_ms", "BIGINT", _ORDER, None, "gap_ms of the shopper's previous event, if within 24 h."),
    DerivedField(
        "previous_product_id", "BIGINT", (*_ORDER, "product_id"), None, "Product of that event, if within 24 h."
    ),
    DerivedField("new_user", "BOOLEAN", _ORDER, None, "No event of this user_id in the 24 h before: gap_ms is null."),
    DerivedField(
        "first_visit",
        "BOOLEAN",
        (*_ORDER, "user_session", "product_id"),
        None,
        "No event of this product in this session of the shopper in the hour before.",
    ),
    DerivedField(
        "viewed",
        "BOOLEAN",
        (*_ORDER, "product_id", "event_type"),
        None,
        "An earlier event, at most an hour ago, was the same shopper's view of this product.",
    ),
)

_BY_NAME = {field.name: field for field in DERIVED_FIELDS}
TEXTS = tuple(field for field in DERIVED_FIELDS if field.sql is not None and field.duckdb == "VARCHAR")
"""Costly stateless columns: the stream computes them once per batch and distinct value."""

COLUMNS = frozenset(column.name for column in EVENT_COLUMNS) | _BY_NAME.keys()
"""Names that expressions and keys may use: event columns and derived ones."""


def stateless(columns: Iterable[str]) -> tuple[DerivedField, ...]:
    """The stateless derived columns among the named ones, in declared order."""
    named = set(columns)
    return tuple(field for field in DERIVED_FIELDS if field.name in named and field.sql is not None)


def stateful(columns: Iterable[str]) -> tuple[DerivedField, ...]:
    """The stateful derived columns among the named ones, in declared order."""
    named = set(columns)
    return tuple(field for field in DERIVED_FIELDS if field.name in named and field.sql is None)


def event_columns(columns: Iterable[str]) -> tuple[str, ...]:
    """The event columns that the named columns depend on, in order, without `event_time`."""
    needed: set[str] = set()
    for column in columns:
        needed.update(_BY_NAME[column].needs if column in _BY_NAME else (column,))
    return tuple(sorted(needed - {"event_time"}))


def batch_columns(columns: Iterable[str]) -> tuple[str, ...]:
    """Likewise, but TEXTS stand for themselves: a micro-batch has them."""
    texts = {field.name for field in TEXTS}.intersection(columns)
    return tuple(sorted(texts.union(event_columns(set(columns) - texts))))


_ACTOR = "(PARTITION BY user_id ORDER BY event_time, event_id)"
_VISIT = "(PARTITION BY user_id, user_session, product_id ORDER BY event_time, event_id)"
_PRODUCT = """(PARTITION BY user_id, product_id ORDER BY event_time, event_id
               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"""

# Inner expressions look at other rows; the outer ones, _MADE_OF, are in terms of these.
_LOOKS = {
    "gap1": f"t - lag(t) OVER {_ACTOR}",
    "gap2": f"lag(t) OVER {_ACTOR} - lag(t, 2) OVER {_ACTOR}",
    "product1": f"lag(product_id) OVER {_ACTOR}",
    "visit1": f"t - lag(t) OVER {_VISIT}",
    "view1": f"t - max(CASE WHEN event_type = 'view' THEN t END) OVER {_PRODUCT}",
}
_MADE_OF = {
    "gap_ms": (("gap1",), f"CASE WHEN gap1 <= {ACTOR_HORIZON_MS} THEN gap1 END"),
    "previous_gap_ms": (
        ("gap1", "gap2"),
        f"CASE WHEN gap1 <= {ACTOR_HORIZON_MS} AND gap2 <= {ACTOR_HORIZON_MS} THEN gap2 END",
    ),
    "previous_product_id": (("gap1", "product1"), f"CASE WHEN gap1 <= {ACTOR_HORIZON_MS} THEN product1 END"),
    "new_user": (("gap1",), f"gap1 IS NULL OR gap1 > {ACTOR_HORIZON_MS}"),
    "first_visit": (("visit1",), f"visit1 IS NULL OR visit1 > {VISIT_HORIZON_MS}"),
    "viewed": (("view1",), f"coalesce(view1 <= {VISIT_HORIZON_MS}, FALSE)"),
}


def stateless_rows(source: str, columns: Iterable[str]) -> str:
    """Query: the rows of `source` (which has `t`) with the stateless columns among the named ones."""
    added = "".join(f", {field.sql} AS {field.name}" for field in stateless(columns))
    return f"SELECT *{added} FROM {source}" if added else f"SELECT * FROM {source}"


def with_texts(connection: "duckdb.DuckDBPyConnection", events: "pa.Table", columns: Iterable[str]) -> "pa.Table":
    """Events with all columns of TEXTS; those that are not named are null."""
    import pyarrow as pa  # noqa: PLC0415  functions that only read signals have no Arrow

    wanted = set(columns)
    for field in TEXTS:
        made = pa.nulls(events.num_rows, pa.string())
        if field.name in wanted:
            (source,) = field.needs
            encoded = events.column(source).combine_chunks()
            if not pa.types.is_dictionary(encoded.type):
                encoded = encoded.dictionary_encode()
            connection.register("texts", pa.table({source: encoded.dictionary}))
            derived = connection.execute(f"SELECT {field.sql} AS made FROM texts").fetchnumpy()["made"]
            connection.unregister("texts")
            made = pa.array(derived, pa.string(), from_pandas=True).take(encoded.indices)
        events = events.append_column(field.name, made)
    return events


def stateful_rows(source: str, columns: Iterable[str], keep: str = "TRUE") -> str:
    """Query: the rows of `source` (which has `t`) with the stateful columns among the named ones.

    Args:
        source: table or subquery.
        columns: names; others than stateful derived ones are ignored.
        keep: condition on the result's rows; stateful columns depend on all rows.
    """
    fields = stateful(columns)
    if not fields:
        return f"SELECT * FROM {source} WHERE {keep}"
    looks = list(dict.fromkeys(look for field in fields for look in _MADE_OF[field.name][0]))
    inner = "".join(f", {_LOOKS[look]} AS {look}" for look in looks)
    outer = "".join(f", {_MADE_OF[field.name][1]} AS {field.name}" for field in fields)
    return f"SELECT * EXCLUDE ({', '.join(looks)}){outer} FROM (SELECT *{inner} FROM {source}) WHERE {keep}"


def derived_rows(source: str, columns: Iterable[str]) -> str:
    """Query: `t`, `event_time` and the named event and derived columns of a table of events."""
    columns = tuple(columns)
    names = "".join(f', "{column}"' for column in event_columns(columns))
    plain = f"(SELECT event_time, epoch_ms(event_time) AS t{names} FROM {source})"
    return stateless_rows(f"({stateful_rows(plain, columns)})", columns)
