"""What every stream adapter keeps to. Nothing here knows which adapter runs; see conftest.py to add one.

Written for remote streams too: records may take a while to show, a read may come back empty before the tip, single
records of a put may be refused and are put again.
"""

import threading
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise

import pytest

from shopstream.errors import BackpressureError, PermanentError, StateError
from shopstream.stream.ports import (
    HASH_KEY_SPACE,
    MAX_PUT_BYTES,
    MAX_PUT_RECORDS,
    MAX_RECORD_BYTES,
    TRIM_HORIZON,
    NewRecord,
    Position,
    PutOutcome,
    Record,
    Shard,
    hash_key,
)

PATIENCE = 50
A_WHILE = timedelta(milliseconds=100)
PLENTY = {"max_records": 1000, "max_bytes": 4 << 20}


def put_all(stream, records: Sequence[NewRecord]) -> list[PutOutcome]:
    """Put, and put again what was refused, as a writer must."""
    places: dict[int, PutOutcome] = {}
    pending = list(enumerate(records))
    for _ in range(PATIENCE):
        try:
            outcomes = stream.writer.put([record for _, record in pending])
        except BackpressureError as error:
            stream.clock.sleep(error.retry_after)
            continue
        places |= {place: o for (place, _), o in zip(pending, outcomes, strict=True) if o.error_code is None}
        pending = [item for item in pending if item[0] not in places]
        if not pending:
            return [places[place] for place in range(len(records))]
        stream.clock.sleep(A_WHILE)
    raise AssertionError(f"{len(pending)} records were refused {PATIENCE} times")


def drain(stream, shard_id: str, expect: int, after: Position = TRIM_HORIZON, **limits: int) -> list[Record]:
    """Read until so many records came."""
    records: list[Record] = []
    for _ in range(PATIENCE + expect):
        batch = stream.reader.read(shard_id, after, **(PLENTY | limits))
        records += batch.records
        after = batch.position
        if len(records) >= expect:
            return records
        if not batch.records:
            stream.clock.sleep(A_WHILE)
    raise AssertionError(f"expected {expect} records of {shard_id}, got {len(records)}")


def drain_to_end(stream, shard_id: str, after: Position = TRIM_HORIZON) -> list[Record]:
    """Read a closed shard until it says that it ended."""
    records: list[Record] = []
    for _ in range(PATIENCE + 1000):
        batch = stream.reader.read(shard_id, after, max_records=7, max_bytes=4 << 20)
        records += batch.records
        after = batch.position
        if batch.ended:
            return records
        if not batch.records:
            stream.clock.sleep(A_WHILE)
    raise AssertionError(f"{shard_id} never ended")


class Follower:
    """Reads a whole stream as a consumer must: a parent to its end before its children."""

    def __init__(self, stream) -> None:
        self.stream = stream
        self.records: list[Record] = []
        self.positions: dict[str, Position] = {}
        self.ended: set[str] = set()

    def read_round(self) -> None:
        shards = self.stream.reader.shards()
        listed = {shard.shard_id for shard in shards}
        for shard in shards:
            if shard.shard_id in self.ended or (set(shard.parent_ids) & listed) - self.ended:
                continue
            after = self.positions.get(shard.shard_id, TRIM_HORIZON)
            batch = self.stream.reader.read(shard.shard_id, after, max_records=5, max_bytes=1 << 20)
            self.records += batch.records
            self.positions[shard.shard_id] = batch.position
            if batch.ended:
                self.ended.add(shard.shard_id)

    def read_until(self, count: int) -> None:
        for _ in range(PATIENCE + count):
            if len(self.records) >= count:
                return
            before = len(self.records)
            self.read_round()
            if len(self.records) == before:
                self.stream.clock.sleep(A_WHILE)
        raise AssertionError(f"expected {count} records, got {len(self.records)}")

    def payloads_by_key(self) -> dict[str, list[bytes]]:
        found = defaultdict(list)
        for record in self.records:
            found[record.partition_key].append(record.payload)
        return dict(found)


def open_shards(stream) -> list[Shard]:
    shards = [shard for shard in stream.reader.shards() if not shard.closed]
    return sorted(shards, key=lambda shard: shard.first_hash_key)


def shard_of(stream, key: int) -> str:
    return next(s.shard_id for s in open_shards(stream) if s.first_hash_key <= key <= s.last_hash_key)


def one_of_each_key(keys: int, number: int) -> list[NewRecord]:
    return [NewRecord(b"%d" % number, f"key-{key}") for key in range(keys)]


def middle(shard: Shard) -> int:
    return (shard.first_hash_key + shard.last_hash_key + 1) // 2


# Shards and routing


def test_a_new_streams_shards_cover_all_hash_keys_once(make_stream):
    shards = open_shards(make_stream(3))
    assert len(shards) == 3
    assert shards[0].first_hash_key == 0
    assert shards[-1].last_hash_key == HASH_KEY_SPACE - 1
    assert all(left.last_hash_key + 1 == right.first_hash_key for left, right in pairwise(shards))
    assert all(not shard.parent_ids for shard in shards)


def test_a_record_goes_to_the_shard_that_takes_the_md5_of_its_partition_key(stream):
    keys = [f"category-{i}" for i in range(50)] + ["ключ", "鍵", "🔑"]
    outcomes = put_all(stream, [NewRecord(b"x", key) for key in keys])
    assert [outcome.shard_id for outcome in outcomes] == [shard_of(stream, hash_key(key)) for key in keys]
    assert len({outcome.shard_id for outcome in outcomes}) == 4


def test_an_explicit_hash_key_beats_the_partition_key(stream):
    keys = [bound for shard in open_shards(stream) for bound in (shard.first_hash_key, shard.last_hash_key)]
    outcomes = put_all(stream, [NewRecord(b"x", "same", key) for key in keys])
    assert [outcome.shard_id for outcome in outcomes] == [shard_of(stream, key) for key in keys]


# What comes back


def test_a_record_is_read_as_it_was_put(stream):
    payload = bytes(range(256)) * 40
    (outcome,) = put_all(stream, [NewRecord(payload, "schlüssel")])
    (record,) = drain(stream, outcome.shard_id, 1)
    assert (record.payload, record.partition_key) == (payload, "schlüssel")
    assert (record.shard_id, record.sequence_number) == (outcome.shard_id, outcome.sequence_number)
    assert record.arrival_ms == pytest.approx(stream.clock.now_ms(), abs=60_000)


def test_records_of_one_key_keep_their_order_over_puts(stream):
    for number in range(30):
        put_all(stream, one_of_each_key(8, number))
    follower = Follower(stream)
    follower.read_until(240)
    expected = [b"%d" % number for number in range(30)]
    assert follower.payloads_by_key() == {f"key-{key}": expected for key in range(8)}


def test_sequence_numbers_and_arrivals_grow_within_a_shard(stream):
    outcomes = [put_all(stream, [NewRecord(b"x", "key")])[0] for _ in range(10)]
    records = drain(stream, outcomes[0].shard_id, 10)
    numbers = [record.sequence_number for record in records]
    assert numbers == [outcome.sequence_number for outcome in outcomes]
    assert all(left < right for left, right in pairwise(numbers))
    assert all(left.arrival_ms <= right.arrival_ms for left, right in pairwise(records))


def test_reading_takes_nothing_away(stream):
    (outcome,) = put_all(stream, [NewRecord(b"x", "key")])
    assert drain(stream, outcome.shard_id, 1) == drain(stream, outcome.shard_id, 1)


def test_reading_continues_after_the_position(make_stream):
    stream = make_stream(1)
    (shard,) = open_shards(stream)
    for number in range(5):
        put_all(stream, [NewRecord(b"%d" % number, "key")])
    records = drain(stream, shard.shard_id, 5)
    rest = drain(stream, shard.shard_id, 3, after=records[1].sequence_number)
    assert rest == records[2:]


def test_trim_horizon_starts_at_the_oldest_record(make_stream):
    stream = make_stream(1)
    (shard,) = open_shards(stream)
    put_all(stream, [NewRecord(b"first", "key")])
    put_all(stream, [NewRecord(b"second", "key")])
    assert drain(stream, shard.shard_id, 1, max_records=1)[0].payload == b"first"


def test_later_records_follow_the_position_of_an_empty_read(make_stream):
    stream = make_stream(1)
    (shard,) = open_shards(stream)
    batch = stream.reader.read(shard.shard_id, TRIM_HORIZON, **PLENTY)
    assert (batch.records, batch.behind_ms, batch.ended) == ((), 0, False)
    put_all(stream, [NewRecord(b"later", "key")])
    assert drain(stream, shard.shard_id, 1, after=batch.position)[0].payload == b"later"


def test_a_read_at_the_tip_is_empty_and_stays_there(make_stream):
    stream = make_stream(1)
    (outcome,) = put_all(stream, [NewRecord(b"x", "key")])
    batch = stream.reader.read(outcome.shard_id, outcome.sequence_number, **PLENTY)
    assert batch.records == ()
    assert batch.position == outcome.sequence_number
    assert not batch.ended


# Limits of a read


def test_a_read_returns_at_most_max_records(make_stream):
    stream = make_stream(1)
    (shard,) = open_shards(stream)
    put_all(stream, [NewRecord(b"x", "key")] * 10)
    drain(stream, shard.shard_id, 10)
    assert len(stream.reader.read(shard.shard_id, TRIM_HORIZON, max_records=4, max_bytes=1 << 20).records) <= 4
    assert len(drain(stream, shard.shard_id, 10, max_records=3)) == 10


def test_a_read_returns_at_most_max_bytes(make_stream):
    stream = make_stream(1)
    (shard,) = open_shards(stream)
    put_all(stream, [NewRecord(b"x" * 1000, "key")] * 10)
    drain(stream, shard.shard_id, 10)
    batch = stream.reader.read(shard.shard_id, TRIM_HORIZON, max_records=100, max_bytes=3500)
    assert sum(len(record.payload) for record in batch.records) <= 3500
    assert len(drain(stream, shard.shard_id, 10, max_bytes=3500)) == 10


def test_a_first_record_larger_than_max_bytes_comes_alone(make_stream):
    stream = make_stream(1)
    (shard,) = open_shards(stream)
    for size in (5000, 10, 5000):
        put_all(stream, [NewRecord(b"x" * size, "key")])
    batches = []
    after = TRIM_HORIZON
    while len(batches) < 3:
        batch = stream.reader.read(shard.shard_id, after, max_records=100, max_bytes=100)
        after = batch.position
        batches += [[len(record.payload) for record in batch.records]] if batch.records else []
    assert batches == [[5000], [10], [5000]]


def test_behind_ms_is_positive_before_the_tip_and_zero_at_it(make_stream):
    stream = make_stream(1)
    (outcome, *_) = put_all(stream, [NewRecord(b"x", "key")])
    stream.clock.sleep(A_WHILE)
    (newest,) = put_all(stream, [NewRecord(b"x", "key")])
    drain(stream, outcome.shard_id, 2)
    before = stream.reader.read(outcome.shard_id, TRIM_HORIZON, max_records=1, max_bytes=1 << 20)
    assert before.position == outcome.sequence_number
    assert before.behind_ms > 0
    assert stream.reader.read(outcome.shard_id, before.position, **PLENTY).behind_ms == 0
    assert stream.reader.read(outcome.shard_id, newest.sequence_number, **PLENTY).behind_ms == 0


@pytest.mark.parametrize("shard_id", ["shardId-000000000099", "no such shard"])
def test_reading_an_unknown_shard_is_a_state_error(stream, shard_id):
    with pytest.raises(StateError):
        stream.reader.read(shard_id, TRIM_HORIZON, **PLENTY)


# Limits of a put


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([NewRecord(b"x", "key")] * (MAX_PUT_RECORDS + 1), id="too many records"),
        pytest.param([NewRecord(b"x" * (MAX_RECORD_BYTES + 1), "key")], id="a record too large"),
        pytest.param([NewRecord(b"x" * MAX_RECORD_BYTES, "key")], id="a record too large with its key"),
        pytest.param([NewRecord(b"x" * (MAX_PUT_BYTES // 6 + 1), "key")] * 6, id="too many bytes"),
        pytest.param([NewRecord(b"x", "")], id="empty partition key"),
        pytest.param([NewRecord(b"x", "k" * 257)], id="partition key too long"),
        pytest.param([NewRecord(b"x", "key", -1)], id="explicit hash key below the space"),
        pytest.param([NewRecord(b"x", "key", HASH_KEY_SPACE)], id="explicit hash key above the space"),
    ],
)
def test_a_put_over_a_limit_is_a_permanent_error_and_takes_nothing(make_stream, records):
    stream = make_stream(1)
    (shard,) = open_shards(stream)
    with pytest.raises(PermanentError):
        stream.writer.put([NewRecord(b"fits", "key"), *records])
    put_all(stream, [NewRecord(b"marker", "key")])
    assert [record.payload for record in drain(stream, shard.shard_id, 1)] == [b"marker"]


def test_a_put_at_the_limits_is_taken(make_stream):
    stream = make_stream(1)
    (shard,) = open_shards(stream)
    put_all(stream, [NewRecord(b"x", "k" * 256)] * MAX_PUT_RECORDS)
    put_all(stream, [NewRecord(b"x" * (MAX_RECORD_BYTES - 3), "key")] * 5)
    sizes = [len(record.payload) for record in drain(stream, shard.shard_id, MAX_PUT_RECORDS + 5)]
    assert sorted(sizes) == [1] * MAX_PUT_RECORDS + [MAX_RECORD_BYTES - 3] * 5


def test_an_empty_put_has_no_outcomes(stream):
    assert stream.writer.put([]) == []


def test_each_record_of_a_put_has_one_outcome_a_place_or_an_error(stream):
    records = [NewRecord(b"%d" % i, f"key-{i}") for i in range(100)]
    outcomes = stream.writer.put(records)
    assert len(outcomes) == 100
    taken = 0
    for outcome in outcomes:
        if outcome.error_code is None:
            assert outcome.shard_id is not None
            assert outcome.sequence_number is not None
            assert outcome.error_message is None
            taken += 1
        else:
            assert outcome.shard_id is None
            assert outcome.sequence_number is None
            assert outcome.error_message
    follower = Follower(stream)
    follower.read_until(taken)
    places = {(record.shard_id, record.sequence_number): record.payload for record in follower.records}
    expected = zip(records, outcomes, strict=True)
    assert places == {
        (outcome.shard_id, outcome.sequence_number): record.payload
        for record, outcome in expected
        if outcome.error_code is None
    }


# Consumers


def test_consumers_read_the_same_records_independently(stream):
    for number in range(5):
        put_all(stream, one_of_each_key(4, number))
    fast, slow = Follower(stream), Follower(stream)
    fast.read_until(20)
    slow.read_round()
    slow.read_until(20)
    assert slow.payloads_by_key() == fast.payloads_by_key()


def test_a_consumers_positions_are_its_own(stream):
    first, second, *_ = open_shards(stream)
    stream.consumers.commit("lake", {first.shard_id: 10, second.shard_id: 20})
    stream.consumers.commit("journeys", {first.shard_id: 5})
    assert stream.consumers.positions("lake") == {first.shard_id: 10, second.shard_id: 20}
    assert stream.consumers.positions("journeys") == {first.shard_id: 5}
    assert stream.consumers.positions("nobody") == {}


def test_a_commit_moves_the_named_shards_only_and_may_go_back(stream):
    first, second, *_ = open_shards(stream)
    stream.consumers.commit("lake", {first.shard_id: 10, second.shard_id: 20})
    stream.consumers.commit("lake", {first.shard_id: 7})
    assert stream.consumers.positions("lake") == {first.shard_id: 7, second.shard_id: 20}


# Split and merge


def test_split_children_share_the_parents_range(stream):
    parent = open_shards(stream)[1]
    lower_id, upper_id = stream.admin.split(parent.shard_id, middle(parent))
    shards = {shard.shard_id: shard for shard in stream.reader.shards()}
    lower, upper = shards[lower_id], shards[upper_id]
    assert (lower.first_hash_key, lower.last_hash_key) == (parent.first_hash_key, middle(parent) - 1)
    assert (upper.first_hash_key, upper.last_hash_key) == (middle(parent), parent.last_hash_key)
    assert lower.parent_ids == upper.parent_ids == (parent.shard_id,)
    assert shards[parent.shard_id].closed
    assert not lower.closed
    assert not upper.closed


def test_a_merged_child_takes_both_ranges(stream):
    _, left, right, _ = open_shards(stream)
    child_id = stream.admin.merge(right.shard_id, left.shard_id)
    child = next(shard for shard in stream.reader.shards() if shard.shard_id == child_id)
    assert (child.first_hash_key, child.last_hash_key) == (left.first_hash_key, right.last_hash_key)
    assert set(child.parent_ids) == {left.shard_id, right.shard_id}


def test_parents_are_listed_before_their_children(stream):
    put_all(stream, one_of_each_key(40, 0))
    first, second, *_ = open_shards(stream)
    lower, upper = stream.admin.split(first.shard_id, middle(first))
    put_all(stream, one_of_each_key(40, 1))
    stream.admin.merge(upper, second.shard_id)
    stream.admin.split(lower, first.first_hash_key + 2)
    shards = stream.reader.shards()
    order = {shard.shard_id: place for place, shard in enumerate(shards)}
    pairs = [(parent, shard.shard_id) for shard in shards for parent in shard.parent_ids if parent in order]
    assert len(pairs) >= 4
    assert all(order[parent] < order[child] for parent, child in pairs)


def test_a_closed_shard_ends_after_its_last_record_only(make_stream):
    stream = make_stream(1)
    (parent,) = open_shards(stream)
    for number in range(20):
        put_all(stream, [NewRecord(b"%d" % number, "key")])
    assert not stream.reader.read(
        parent.shard_id, drain(stream, parent.shard_id, 20)[-1].sequence_number, **PLENTY
    ).ended
    stream.admin.split(parent.shard_id, middle(parent))
    first = stream.reader.read(parent.shard_id, TRIM_HORIZON, max_records=5, max_bytes=1 << 20)
    assert not first.ended
    records = drain_to_end(stream, parent.shard_id)
    assert [record.payload for record in records] == [b"%d" % number for number in range(20)]
    assert stream.reader.read(parent.shard_id, records[-1].sequence_number, **PLENTY).ended


def test_a_closed_shard_takes_no_more_records(stream):
    parent = open_shards(stream)[0]
    children = stream.admin.split(parent.shard_id, middle(parent))
    outcomes = put_all(stream, [NewRecord(b"x", "key", parent.first_hash_key), NewRecord(b"x", "key", middle(parent))])
    assert tuple(outcome.shard_id for outcome in outcomes) == children


def test_a_reader_that_takes_parents_first_loses_and_reorders_nothing_over_splits_and_merges(stream):
    follower = Follower(stream)
    keys, rounds = 12, 40
    for number in range(rounds):
        put_all(stream, one_of_each_key(keys, number))
        shards = open_shards(stream)
        if number % 8 == 3:
            widest = max(shards, key=lambda shard: shard.last_hash_key - shard.first_hash_key)
            stream.admin.split(widest.shard_id, middle(widest))
        if number % 8 == 7:
            stream.admin.merge(shards[0].shard_id, shards[1].shard_id)
        if number % 3 == 0:
            follower.read_round()
    follower.read_until(keys * rounds)
    expected = [b"%d" % number for number in range(rounds)]
    assert follower.payloads_by_key() == {f"key-{key}": expected for key in range(keys)}


def test_a_split_outside_the_range_is_a_permanent_error(stream):
    shard = open_shards(stream)[1]
    for at in (shard.first_hash_key, shard.last_hash_key + 1, -1):
        with pytest.raises(PermanentError):
            stream.admin.split(shard.shard_id, at)
    assert len(open_shards(stream)) == 4


def test_a_merge_of_shards_that_do_not_touch_is_a_permanent_error(stream):
    first, _, third, _ = open_shards(stream)
    for pair in ((first, third), (first, first)):
        with pytest.raises(PermanentError):
            stream.admin.merge(pair[0].shard_id, pair[1].shard_id)
    assert len(open_shards(stream)) == 4


def test_a_closed_or_unknown_shard_cannot_be_reshaped(stream):
    parent, neighbour, *_ = open_shards(stream)
    stream.admin.split(parent.shard_id, middle(parent))
    with pytest.raises(PermanentError):
        stream.admin.split(parent.shard_id, middle(parent))
    with pytest.raises(PermanentError):
        stream.admin.merge(parent.shard_id, neighbour.shard_id)
    with pytest.raises(PermanentError):
        stream.admin.split("shardId-000000000099", 1)


# At once


def test_a_reader_follows_concurrent_writers(stream):
    def write(writer: int) -> None:
        for number in range(20):
            put_all(stream, [NewRecord(b"%d" % number, f"{writer}-{key}") for key in range(5)])

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(3)]
    for thread in writers:
        thread.start()
    follower = Follower(stream)
    while any(thread.is_alive() for thread in writers):
        follower.read_round()
    for thread in writers:
        thread.join()
    follower.read_until(300)
    expected = [b"%d" % number for number in range(20)]
    assert follower.payloads_by_key() == {f"{writer}-{key}": expected for writer in range(3) for key in range(5)}
