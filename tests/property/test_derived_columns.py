"""Derived columns: whatever the batches, and across a checkpoint, the stream has the values of one batch query."""

from datetime import timedelta

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shopstream.engine.compile import batch_sql
from shopstream.engine.derived_columns import DERIVED_FIELDS
from shopstream.engine.engine import Engine
from shopstream.engine.settings import EngineSettings
from shopstream.engine.signals import UNWATCHED, Signal
from shopstream.engine.window import WindowDeclaration, WindowKind
from shopstream.events.arrow_ipc import encode_arrow
from shopstream.events.codec import decode
from shopstream.events.schema import WIRE_SCHEMA
from shopstream.stream.ports import Record

START_MS = 1_572_566_400_000
MINUTE_MS = 60_000
SETTINGS = EngineSettings(out_of_orderness=timedelta(minutes=90), threads=1)

NUMBERS = ("hour_of_day", "hour", "gap_ms", "previous_gap_ms", "previous_product_id")
FLAGS = ("new_user", "first_visit", "viewed")
EACH = WindowDeclaration(  # a window of a minute holds few events: sums show nearly each value
    "each",
    WindowKind.TUMBLING,
    ("user_id", "event_type"),
    {
        **{f"sum_{name}": f"sum({name})" for name in NUMBERS},
        **{f"n_{name}": f"count({name})" for name in NUMBERS},
        **{f"n_{name}": f"count(*) filter (where {name})" for name in FLAGS},
        "nets": "min(ip_net)",
        "agents": "max(agent_hash)",
        "spread": "sum(abs(ln(gap_ms / previous_gap_ms)))",
    },
    MINUTE_MS,
)
DECLARATIONS = (
    EACH,
    WindowDeclaration(
        "nets", WindowKind.SLIDING, ("ip_net",), {"n": "count(*)", "fresh": "count(*) filter (where new_user)"},
        4 * 3_600_000, 3_600_000, condition="n > 1",
    ),
    WindowDeclaration(
        "agents", WindowKind.SESSION, ("agent_hash",), {"n": "count(*)", "hours": "count(distinct hour)"},
        gap_ms=3_600_000, condition="n > 1",
    ),
    WindowDeclaration(
        "quick", WindowKind.SLIDING, ("user_id",), {"n": "count(*)"}, 3_600_000, 60_000,
        filter="gap_ms < 600000 or viewed", condition="n >= 2",
    ),
)  # fmt: skip

event = st.fixed_dictionaries(
    {
        "minute": st.one_of(st.integers(0, 20), st.integers(0, 90), st.integers(0, 60 * 60)),
        "lag": st.integers(0, 90),
        "event_type": st.sampled_from(["view", "view", "cart", "purchase"]),
        "product_id": st.integers(1, 3),
        "user_id": st.integers(1, 3),
        "user_session": st.sampled_from(["a", "b", None]),
        "ip": st.sampled_from([None, "10.1.2.3", "10.1.2.77", "10.1.9.1", "2001:db8::1", "2001:DB8:7:1::", "::1", "x"]),
        "user_agent": st.sampled_from([None, "curl/8", "Mozilla/5.0"]),
    }
)


def table(events: list[dict]) -> pa.Table:
    rows = [
        {
            **{name: e[name] for name in ("event_type", "product_id", "user_id", "user_session", "ip", "user_agent")},
            "event_time": (START_MS + e["minute"] * MINUTE_MS) * 1000,
            "category_id": 7,
            "price": 1,
            "event_id": f"e{e['n'] * 7919 % 10_007}",
        }
        for e in events
    ]
    return pa.Table.from_pylist(rows, schema=WIRE_SCHEMA)


def feed(engine: Engine, events: list[dict], number: int) -> list[Signal]:
    record = Record(encode_arrow(table(events)), "k", "s", number, START_MS + 10**9)
    engine.process([record], decode([record.payload], [record.arrival_ms]))
    return engine.advance()


def finish(engine: Engine) -> list[Signal]:
    engine.watermarks.current_ms = START_MS + 10**10
    return engine.advance(to_the_end=True)


def rows(signals: list[Signal]) -> list[tuple]:
    return [
        (*s.key.values(), s.start_ms, s.end_ms, s.first_event_ms, s.last_event_ms, *s.measures.values())
        for s in signals
        if s.final and s.window != UNWATCHED  # the gap in history is no window
    ]


def batch(declaration: WindowDeclaration, events: list[dict]) -> list[tuple]:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("events", table(events))
    return connection.execute(batch_sql(declaration, "events")).fetchall()


def in_order(rows: list[tuple]) -> list[tuple]:
    return sorted(rows, key=lambda row: tuple((value is None, str(value)) for value in row))


@pytest.mark.parametrize("declaration", DECLARATIONS, ids=lambda d: d.name)
@settings(max_examples=25, deadline=None)
@given(
    events=st.lists(event, min_size=1, max_size=50), cut=st.integers(1, 9), stop=st.one_of(st.none(), st.integers(0, 6))
)
def test_streamed_derived_columns_are_those_of_the_batch_query(declaration, events, cut, stop, tmp_path_factory):
    for number, e in enumerate(events):
        e["n"] = number
    events.sort(key=lambda e: e["minute"] + e["lag"])
    engine = Engine(SETTINGS, [declaration])
    signals: list[Signal] = []
    for number, place in enumerate(range(0, len(events), cut)):
        signals += feed(engine, events[place : place + cut], number)
        if number == stop:
            path = tmp_path_factory.mktemp("state") / "state.duckdb"
            engine.save(path)
            again = Engine(SETTINGS, [declaration])
            watermarks = engine.watermarks
            assert again.restore(path, engine.state_tables(), watermarks.current_ms, watermarks.newest()) == []
            engine = again
    signals += finish(engine)
    assert in_order(rows(signals)) == in_order(batch(declaration, events))


def test_each_derived_column_has_a_description_and_a_type_that_duckdb_agrees_with():
    connection = duckdb.connect()
    connection.register("events", table([]))
    from shopstream.engine.derived_columns import derived_rows  # noqa: PLC0415

    names = [field.name for field in DERIVED_FIELDS]
    described = connection.execute(f"DESCRIBE {derived_rows('events', names)}").fetchall()
    types = {row[0]: row[1] for row in described}
    assert {field.name: field.duckdb for field in DERIVED_FIELDS} == {name: types[name] for name in names}
    assert all(field.doc.endswith(".") for field in DERIVED_FIELDS)
