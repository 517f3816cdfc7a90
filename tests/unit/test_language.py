"""The rule language: which columns and functions it has, what they mean, when a rule fires, what state it costs."""

from datetime import timedelta
from decimal import Decimal

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from shopstream.detection.expression import check_condition, check_filter, check_measure
from shopstream.detection.rule import Rule
from shopstream.engine.compile import batch_sql
from shopstream.engine.engine import Engine
from shopstream.engine.keyed_state import NEVER_MS, KeyedState
from shopstream.engine.settings import EngineSettings
from shopstream.engine.signals import Signal
from shopstream.engine.window import WindowDeclaration, WindowKind
from shopstream.events.arrow_ipc import encode_arrow
from shopstream.events.codec import decode
from shopstream.events.schema import WIRE_SCHEMA
from shopstream.stream.ports import Record

START_MS = 1_572_566_400_000


def rows(*events: tuple[float, int, str]) -> pa.Table:
    """(second, user, type) each; products and ids by place."""
    return pa.Table.from_pylist(
        [
            {
                "event_time": int((START_MS + second * 1000) * 1000),
                "event_type": kind,
                "product_id": place % 7,
                "category_id": 1,
                "price": Decimal("1.50"),
                "user_id": user,
                "event_id": f"{second}-{user}-{place}",
            }
            for place, (second, user, kind) in enumerate(events)
        ],
        schema=WIRE_SCHEMA,
    )


def engine(declaration: WindowDeclaration) -> Engine:
    return Engine(EngineSettings(threads=1, out_of_orderness=timedelta(seconds=5)), [declaration])


def feed(it: Engine, number: int, *events: tuple[float, int, str]) -> list[Signal]:
    record = Record(encode_arrow(rows(*events)), "k", "s", number, START_MS + 10**9)
    it.process([record], decode([record.payload], [record.arrival_ms]))
    return it.advance()


@pytest.mark.parametrize(
    "text",
    [
        "new_user",
        "not viewed",
        "gap_ms < 500 or first_visit",
        "ip_net = '10.0.0.0/24'",
        "ln(gap_ms) > 3 and abs(gap_ms) < 9",
    ],
)
def test_filters_may_ask_for_derived_columns(text):
    assert check_filter(text)


@pytest.mark.parametrize(
    "text",
    [
        "sum(abs(ln(gap_ms / nullif(previous_gap_ms, 0))))",
        "count(distinct hour)",
        "count(*) filter (where viewed and hour_of_day < 6)",
        "max(least(greatest(gap_ms, 1), coalesce(previous_gap_ms, 5)))",
        "avg(floor(sqrt(price)))",
    ],
)
def test_measures_may_use_the_scalar_functions(text):
    assert check_measure(text)


@pytest.mark.parametrize(
    ("check", "text", "words"),
    [
        (check_filter, "read_csv(ip)", "not part of the rule language"),
        (check_filter, "exp(gap_ms) > 1", "it has count"),
        (check_filter, "random() > 0.5", "not part of the rule language"),
        (check_filter, "brand", "true or false"),
        (check_filter, "gap_ms", "true or false"),
        (check_filter, "next_gap_ms > 5", "unknown name 'next_gap_ms'"),
        (check_measure, "sum(lag(price))", "not part of the rule language"),
        (check_measure, "ln(gap_ms)", "expected an aggregate"),
        (check_measure, "ln(count(*)) + gap_ms", "outside an aggregate"),
    ],
)
def test_what_is_not_in_the_language_is_refused(check, text, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        check(text)


def test_conditions_may_use_scalar_functions_over_measures():
    assert (
        check_condition("ln(greatest(n, 1)) > 2 and n / m > 0.5", {"n", "m"})
        == "LN(GREATEST(n, 1)) > 2 AND n / m > 0.5"
    )


@pytest.mark.parametrize("column", ["ip_net", "agent_hash", "hour", "previous_product_id", "new_user"])
def test_derived_columns_may_be_keys(column):
    assert Rule.model_validate(rule_words(key=[column])).window_declaration().key == (column,)


@pytest.mark.parametrize("column", ["gap_ms", "previous_gap_ms", "price", "event_time"])
def test_measurements_are_no_keys(column):
    with pytest.raises(ValueError, match="expected columns among"):
        Rule.model_validate(rule_words(key=[column]))


def rule_words(**changes: object) -> dict[str, object]:
    words = {
        "id": "some_rule",
        "title": "Some rule",
        "description": "It is an example.",
        "level": "low",
        "falsepositives": ["an example"],
        "key": ["user_id"],
        "window": {"kind": "tumbling", "size": "10s"},
        "measures": {"n": "count(*)"},
        "condition": "n > 1",
        "suppress_for": "1m",
        "version": "1",
        "source": "here",
    }
    return words | changes


@pytest.mark.parametrize(
    "measure",
    [
        "max(ln(gap_ms))",
        "sum(1 / gap_ms)",
        "min(sqrt(0 - gap_ms))",
        "max(product_id % gap_ms)",
        "avg(ln(gap_ms))",
        "1 / sum(gap_ms)",
    ],
)
def test_a_value_that_does_not_exist_is_null_and_no_error(measure):
    declaration = WindowDeclaration("w", WindowKind.TUMBLING, ("user_id",), {"m": measure}, 10_000)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("events", rows((1, 1, "view"), (1, 1, "view")))  # a gap of 0 ms
    (row,) = connection.execute(batch_sql(declaration, "events")).fetchall()
    assert row[-1] is None or row[-1] == 0


def test_windows_on_what_happened_before_wait_for_the_watermark_and_others_do_not():
    at_once = WindowDeclaration("now", WindowKind.TUMBLING, (), {"n": "count(*)"}, 60_000, condition="n > 1")
    in_order = WindowDeclaration(
        "later", WindowKind.TUMBLING, (), {"n": "count(*) filter (where gap_ms < 9000)"}, 60_000, condition="n > 0"
    )
    it = Engine(EngineSettings(threads=1), [at_once, in_order])
    assert [s.window for s in feed(it, 0, (1, 1, "view"), (2, 1, "view"))] == ["now"]
    assert [s.window for s in feed(it, 1, (8, 2, "view"))] == ["later"], "the watermark has passed second 2"


def test_a_session_fires_early_once_its_start_is_settled_and_again_when_it_ends():
    visit = WindowDeclaration(
        "visit", WindowKind.SESSION, ("user_id",), {"n": "count(*)"}, gap_ms=30_000, condition="n > 2"
    )
    it = engine(visit)
    assert feed(it, 0, (10, 1, "view"), (11, 1, "view"), (12, 1, "view")) == [], "one might still be put before it"
    (early,) = feed(it, 1, (20, 2, "view"))
    assert (early.final, early.start_ms, early.measures["n"]) == (False, START_MS + 10_000, 3)
    assert feed(it, 2, (21, 1, "view"), (30, 2, "view")) == []
    (final,) = feed(it, 3, (120, 3, "view"))
    assert (final.final, final.start_ms, final.measures["n"]) == (True, early.start_ms, 4)


def test_a_session_whose_condition_may_turn_false_waits_for_its_end():
    visit = WindowDeclaration(
        "visit",
        WindowKind.SESSION,
        ("user_id",),
        {"n": "count(*)", "bought": "count(*) filter (where event_type = 'purchase')"},
        gap_ms=30_000,
        condition="n > 2 and bought = 0",
    )
    it = engine(visit)
    assert feed(it, 0, (10, 1, "view"), (11, 1, "view"), (12, 1, "view")) == []
    assert feed(it, 1, (20, 1, "purchase"), (40, 2, "view")) == []
    assert feed(it, 2, (120, 3, "view")) == []


def test_memory_of_actors_is_bounded_by_those_within_the_horizon():
    it = engine(WindowDeclaration("gaps", WindowKind.TUMBLING, (), {"m": "sum(gap_ms)"}, 10_000))
    for day in range(8):
        feed(it, day, *((day * 200_000 + user / 10, day * 1_000 + user, "view") for user in range(1_000)))
    rows = it.state_rows()
    assert rows["derive_actors"] <= 3_000, "eight thousand came"
    assert rows["derive_pending"] <= 100


def test_a_keyed_memory_forgets_what_is_past_its_horizon_and_keeps_the_newest():
    memory = KeyedState(1_000, ("v",))
    chance = np.random.default_rng(1)
    known: dict[int, tuple[int, int]] = {}
    for now in range(0, 20_000, 100):
        keys = np.unique(chance.integers(0, 5_000, 2_000))
        values = chance.integers(0, 9, len(keys))
        memory.put(keys, np.full(len(keys), now), values, now_ms=now)
        known |= {int(key): (now, int(value)) for key, value in zip(keys, values, strict=True)}
    t, v = memory.get(np.arange(6_000))
    for key in range(6_000):
        seen, value = known.get(key, (NEVER_MS, NEVER_MS))
        if seen >= 19_900 - 1_000:
            assert (t[key], v[key]) == (seen, value)
        else:
            assert t[key] in {seen, NEVER_MS}
    assert len(memory) < 4 * 5_000
    again = KeyedState(1_000, ("v",))
    again.restore({name: memory.table().column(name).to_numpy() for name in ("key", "t", "v")})
    assert [list(column) for column in again.get(np.arange(50))] == [list(t[:50]), list(v[:50])]
