"""Whatever way the same events are cut and interleaved, streaming gives the rows of the batch query."""

from collections.abc import Sequence
from datetime import timedelta

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shopstream.engine.compile import batch_sql
from shopstream.engine.engine import Engine
from shopstream.engine.settings import EngineSettings
from shopstream.engine.signals import Signal
from shopstream.engine.window import WindowDeclaration, WindowKind
from shopstream.events.arrow_ipc import encode_arrow
from shopstream.events.codec import decode
from shopstream.events.schema import WIRE_SCHEMA
from shopstream.stream.ports import Record

START_MS = 1_572_566_400_000
LATENESS_MS = 5_000
SHARDS = 3

DECLARATIONS = (
    WindowDeclaration(
        "burst", WindowKind.SLIDING, ("user_id",), {"events": "count(*)"}, 10_000, 1_000, condition="events > 3"
    ),
    WindowDeclaration(
        "breadth",
        WindowKind.SLIDING,
        ("user_id",),
        {"products": "count(distinct product_id) filter (where event_type = 'view')", "spent": "sum(price)"},
        6_000,
        2_000,
        condition="products >= 2",
    ),
    WindowDeclaration("site", WindowKind.SLIDING, (), {"events": "count(*)"}, 4_000, 1_000, condition="events >= 4"),
    WindowDeclaration("mix", WindowKind.TUMBLING, ("event_type",), {"n": "count(*)", "mean": "avg(price)"}, 5_000),
    WindowDeclaration(
        "calm",
        WindowKind.SLIDING,
        ("product_id",),
        {"shoppers": "count(distinct user_id)", "n": "count(*)", "top": "max(price)", "low": "min(price)"},
        8_000,
        4_000,
        filter="event_type <> 'cart'",
        condition="n >= 2 and shoppers < 2",
    ),
    WindowDeclaration(
        "visits",
        WindowKind.SESSION,
        ("user_id", "user_session"),
        {"n": "count(*)", "products": "count(distinct product_id)", "spent": "sum(price)"},
        gap_ms=3_000,
        condition="n > 1",
    ),
    WindowDeclaration(
        "stays",
        WindowKind.SESSION,
        ("user_id",),
        {
            "n": "count(*)",
            "mean": "avg(price)",
            "low": "min(price)",
            "bought": "count(*) filter (where event_type = 'purchase')",
        },
        gap_ms=2_000,
    ),
)

event = st.fixed_dictionaries(
    {
        "second": st.integers(0, 40),
        "lag": st.integers(0, LATENESS_MS // 1000),
        "event_type": st.sampled_from(["view", "view", "cart", "purchase"]),
        "product_id": st.integers(1, 4),
        "user_id": st.integers(1, 3),
        "user_session": st.sampled_from(["a", "b", None]),
        "cents": st.integers(0, 50_000),
        "shard": st.integers(0, SHARDS - 1),
    }
)


def table(events: Sequence[dict]) -> pa.Table:
    rows = [
        {
            "event_time": (START_MS + e["second"] * 1000) * 1000,
            "event_type": e["event_type"],
            "product_id": e["product_id"],
            "category_id": 7,
            "price": None,
            "user_id": e["user_id"],
            "user_session": e["user_session"],
            "event_id": f"e{e['n']}",
        }
        for e in events
    ]
    for row, e in zip(rows, events, strict=True):
        row["price"] = pa.scalar(e["cents"]).cast(pa.decimal128(25, 0)).as_py().scaleb(-2)
    return pa.Table.from_pylist(rows, schema=WIRE_SCHEMA)


def arrange(events: list[dict]) -> dict[str, list[dict]]:
    """Shard → its events in arrival order: event time plus a lag within the allowed lateness."""
    shards: dict[str, list[dict]] = {f"shard-{i}": [] for i in range(SHARDS)}
    for n, e in enumerate(events):
        e["n"] = n
        shards[f"shard-{e['shard']}"].append(e)
    for queue in shards.values():
        queue.sort(key=lambda e: e["second"] + e["lag"])
    return shards


def play(shards: dict[str, list[dict]], cuts: list[int], advance_every: int, engine: Engine) -> list[Signal]:
    """Feed the shards in batches whose sizes and order `cuts` gives."""
    positions = dict.fromkeys(shards, 0)
    signals: list[Signal] = []
    turn = 0
    for shard_id in shards:  # every shard is known before the watermark may move
        engine.watermarks.observe(shard_id, pa.array([], pa.int64()).to_numpy())
    while any(positions[s] < len(q) for s, q in shards.items()):
        records = []
        for offset, (shard_id, queue) in enumerate(shards.items()):
            size = cuts[(turn + offset) % len(cuts)]
            chunk = queue[positions[shard_id] : positions[shard_id] + size]
            positions[shard_id] += len(chunk)
            if chunk:
                payload = encode_arrow(table(chunk))
                records.append(Record(payload, "k", shard_id, positions[shard_id], START_MS + 10**9))
            elif positions[shard_id] == len(queue):
                engine.watermarks.at_tip(shard_id, 0, ended=True)
        turn += 1
        if records:
            decoded = decode([r.payload for r in records], [r.arrival_ms for r in records])
            engine.process(records, decoded)
            if turn % advance_every == 0:
                signals += engine.advance()
    signals += engine.advance(to_the_end=True)
    engine.watermarks.current_ms = START_MS + 10**7
    return signals + engine.advance(to_the_end=True)


def as_row(signal: Signal) -> tuple:
    return (
        *signal.key.values(),
        signal.start_ms,
        signal.end_ms,
        signal.first_event_ms,
        signal.last_event_ms,
        *signal.measures.values(),
    )


def sort_key(row: tuple) -> tuple:
    return tuple((value is None, str(value)) for value in row)


@pytest.mark.parametrize("declaration", DECLARATIONS, ids=lambda d: d.name)
@settings(max_examples=25, deadline=None)
@given(
    events=st.lists(event, min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 7), min_size=1, max_size=5),
    advance_every=st.integers(1, 4),
)
def test_streaming_gives_the_rows_of_the_batch_query(declaration, events, cuts, advance_every):
    if not any(cuts):
        cuts = [1]
    engine = Engine(EngineSettings(out_of_orderness=timedelta(milliseconds=LATENESS_MS), threads=1), [declaration])
    signals = play(arrange(events), cuts, advance_every, engine)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("events", table(events))
    expected = connection.execute(batch_sql(declaration, "events")).fetchall()
    final = [as_row(signal) for signal in signals if signal.final]
    assert sorted(final, key=sort_key) == sorted(expected, key=sort_key)
    windows = {(tuple(s.key.values()), s.start_ms) for s in signals if s.final}
    early = [(tuple(s.key.values()), s.start_ms) for s in signals if not s.final]
    assert set(early) <= windows, "what fires early stays true"
    assert len(early) == len(set(early)), "a window fires early once"
