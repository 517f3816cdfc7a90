"""The source: what is read when, and when it is over."""

from datetime import timedelta
from decimal import Decimal
from threading import Barrier

import numpy as np
import pyarrow as pa
import pytest

from shopstream.clock import ManualClock
from shopstream.engine.settings import EngineSettings
from shopstream.engine.source import SourceReader
from shopstream.engine.watermark import Watermarks
from shopstream.errors import StateError
from shopstream.events.arrow_ipc import encode_arrow
from shopstream.events.schema import WIRE_SCHEMA
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import NewRecord, ReadBatch, Record, Shard
from shopstream.stream.settings import StreamSettings

START_MS = 1_572_566_400_000
SHARD = "shardId-000000000000"
PLENTY = {"max_records": 1000, "max_bytes": 4 << 20}


@pytest.fixture
def stream(tmp_path):
    with EmbeddedStream.open(tmp_path / "s.db", StreamSettings(shards=3), ManualClock(START_MS + 10**9)) as opened:
        yield opened


def put(stream: EmbeddedStream, shard: int, second: int) -> None:
    row = {
        "event_time": (START_MS + second * 1000) * 1000,
        "event_type": "view",
        "product_id": second + 1,
        "category_id": shard + 1,
        "price": Decimal(1),
        "user_id": 1,
    }
    payload = encode_arrow(pa.Table.from_pylist([row], schema=WIRE_SCHEMA))
    stream.put([NewRecord(payload, "k", [s for s in stream.shards() if not s.closed][shard].first_hash_key)])


def drain(stream: EmbeddedStream, **changes) -> list[int]:
    """The seconds of the events in the order an engine takes them."""
    watermarks = Watermarks(5_000, 10_000)
    source = SourceReader(stream, watermarks, EngineSettings(**changes), ManualClock())
    seconds = []
    while (batch := source.poll()).records:
        times = batch.decoded.events["event_time"].cast(pa.int64()).to_numpy() // 1000
        for place, record in enumerate(batch.records):
            watermarks.observe(record.shard_id, times[batch.decoded.events["record"].to_numpy() == place])
        seconds += ((times - START_MS) // 1000).tolist()
    source.close()
    return seconds


def test_every_record_is_read_before_it_is_over(stream):
    for second in range(20):
        put(stream, second % 3, second)
    assert sorted(drain(stream, batch_bytes=1)) == list(range(20))


def test_a_shard_far_ahead_is_read_too_in_the_end(stream):
    put(stream, 0, 0)
    for second in (5_000, 6_000, 7_000):
        put(stream, 1, second)
    assert sorted(drain(stream, batch_bytes=1, max_drift=timedelta(seconds=1))) == [0, 5_000, 6_000, 7_000]


def test_a_shard_far_ahead_waits_for_the_slowest(stream):
    for second in range(0, 60, 10):
        put(stream, 0, second)
    for second in (5_000, 5_010, 5_020):
        put(stream, 1, second)
    order = drain(stream, batch_bytes=1, max_drift=timedelta(seconds=60))
    assert order.index(5_020) > order.index(50), "one batch is read ahead, no more"


def test_children_are_read_after_their_parents(stream):
    put(stream, 0, 0)
    put(stream, 0, 1)
    first = stream.shards()[0]
    stream.split(first.shard_id, (first.first_hash_key + first.last_hash_key) // 2)
    children = [s for s in stream.shards() if s.parent_ids]
    for number, _ in enumerate(children):
        put(stream, [s for s in stream.shards() if not s.closed].index(children[number]), 10 + number)
    order = drain(stream, batch_bytes=1)
    assert sorted(order) == [0, 1, 10, 11]
    assert max(order.index(0), order.index(1)) < min(order.index(10), order.index(11))


def test_it_continues_after_a_position(stream):
    for second in range(4):
        put(stream, 0, second)
    watermarks = Watermarks(5_000, 10_000)
    first = SourceReader(stream, watermarks, EngineSettings(batch_bytes=1), ManualClock())
    positions = first.poll().positions
    first.close()
    second = SourceReader(stream, watermarks, EngineSettings(), ManualClock())
    second.start_after(positions)
    assert second.poll().decoded.events.num_rows == 3
    second.close()


@pytest.fixture
def aging(tmp_path):
    """A stream of one shard that holds two records, and its clock; retention is a day."""
    clock, settings = ManualClock(START_MS), StreamSettings(shards=1, retention=timedelta(days=1))
    with EmbeddedStream.open(tmp_path / "aging.db", settings, clock) as opened:
        for second in range(2):
            put(opened, 0, second)
        yield opened, clock


def remove_closed(aging):
    """Split the shard, and let retention remove it; its children have a record each then. Returns its id."""
    stream, clock = aging
    (parent,) = stream.shards()
    stream.split(parent.shard_id, parent.last_hash_key // 2)
    clock.advance(timedelta(days=2))
    stream.trim()
    for child in range(2):
        put(stream, child, 100 + child)
    assert len(stream.shards()) == 2
    return parent.shard_id


def test_a_closed_shard_that_retention_removed_while_unread_is_an_error(aging):
    stream, clock = aging
    source = SourceReader(stream, Watermarks(0, 10_000), EngineSettings(batch_events=1), clock)
    positions = source.poll().positions
    source.close()
    removed = remove_closed(aging)
    back = SourceReader(stream, Watermarks(0, 10_000), EngineSettings(), clock)
    with pytest.raises(StateError, match=f"retention .* dropped records of {removed}"):
        back.start_after(positions)
    back.close()


@pytest.mark.parametrize("told", [True, False], ids=["its end was kept", "a checkpoint that keeps no ends"])
def test_a_shard_that_was_read_to_its_end_and_removed_holds_nothing_back(aging, told):
    stream, clock = aging
    positions = {record.shard_id: record.sequence_number for record in stream.read(SHARD, -1, **PLENTY).records}
    assert remove_closed(aging) == SHARD
    watermarks = Watermarks(0, 10_000)
    watermarks.restore(START_MS, {SHARD: START_MS + 1_000})
    back = SourceReader(stream, watermarks, EngineSettings(), clock)
    back.start_after(positions, [SHARD] if told else [])
    batch = back.poll()
    for place, record in enumerate(batch.records):
        watermarks.observe(record.shard_id, np.array([START_MS + (100 + place) * 1_000]))
    assert watermarks.advance() == START_MS + 100_000
    assert back.ended == [SHARD]
    back.close()


def test_a_shard_is_known_to_be_ended_when_its_last_record_was_given(aging):
    stream, clock = aging
    source = SourceReader(stream, Watermarks(0, 10_000), EngineSettings(batch_events=1), clock)
    removed = stream.shards()[0]
    stream.split(removed.shard_id, removed.last_hash_key // 2)
    assert (len(source.poll().records), source.ended) == (1, [])
    assert (len(source.poll().records), source.ended) == (1, [SHARD])
    source.close()


class Distant:
    """A stream whose shards answer only when all of them are asked at once."""

    def __init__(self, shards):
        self._shards = shards
        self._all_asked = Barrier(len(shards))

    def shards(self):
        return self._shards

    def read(self, _shard_id, after, **_limits):
        self._all_asked.wait(20)
        return ReadBatch((), after, 0, ended=False)


def test_distant_shards_are_read_at_once():
    distant = Distant([Shard(f"shard-{n}", n, n) for n in range(4)])
    source = SourceReader(distant, Watermarks(5_000, 10_000), EngineSettings(), ManualClock(), readers=4)
    assert source.poll().records == []
    source.close()


def test_an_error_of_one_distant_shard_is_reported(stream):
    class Broken(Distant):
        def read(self, shard_id, *_after, **_limits):
            raise StateError(f"{shard_id} was trimmed")

    source = SourceReader(
        Broken(stream.shards()), Watermarks(5_000, 10_000), EngineSettings(), ManualClock(), readers=2
    )
    with pytest.raises(StateError, match="was trimmed"):
        source.poll()
    source.close()


def test_a_round_that_takes_long_says_nothing_of_a_shard_that_was_empty_at_its_beginning():
    """While the second shard is read, twenty seconds pass, in which the first gets events."""

    class Slow(Distant):
        slow = False

        def read(self, shard_id, after, **_limits):
            if shard_id == "shard-0" or not self.slow:
                return ReadBatch((), after, 0, ended=False)
            clock.advance(timedelta(seconds=20))
            return ReadBatch((Record(b"{}", "k", shard_id, 1, START_MS),), 1, 0, ended=False)

    clock, watermarks = ManualClock(START_MS), Watermarks(0, 10_000)
    stream = Slow([Shard(f"shard-{n}", n, n) for n in range(2)])
    source = SourceReader(stream, watermarks, EngineSettings(), clock)
    for _ in range(12):
        source.poll()
        clock.advance(timedelta(seconds=1))
    assert watermarks.quiet() == (START_MS, 11_000)
    stream.slow = True
    assert len(source.poll().records) == 1
    watermarks.observe("shard-0", np.array([START_MS]))
    watermarks.observe("shard-1", np.array([START_MS + 20_000]))
    assert watermarks.advance() == START_MS
    source.close()


def test_time_passes_for_a_shard_from_the_start_of_an_empty_poll():
    """The process is stopped for a minute between a read that finds nothing and what is made of it."""

    class Stopping(Distant):
        def read(self, _shard_id, after, **_limits):
            clock.advance(timedelta(minutes=1))
            return ReadBatch((), after, 0, ended=False)

    clock, watermarks = ManualClock(START_MS), Watermarks(0, 10_000)
    source = SourceReader(Stopping([Shard("shard-0", 0, 1)]), watermarks, EngineSettings(), clock)
    source.poll()
    assert watermarks.quiet() == (START_MS, 0)
    source.close()


def test_an_empty_read_behind_the_tip_holds_the_watermark_back():
    """Kinesis answers so where a stretch of a shard holds nothing."""

    class Gap(Distant):
        def read(self, shard_id, after, **_limits):
            return ReadBatch((), after, 5_000 if shard_id == "shard-0" else 0, ended=False)

    clock, watermarks = ManualClock(START_MS), Watermarks(0, 10_000)
    source = SourceReader(Gap([Shard(f"shard-{n}", n, n) for n in range(2)]), watermarks, EngineSettings(), clock)
    assert source.poll().behind_ms == 5_000
    watermarks.observe("shard-0", np.array([START_MS]))
    watermarks.observe("shard-1", np.array([START_MS + 60_000]))
    source.poll()
    clock.advance(timedelta(minutes=1))
    source.poll()
    assert watermarks.advance() == START_MS
    source.close()
