"""The engine: duplicates, late events, dead letters, state that is saved, restored and bounded."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pyarrow as pa
import pytest

from shopstream.engine.engine import Engine, Processed
from shopstream.engine.settings import EngineSettings
from shopstream.engine.signals import Signal
from shopstream.engine.window import WindowDeclaration, WindowKind
from shopstream.errors import StateError
from shopstream.events.arrow_ipc import encode_arrow
from shopstream.events.codec import decode
from shopstream.events.schema import LAKE_FIELDS, WIRE_SCHEMA
from shopstream.stream.ports import Record

START_MS = 1_572_566_400_000
BURST = WindowDeclaration(
    "burst", WindowKind.SLIDING, ("user_id",), {"n": "count(*)"}, 10_000, 1_000, condition="n > 3"
)


def engine(*declarations: WindowDeclaration, **changes) -> Engine:
    return Engine(EngineSettings(threads=1, **changes), declarations or (BURST,))


def process(it: Engine, records: list[Record]) -> Processed:
    return it.process(records, decode([r.payload for r in records], [r.arrival_ms for r in records]))


def signals(it: Engine, records: list[Record]) -> list[Signal]:
    process(it, records)
    return it.advance()


def record(*seconds: float, shard: str = "s", number: int = 0, user: int = 1, product: int | None = None) -> Record:
    rows = [
        {
            "event_time": int((START_MS + second * 1000) * 1000),
            "event_type": "view",
            "product_id": product or place + 1,
            "category_id": 1,
            "price": Decimal("1.50"),
            "user_id": user,
        }
        for place, second in enumerate(seconds)
    ]
    payload = encode_arrow(pa.Table.from_pylist(rows, schema=WIRE_SCHEMA))
    return Record(payload, "k", shard, number, START_MS + 3_600_000)


def test_kept_events_have_the_lake_columns():
    processed = process(engine(), [record(1, 2)])
    assert processed.events.column_names == [field.name for field in LAKE_FIELDS]
    assert processed.events.column("arrival_time").cast(pa.int64()).to_pylist() == [(START_MS + 3_600_000) * 1000] * 2


def test_a_duplicate_inside_a_batch_is_dropped_once():
    processed = process(engine(), [record(1, 2), record(1, 2, number=1)])
    assert (processed.counters.events_read, processed.counters.events_kept, processed.counters.duplicates) == (4, 2, 2)


def test_a_duplicate_in_a_later_batch_is_dropped():
    it = engine()
    process(it, [record(1, 2)])
    assert process(it, [record(1, 2, number=1)]).counters.duplicates == 2


def test_a_duplicate_of_a_late_event_is_dropped():
    it = engine()
    process(it, [record(60), record(1, number=1)])
    assert process(it, [record(1, number=2)]).counters.as_dict() == {
        "events_read": 1,
        "events_kept": 0,
        "duplicates": 1,
        "late": 0,
        "dead_letters": 0,
        "suppressed": 0,
        "late_signals": 0,
    }


def test_the_same_content_at_another_second_is_no_duplicate():
    assert process(engine(), [record(1, product=5), record(2, product=5, number=1)]).counters.duplicates == 0


def test_remembered_events_are_bounded_by_horizon_and_number():
    it = engine(dedup_horizon=timedelta(seconds=30), dedup_events=50)
    for step in range(50):
        signals(it, [record(*range(step * 20, step * 20 + 20), number=step)])
    assert it.state_rows()["seen"] <= 2 * 50 + 20
    assert it.state_rows()["window_burst"] <= 60


def test_what_a_producer_sends_again_is_recognised_whatever_its_time():
    it = engine(dedup_horizon=timedelta(0), dedup_events=300)
    for step in range(30):
        signals(it, [record(*range(step * 1_000, step * 1_000 + 10), number=step)])
    again = [record(*range(step * 1_000, step * 1_000 + 10), number=100 + step) for step in range(30)]
    assert process(it, again).counters.duplicates == 300


def test_late_events_are_kept_flagged_and_in_no_window():
    it = engine()
    process(it, [record(100)])
    it.advance()
    processed = process(it, [record(1, 1.1, 1.2, 1.3, 1.4, number=1)])
    assert processed.counters.late == 5
    assert processed.counters.events_kept == 5
    assert processed.events.column("is_late").to_pylist() == [True] * 5
    assert it.advance() == []


def test_a_bad_row_becomes_a_dead_letter_and_the_rest_continues():
    good = "2019-11-01 00:00:01 UTC,view,1,2,,,1.50,7,"
    bad = "2019-11-01 00:00:02 UTC,look,1,2,,,1.50,7,"
    processed = process(engine(), [Record(f"{good}\n{bad}\n".encode(), "k", "s", 9, START_MS)])
    assert processed.counters.as_dict() == {
        "events_read": 2,
        "events_kept": 1,
        "duplicates": 0,
        "late": 0,
        "dead_letters": 1,
        "suppressed": 0,
        "late_signals": 0,
    }
    (letter,) = processed.dead_letters.to_pylist()
    assert letter["reason"] == "unknown_event_type"
    assert letter["payload"] == bad.encode()
    assert (letter["shard_id"], letter["sequence_number"], letter["place"]) == ("s", "9", 1)


def test_a_window_fires_as_soon_as_its_condition_is_true_and_again_when_it_closes():
    it = engine()
    first = signals(it, [record(1, 1.1, 1.2, 1.3)])
    assert {signal.final for signal in first} == {False}
    assert signals(it, [record(1.4, number=1, product=9)]) == [], "a window fires early once"
    last = signals(it, [record(60, number=2, user=2)])
    assert {signal.final for signal in last} == {True}
    assert {signal.start_ms for signal in last} == {signal.start_ms for signal in first}
    assert {signal.measures["n"] for signal in last} == {5}


def test_state_saved_and_restored_continues_as_if_nothing_had_been(tmp_path):
    whole, cut = engine(), engine()
    expected = signals(whole, [record(1, 1.1)]) + signals(whole, [record(1.2, 1.3, 2, number=1)])
    process(cut, [record(1, 1.1)])
    cut.save(tmp_path / "state.duckdb")
    again = engine()
    fresh = again.restore(
        tmp_path / "state.duckdb", cut.state_tables(), cut.watermarks.current_ms, cut.watermarks.newest()
    )
    assert fresh == []
    assert signals(again, [record(1.2, 1.3, 2, number=1)]) == expected
    assert process(again, [record(1, 1.1, number=2)]).counters.duplicates == 2


def test_a_changed_declaration_starts_empty_and_is_named(tmp_path):
    before = engine()
    process(before, [record(1, 1.1)])
    before.save(tmp_path / "state.duckdb")
    changed = WindowDeclaration("burst", WindowKind.SLIDING, ("user_id",), {"n": "count(*)"}, 20_000, 1_000)
    after = engine(changed)
    fresh = after.restore(
        tmp_path / "state.duckdb", before.state_tables(), before.watermarks.current_ms, before.watermarks.newest()
    )
    assert fresh == ["window_burst", "fired_burst"]
    assert after.state_rows() == {"seen": 2, "window_burst": 0, "fired_burst": 0}


def test_damaged_state_is_reported(tmp_path):
    it = engine()
    path = tmp_path / "state.duckdb"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StateError, match="cannot be read"):
        it.restore(path, it.state_tables(), 0, {})


@pytest.mark.parametrize("encoded", [False, True], ids=["plain text", "dictionaries"])
def test_events_that_wait_for_their_order_are_saved_whatever_their_encoding(tmp_path, encoded):
    window = WindowDeclaration("gaps", WindowKind.TUMBLING, (), {"gaps": "sum(gap_ms)", "n": "count(*)"}, 10_000)
    it = engine(window)
    first = record(1, 2, 4)
    decoded = decode([first.payload], [first.arrival_ms])
    if encoded:
        place = decoded.events.schema.get_field_index("event_type")
        column = decoded.events.column(place).combine_chunks().dictionary_encode()
        decoded = replace(decoded, events=decoded.events.set_column(place, "event_type", column))
    it.process([first], decoded)
    it.advance()
    it.save(tmp_path / "state.duckdb")
    again = engine(window)
    assert (
        again.restore(tmp_path / "state.duckdb", it.state_tables(), it.watermarks.current_ms, it.watermarks.newest())
        == []
    )
    (closed,) = signals(again, [record(60, number=1)])
    assert closed.measures == {"gaps": 3_000, "n": 3}
