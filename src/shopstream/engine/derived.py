"""Derived columns: what the engine adds to each event, so that rules and detectors may ask for it.

Stateless ones are expressions over the event alone. Stateful ones look back along the events of one shopper, in the
order of (event_time, event_id): the stream computes them as the watermark passes (`engine.ordering`), a batch query by
window functions (`engine.derive`), and both give the same values. Late events have no part in them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from shopstream.events.columns import EVENT_COLUMNS

__all__ = [
    "ACTOR_HORIZON_MS",
    "COLUMNS",
    "DERIVED_FIELDS",
    "TEXTS",
    "VISIT_HORIZON_MS",
    "DerivedField",
    "batch_columns",
    "event_columns",
    "stateful",
    "stateless",
]

ACTOR_HORIZON_MS = 86_400_000
"""The shopper's last event is remembered this long."""

VISIT_HORIZON_MS = 3_600_000
"""Which products a shopper saw is remembered this long."""


@dataclass(frozen=True, slots=True)
class DerivedField:
    """One derived column.

    Args:
        name: unique among event columns too.
        duckdb: SQL type.
        needs: event columns it is made of, `event_time` aside.
        sql: expression over those and `t` (event time, epoch ms), DuckDB's dialect; None where it needs other events.
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
"""Stateless ones that are dear: the stream makes them once a batch, once for each value there is."""

COLUMNS = frozenset(column.name for column in EVENT_COLUMNS) | _BY_NAME.keys()
"""What expressions and keys may name: event columns and derived ones."""


def stateless(columns: Iterable[str]) -> tuple[DerivedField, ...]:
    """Those of the named columns that are derived from the event alone, in declared order."""
    named = set(columns)
    return tuple(field for field in DERIVED_FIELDS if field.name in named and field.sql is not None)


def stateful(columns: Iterable[str]) -> tuple[DerivedField, ...]:
    """Those of the named columns that need other events, in declared order."""
    named = set(columns)
    return tuple(field for field in DERIVED_FIELDS if field.name in named and field.sql is None)


def event_columns(columns: Iterable[str]) -> tuple[str, ...]:
    """The event columns that the named ones are made of, in order; `event_time` aside."""
    needed: set[str] = set()
    for column in columns:
        needed.update(_BY_NAME[column].needs if column in _BY_NAME else (column,))
    return tuple(sorted(needed - {"event_time"}))


def batch_columns(columns: Iterable[str]) -> tuple[str, ...]:
    """Likewise, but texts derived from one event count as the event's own: a micro-batch has them."""
    texts = {field.name for field in TEXTS}.intersection(columns)
    return tuple(sorted(texts.union(event_columns(set(columns) - texts))))
