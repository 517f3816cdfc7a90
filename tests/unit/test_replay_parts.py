"""Partitioning, pacing, sender: the parts of a replay, each alone."""

from datetime import timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from shopstream.clock import ManualClock, from_ms
from shopstream.errors import BackpressureError, PermanentError, RetryableError, StateError
from shopstream.events.codec import Decoder
from shopstream.events.schema import WIRE_SCHEMA
from shopstream.simulation.partitioning import PartitionKey, Router, even_shards, key_texts, packed
from shopstream.simulation.replay import Pacer, reject_records
from shopstream.simulation.stream_sender import Lane, RateLimit, SendStatistics, StreamSender
from shopstream.stream.ports import (
    MAX_PUT_BYTES,
    MAX_PUT_RECORDS,
    MAX_RECORD_BYTES,
    NewRecord,
    PutOutcome,
    Shard,
    hash_key,
)

ARRIVAL_MS = 2_000_000_000_000


def some_events(count: int, text: str = "") -> pa.Table:
    rows = [
        {
            "event_time": from_ms(1_572_566_400_000 + 1000 * row),
            "event_type": "view",
            "product_id": row,
            "category_id": row % 7,
            "price": Decimal(row).scaleb(-2),
            "user_id": row % 11,
            "user_session": f"{text}{row % 13}" if row % 3 else None,
        }
        for row in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=WIRE_SCHEMA)


def decoded(records: list[NewRecord]) -> list[dict[str, object]]:
    result = Decoder().decode([record.payload for record in records], [ARRIVAL_MS] * len(records))
    assert result.rejects.num_rows == 0
    return result.events.to_pylist()


@pytest.mark.parametrize("key", [key for key in PartitionKey if key is not PartitionKey.RANDOM])
def test_each_event_goes_to_the_shard_of_its_key_in_order(key):
    events = some_events(500)
    router = Router(even_shards(4))
    queues = packed(events, key, router, np.arange(500))
    seen = []
    for shard, queue in zip(router.shards, queues, strict=True):
        rows = decoded(queue)
        seen += rows
        products = [row["product_id"] for row in rows]
        assert products == sorted(products)
        for record in queue:
            assert shard.first_hash_key <= record.explicit_hash_key <= shard.last_hash_key
            assert record.explicit_hash_key == hash_key(record.partition_key)
        for row in rows:
            text = row[key.value] if row[key.value] is not None else row["user_id"]
            assert shard.first_hash_key <= hash_key(str(text)) <= shard.last_hash_key
    assert sorted(row["product_id"] for row in seen) == list(range(500))


def test_the_random_key_selects_shards_by_position_so_that_a_resend_takes_the_same_shards():
    events, router = some_events(100), Router(even_shards(4))
    whole = packed(events, PartitionKey.RANDOM, router, np.arange(100))
    again = packed(events.slice(50), PartitionKey.RANDOM, router, np.arange(50, 100))
    for first, second in zip(whole, again, strict=True):
        late = [row["product_id"] for row in decoded(first) if row["product_id"] >= 50]
        assert late == [row["product_id"] for row in decoded(second)]
    assert {len(decoded(queue)) for queue in whole} == {25}


def test_closed_shards_get_no_events():
    left, right = even_shards(2)
    parent = Shard("parent", left.first_hash_key, right.last_hash_key, closed=True)
    assert Router([parent, left, right]).ids == {left.shard_id, right.shard_id}
    with pytest.raises(StateError, match="expected an open shard"):
        Router([parent])


def test_an_event_without_session_is_routed_by_its_user():
    texts = key_texts(some_events(4), PartitionKey.USER_SESSION).to_pylist()
    assert texts == ["0", "1", "2", "3"]


def test_records_stay_within_the_limit_and_hold_everything():
    noise = "".join(chr(0x4E00 + (row * 7919) % 20000) for row in range(300))
    events = some_events(20_000).set_column(
        8, "user_session", pa.array([f"{row * 2654435761 % 2**32:x}{noise[row % 100 :]}" for row in range(20_000)])
    )
    (queue,) = packed(events, PartitionKey.CATEGORY_ID, Router(even_shards(1)), np.arange(20_000))
    assert len(queue) > 1
    assert all(len(record.payload) + len(record.partition_key.encode()) <= MAX_RECORD_BYTES for record in queue)
    assert [row["product_id"] for row in decoded(queue)] == list(range(20_000))


def test_without_limit_everything_is_due_at_once():
    assert list(Pacer(ManualClock()).slices(np.array([5, 9, 7]))) == [(0, 3)]


def test_speed_sends_events_when_their_event_time_is_due():
    clock = ManualClock(1_000_000)
    times = np.array([0, 60, 120, 90, 600]) * 1_000_000
    went = [(low, high, clock.now_ms() - 1_000_000) for low, high in Pacer(clock, speed=60).slices(times)]
    assert [(low, high) for low, high, _ in went] == [(0, 1), (1, 2), (2, 4), (4, 5)]
    for (_, _, at), due in zip(went, (0, 1000, 2000, 10_000), strict=True):
        assert due <= at <= due + 60


def test_speed_continues_over_several_calls():
    clock = ManualClock()
    pacer = Pacer(clock, speed=1)
    list(pacer.slices(np.array([0, 1_000_000])))
    list(pacer.slices(np.array([3_000_000])))
    assert 3000 <= clock.now_ms() <= 3060


def test_rate_limits_events_per_second():
    clock = ManualClock()
    pacer = Pacer(clock, rate=1000)
    slices = [part for _ in range(4) for part in pacer.slices(np.zeros(1250, dtype=np.int64))]
    assert sum(high - low for low, high in slices) == 5000
    assert 4900 <= clock.now_ms() <= 5060
    assert max(high - low for low, high in slices) <= 60


def test_a_rate_below_one_a_second_waits_between_events():
    clock = ManualClock()
    assert list(Pacer(clock, rate=0.5).slices(np.zeros(3, dtype=np.int64))) == [(0, 1), (1, 2), (2, 3)]
    assert 5900 <= clock.now_ms() <= 6060


def test_a_delayed_replay_does_not_rush():
    clock = ManualClock()
    pacer = Pacer(clock, rate=1000)
    slices = pacer.slices(np.zeros(100_000, dtype=np.int64))
    next(slices)
    clock.advance(timedelta(minutes=1))
    low, high = next(slices)
    assert high - low <= 1060


class Flaky:
    """A stream in memory whose puts fail as told: an exception, or the places that are refused."""

    def __init__(self, *script: Exception | set[int]) -> None:
        self.script = list(script)
        self.puts: list[list[str]] = []
        self.taken: list[str] = []

    def put(self, records):
        names = [record.payload.decode() for record in records]
        self.puts.append(names)
        step = self.script.pop(0) if self.script else set()
        if isinstance(step, Exception):
            raise step
        self.taken += [name for place, name in enumerate(names) if place not in step]
        return [
            PutOutcome(error_code="ProvisionedThroughputExceeded", error_message="slow down")
            if place in step
            else PutOutcome(shard_id="s", sequence_number=1)
            for place in range(len(records))
        ]


def queue(*names: str) -> list[NewRecord]:
    return [NewRecord(name.encode(), "k", 0) for name in names]


def send(stream: Flaky, *queues: list[NewRecord]) -> tuple[ManualClock, list[str]]:
    clock, told = ManualClock(), []
    sender = StreamSender(stream, clock, lambda why, _: told.append(why))
    sender.send([Lane(f"shard-{place}", records) for place, records in enumerate(queues)])
    return clock, told


def test_a_refused_record_holds_back_its_own_shard_and_nothing_overtakes_it():
    stream = Flaky({0}, set(), set(), {0})
    send(stream, queue("a1", "a2", "a3"), queue("b1", "b2", "b3"))
    assert stream.puts == [["a1", "b1"], ["b2"], ["b3"], ["a1"], ["a1"], ["a2"], ["a3"]]
    assert stream.taken == ["b1", "b2", "b3", "a1", "a2", "a3"]


def test_unordered_records_share_a_put_and_only_refused_ones_are_sent_again():
    stream = Flaky({1, 3})
    bad = [NewRecord(f"x{place}".encode(), "k") for place in range(MAX_PUT_RECORDS + 3)]
    sender = StreamSender(stream, ManualClock(), lambda *_: None)
    sender.send([Lane("shard-0", queue("a1", "a2")), Lane("shard-0", bad, ordered=False)])
    assert [len(names) for names in stream.puts] == [500, 7]
    assert stream.puts[1] == ["a2", "x0", "x2", "x499", "x500", "x501", "x502"]
    assert len(stream.taken) == len(set(stream.taken)) == len(bad) + 2


def test_the_figures_of_a_sender_count_refused_and_repeated_records():
    clock = ManualClock()
    sender = StreamSender(Flaky({0}, RetryableError("lost")), clock, lambda *_: None)
    sender.send([Lane("shard-0", queue("a", "bb"))])
    assert sender.statistics == SendStatistics(
        records=2, bytes=3, puts=3, refused=1, repeated=1, waited_ms=clock.now_ms()
    )
    assert clock.now_ms() > 0


def test_a_shard_without_refusals_has_no_rate_limit():
    limit = RateLimit()
    for now in range(100):
        limit.taken(now, MAX_RECORD_BYTES)
    assert (limit.rate, limit.ready_ms) == (None, 0)


def test_a_refusal_decreases_the_rate_of_a_shard_and_success_increases_it():
    limit = RateLimit()
    limit.refused(0)
    assert (limit.rate, limit.ready_ms) == (1 << 20, 100)
    limit.refused(100)
    assert limit.rate == (1 << 20) * 0.8
    assert limit.ready_ms == 300
    slow = limit.rate
    limit.taken(300, 1 << 19)
    assert 900 < limit.ready_ms < 1000
    for second in range(1, 31):
        limit.taken(1000 * second, 1 << 10)
    assert 1.5 < limit.rate / slow < 2


def test_pauses_grow_while_a_shard_refuses_and_are_short_again_after():
    limit, pauses, now = RateLimit(), [], 0.0
    for _ in range(10):
        limit.refused(now)
        pauses.append(limit.ready_ms - now)
        now = limit.ready_ms
    assert pauses == [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]
    limit.taken(now, 1)
    limit.refused(now)
    assert limit.ready_ms - now == 100


def test_a_sender_finds_the_rate_of_a_shard():
    clock = ManualClock()

    class Limited:
        """Takes so many bytes a second; holds credit for one second."""

        def __init__(self) -> None:
            self.credit, self.then, self.refused = 300_000.0, 0, 0

        def put(self, records):
            clock.advance(timedelta(milliseconds=20))
            self.credit = min(300_000.0, self.credit + (clock.now_ms() - self.then) * 300)
            self.then = clock.now_ms()
            if self.credit < len(records[0].payload):
                self.refused += 1
                return [PutOutcome(error_code="ProvisionedThroughputExceededException")]
            self.credit -= len(records[0].payload)
            return [PutOutcome(shard_id="s", sequence_number=1)]

    stream = Limited()
    sender = StreamSender(stream, clock, lambda *_: None)
    sender.send([Lane("s", [NewRecord(bytes(50_000), "k", 0)] * 1000)])
    assert 150 < clock.now_ms() / 1000 < 150 * 1.15 / 0.9
    assert stream.refused < 50


def test_backpressure_is_waited_out_as_long_as_the_stream_asks():
    full = [BackpressureError("full", timedelta(seconds=7))] * 20
    stream = Flaky(*full)
    clock, told = send(stream, queue("a"))
    assert stream.taken == ["a"]
    assert clock.now_ms() == 140_000
    assert told == ["full"] * 20


def test_a_stream_that_cannot_be_reached_again_and_again_is_an_error():
    stream = Flaky(*[RetryableError("away")] * 8)
    with pytest.raises(RetryableError, match="away"):
        send(stream, queue("a"))


def test_a_permanent_error_is_not_retried():
    stream = Flaky(PermanentError("too large"))
    with pytest.raises(PermanentError):
        send(stream, queue("a"))
    assert len(stream.puts) == 1


def test_a_put_stays_within_the_bytes_a_stream_takes():
    stream = Flaky()
    big = "x" * (MAX_RECORD_BYTES - 10)
    send(stream, *[queue(big + str(place)) for place in range(9)])
    assert all(sum(len(name) for name in names) <= MAX_PUT_BYTES for names in stream.puts)
    assert sorted(name[-1] for name in stream.taken) == [str(place) for place in range(9)]


def rejects(*rows: bytes) -> pa.Table:
    return pa.table({"payload": pa.array(rows, pa.binary())})


HEADER = b"event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"


def test_rejected_rows_arrive_unchanged():
    rows = [b"hello", b'{"a": 1}', b"cut,row", HEADER.strip(), b"\xff\x00raw", b'"stray']
    records = reject_records(rejects(*rows), HEADER)
    result = Decoder().decode([record.payload for record in records], [ARRIVAL_MS] * len(records))
    assert result.events.num_rows == 0
    assert result.rejects["payload"].to_pylist() == rows


def test_neighbouring_rejected_rows_share_records_within_the_limit():
    rows = [b"x" * 100 + str(row).encode() for row in range(20_000)]
    records = reject_records(rejects(*rows), HEADER)
    assert len(records) < 20
    assert all(len(record.payload) < MAX_RECORD_BYTES for record in records)


def test_a_row_longer_than_a_record_is_cut_not_dropped():
    row = bytes(97 + place % 26 for place in range(3 << 20))
    records = reject_records(rejects(row), HEADER)
    assert b"".join(record.payload.removeprefix(HEADER).removesuffix(b"\n") for record in records) == row
    assert all(len(record.payload) + 64 < MAX_RECORD_BYTES for record in records)
