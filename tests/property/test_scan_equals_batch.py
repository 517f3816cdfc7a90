"""Asking cheap questions first, stretch by stretch, gives the windows of the plain batch query."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shopstream.clock import to_ms
from shopstream.engine.batch import BatchScan, prefilter_of
from shopstream.engine.compile import batch_sql
from shopstream.engine.window import WindowDeclaration, WindowKind
from shopstream.events.schema import WIRE_SCHEMA

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY, HOUR, MINUTE = 86_400_000, 3_600_000, 60_000


def sliding(name, key, measures, condition, *, size=10_000, slide=1_000, **words):
    return WindowDeclaration(name, WindowKind.SLIDING, key, measures, size, slide, condition=condition, **words)


DECLARATIONS = (
    sliding("burst", ("user_id",), {"events": "count(*)"}, "events > 3"),
    sliding(
        "breadth",
        ("user_id",),
        {"products": "count(distinct product_id) filter (where event_type = 'view')", "spent": "sum(price)"},
        "products >= 2 and spent > 5",
    ),
    sliding("site", (), {"events": "count(*)", "users": "count(distinct user_id)"}, "events >= 4"),
    sliding("net", ("ip_net",), {"events": "count(*)"}, "events between 2 and 5"),
    sliding(
        "either",
        ("user_id", "event_type"),
        {"n": "count(*)", "top": "max(price)", "low": "min(price)"},
        "(n > 2 or top >= 400) and low < 300",
        filter="product_id <> 4",
    ),
    sliding(
        "no_bound",
        ("category_id",),
        {"n": "count(*)", "mean": "avg(price)"},
        "n < 3 or mean > 100",
        size=8_000,
        slide=4_000,
    ),
    sliding("day", ("user_id",), {"hours": "count(distinct hour)"}, "hours >= 2", size=DAY, slide=HOUR),
    sliding(
        "gaps",
        ("user_id",),
        {"n": "count(*)", "worst": "max(gap_ms)"},
        "n >= 2 and worst < 20000",
        size=MINUTE,
        slide=5_000,
    ),
    sliding(
        "fresh",
        (),
        {"n": "count(*)", "fresh": "count(distinct user_id) filter (where new_user)"},
        "fresh >= 2",
        size=MINUTE,
        slide=MINUTE // 2,
    ),
    sliding(
        "steady",
        ("user_id",),
        {"same": "count(*) filter (where gap_ms = previous_gap_ms)", "n": "count(gap_ms)"},
        "same >= 1 and n > 0",
        size=MINUTE,
        slide=MINUTE,
        filter="previous_gap_ms is not null and product_id > 1",
    ),
    WindowDeclaration("mix", WindowKind.TUMBLING, ("event_type",), {"n": "count(*)", "mean": "avg(price)"}, 5_000),
    WindowDeclaration(
        "visits",
        WindowKind.SESSION,
        ("user_id", "user_session"),
        {"n": "count(*)", "products": "count(distinct product_id)", "spent": "sum(price)"},
        gap_ms=3_000,
        condition="n > 1",
    ),
    WindowDeclaration("stays", WindowKind.SESSION, ("user_id",), {"n": "count(*)", "low": "min(price)"}, gap_ms=HOUR),
    WindowDeclaration(
        "returns",
        WindowKind.SESSION,
        ("user_id",),
        {"n": "count(*)", "fresh": "count(*) filter (where first_visit)"},
        gap_ms=2 * DAY,
        condition="n >= 3",
    ),
)

event = st.fixed_dictionaries(
    {
        "anchor": st.sampled_from([0, DAY - 20_000, 3 * DAY - 20_000, 5 * DAY]),
        "second": st.integers(0, 40),
        "event_type": st.sampled_from(["view", "view", "cart", "purchase"]),
        "product_id": st.integers(1, 4),
        "category_id": st.integers(1, 2),
        "user_id": st.integers(1, 3),
        "user_session": st.sampled_from(["a", "b", None]),
        "cents": st.integers(0, 50_000),
        "ip": st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.1.1", None]),
        "copies": st.sampled_from([1, 1, 1, 2]),
    }
)


def table(events):
    rows = []
    for number, e in enumerate(events):
        row = {name: e[name] for name in WIRE_SCHEMA.names if name in e}
        row["event_time"] = START + timedelta(milliseconds=e["anchor"] + e["second"] * 1000)
        row |= {"price": Decimal(e["cents"]).scaleb(-2), "event_id": f"e{number}"}
        rows += [row] * e["copies"]
    return pa.Table.from_pylist(rows, schema=WIRE_SCHEMA)


def in_order(rows):
    return sorted(rows, key=lambda row: tuple((value is None, str(value)) for value in row))


def scanned(connection, declaration, **limits):
    BatchScan(connection, declaration, "events", "found", **limits).run()
    return in_order(connection.execute("FROM found").fetchall())


def connected(events):
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET threads = 1")
    connection.register("arrived", table(events))
    connection.execute("CREATE TABLE events AS FROM arrived")
    return connection


@pytest.mark.parametrize("declaration", DECLARATIONS, ids=lambda d: d.name)
@settings(max_examples=20, deadline=None)
@given(events=st.lists(event, min_size=1, max_size=50))
def test_a_scan_gives_the_rows_of_the_batch_query_over_single_events(declaration, events):
    with connected(events) as connection:
        plain = connection.execute(batch_sql(declaration, "(SELECT DISTINCT * FROM events)")).fetchall()
        assert scanned(connection, declaration) == in_order(plain)


@settings(max_examples=20, deadline=None)
@given(events=st.lists(event, min_size=1, max_size=50), first=st.integers(0, 40), length=st.integers(1, 3 * 86_400))
def test_limits_leave_out_what_is_before_and_after(events, first, length):
    declaration = DECLARATIONS[0]
    from_ms = to_ms(START) + first * 1000
    until_ms = from_ms + length * 1000
    with connected(events) as connection:
        inside = f"""(SELECT DISTINCT * FROM events
                      WHERE epoch_ms(event_time) >= {from_ms} AND epoch_ms(event_time) < {until_ms})"""
        plain = connection.execute(batch_sql(declaration, inside)).fetchall()
        assert scanned(connection, declaration, from_ms=from_ms, until_ms=until_ms) == in_order(plain)


def test_derived_columns_look_back_beyond_the_limits():
    events = [
        {"anchor": 0, "second": second, "event_type": "view", "product_id": 1, "category_id": 1, "user_id": 1}
        | {"user_session": "a", "cents": 1, "ip": None, "copies": 1}
        for second in (0, 10, 20)
    ]
    declaration = sliding("gaps", ("user_id",), {"n": "count(gap_ms)"}, "n >= 1", size=MINUTE, slide=MINUTE)
    with connected(events) as connection:
        assert [row[-1] for row in scanned(connection, declaration, from_ms=to_ms(START) + 5_000)] == [2]


def test_no_events_give_no_windows():
    with connected([]) as connection:
        assert scanned(connection, DECLARATIONS[0]) == []


@pytest.mark.parametrize(
    ("measure", "condition", "total", "half"),
    [
        ("count(*)", "m > 15", "COUNT(*) >= 16", "COUNT(*) >= 8"),
        ("count(*)", "15 < m", "COUNT(*) >= 16", "COUNT(*) >= 8"),
        ("count(*)", "m >= 2.5", "COUNT(*) >= 3", "COUNT(*) >= 2"),
        ("count(*)", "m = 4", "COUNT(*) >= 4", "COUNT(*) >= 2"),
        ("count(*)", "m between 6 and 9", "COUNT(*) >= 6", "COUNT(*) >= 3"),
        ("count(*)", "m < 15", None, None),
        ("count(*)", "not m > 15", None, None),
        ("count(*)", "m > 15 or m < 2", None, None),
        ("count(*)", "m > -1", None, None),
        ("count(distinct product_id)", "m > 3", 'count("product_id") >= 4', 'COUNT(DISTINCT "product_id") >= 2'),
        ("count(*) filter (where gap_ms < 9)", "m > 3", "count(*) >= 4", "count(*) >= 2"),
        ("max(price)", "m > 3", 'MAX("price") > 3.0', 'MAX("price") > 3.0'),
        ("min(price)", "m > 3", None, None),
        ("max(gap_ms)", "m > 3", None, None),
        ("sum(price)", "m > 3", None, None),
        ("1 + count(*)", "m > 3", None, None),
    ],
)
def test_a_condition_demands_what_it_must_and_no_more(measure, condition, total, half):
    demand = prefilter_of(sliding("w", ("user_id",), {"m": measure}, condition))
    assert (demand.run is not None) == (total is not None and "MAX" not in total)
    assert (demand.total, demand.halves) == (total, (half,) if half else ())


@pytest.mark.parametrize(
    ("measures", "condition", "events", "counted"),
    [
        ({"m": "count(*)"}, "m > 15", 16, None),
        (
            {"m": "count(*)", "n": "count(brand) filter (where price > 1)"},
            "m > 2 and n >= 9",
            9,
            '("price" > 1) AND ("brand" IS NOT NULL)',
        ),
        ({"m": "count(distinct product_id)"}, "m >= 3", 3, '("product_id" IS NOT NULL)'),
        ({"m": "count(*) filter (where gap_ms < 9)"}, "m >= 3", 3, None),
    ],
)
def test_the_largest_count_of_a_condition_is_a_run_of_events(measures, condition, events, counted):
    run = prefilter_of(sliding("w", ("user_id",), measures, condition)).run
    assert (run.events, run.counted) == (events, counted)


def test_each_part_of_a_condition_may_hold_in_another_block():
    measures = {"m": "count(*)", "top": "max(price)"}
    demand = prefilter_of(sliding("w", ("user_id",), measures, "m > 3 and top > 9"))
    assert demand.total == 'COUNT(*) >= 4 AND MAX("price") > 9.0'
    assert demand.halves == ("COUNT(*) >= 2", 'MAX("price") > 9.0')
