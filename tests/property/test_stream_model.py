"""The embedded stream behaves as plain lists do, whatever is done to it in whatever order."""

import shutil
import tempfile
from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shopstream.clock import ManualClock
from shopstream.errors import StateError
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import HASH_KEY_SPACE, TRIM_HORIZON, NewRecord, Record, hash_key
from shopstream.stream.settings import StreamSettings

RETENTION = timedelta(seconds=10)
CONSUMERS = ("lake", "journeys")


@dataclass
class ModelShard:
    first: int
    last: int
    parents: tuple[str, ...] = ()
    closed_ms: int | None = None
    records: list[Record] = field(default_factory=list)
    dropped_up_to: int = TRIM_HORIZON


new_records = st.builds(
    NewRecord,
    payload=st.one_of(st.binary(max_size=20), st.integers(1, 40_000).map(bytes)),
    partition_key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5),
    explicit_hash_key=st.none() | st.integers(0, HASH_KEY_SPACE - 1),
)


class StreamAgainstLists(RuleBasedStateMachine):
    @initialize(shards=st.integers(1, 4))
    def open_new(self, shards):
        self.folder = Path(tempfile.mkdtemp())
        self.clock = ManualClock(1_000_000)
        self.settings = StreamSettings(shards=shards, retention=RETENTION, fsync="never")
        self.stream = EmbeddedStream.open(self.folder / "stream.db", self.settings, self.clock)
        self.model = {s.shard_id: ModelShard(s.first_hash_key, s.last_hash_key) for s in self.stream.shards()}
        self.positions = {consumer: {} for consumer in CONSUMERS}
        self.following = {}
        assert len(self.model) == shards

    def teardown(self):
        if hasattr(self, "stream"):
            self.stream.close()
            shutil.rmtree(self.folder)

    def open_ids(self):
        return sorted((s for s in self.model if self.model[s].closed_ms is None), key=lambda s: self.model[s].first)

    def drop_expired(self):
        oldest_kept = self.clock.now_ms() - RETENTION // timedelta(milliseconds=1)
        for shard in self.model.values():
            while shard.records and shard.records[0].arrival_ms < oldest_kept:
                shard.dropped_up_to = shard.records.pop(0).sequence_number

    @rule(records=st.lists(new_records, max_size=8))
    def put(self, records):
        outcomes = self.stream.put(records)
        if records:
            self.drop_expired()
        ids = self.open_ids()
        for record, outcome in zip(records, outcomes, strict=True):
            key = hash_key(record.partition_key) if record.explicit_hash_key is None else record.explicit_hash_key
            shard_id = ids[bisect_right(ids, key, key=lambda s: self.model[s].first) - 1]
            assert outcome.shard_id == shard_id
            self.model[shard_id].records.append(
                Record(record.payload, record.partition_key, shard_id, outcome.sequence_number, self.clock.now_ms())
            )

    @rule(ms=st.integers(0, 4000))
    def time_passes(self, ms):
        self.clock.advance(timedelta(milliseconds=ms))

    @rule()
    def trim(self):
        before = sum(len(shard.records) for shard in self.model.values())
        self.drop_expired()
        assert self.stream.trim() == before - sum(len(shard.records) for shard in self.model.values())

    @rule(data=st.data(), max_records=st.integers(1, 6), max_bytes=st.integers(1, 50_000))
    def read_on(self, data, max_records, max_bytes):
        consumer = data.draw(st.sampled_from(CONSUMERS))
        shard_id = data.draw(st.sampled_from(sorted(self.model)))
        shard = self.model[shard_id]
        after = self.following.get((consumer, shard_id), TRIM_HORIZON)
        if TRIM_HORIZON < after < shard.dropped_up_to:
            with pytest.raises(StateError):
                self.stream.read(shard_id, after, max_records=max_records, max_bytes=max_bytes)
            self.following[consumer, shard_id] = TRIM_HORIZON
            return
        batch = self.stream.read(shard_id, after, max_records=max_records, max_bytes=max_bytes)
        unread = [record for record in shard.records if record.sequence_number > after]
        expected = unread[:1]
        for record in unread[1:max_records]:
            if sum(len(r.payload) for r in expected) + len(record.payload) > max_bytes:
                break
            expected.append(record)
        assert list(batch.records) == expected
        at_tip = len(expected) == len(unread)
        assert batch.ended == (at_tip and shard.closed_ms is not None)
        assert batch.behind_ms == (0 if at_tip else self.clock.now_ms() - expected[-1].arrival_ms)
        self.following[consumer, shard_id] = batch.position

    @rule(data=st.data(), consumer=st.sampled_from(CONSUMERS))
    def commit(self, data, consumer):
        chosen = data.draw(st.dictionaries(st.sampled_from(sorted(self.model)), st.integers(-1, 1 << 62), max_size=3))
        self.stream.commit(consumer, chosen)
        self.positions[consumer] |= chosen

    @rule(data=st.data())
    def split(self, data):
        shard_id = data.draw(st.sampled_from(self.open_ids()))
        parent = self.model[shard_id]
        if parent.first == parent.last:
            return
        at = data.draw(st.integers(parent.first + 1, parent.last))
        lower, upper = self.stream.split(shard_id, at)
        parent.closed_ms = self.clock.now_ms()
        self.model[lower] = ModelShard(parent.first, at - 1, (shard_id,))
        self.model[upper] = ModelShard(at, parent.last, (shard_id,))

    @rule(data=st.data())
    def merge(self, data):
        pairs = list(pairwise(self.open_ids()))
        if not pairs:
            return
        left, right = data.draw(st.sampled_from(pairs))
        child = self.stream.merge(left, right)
        for parent in (left, right):
            self.model[parent].closed_ms = self.clock.now_ms()
        self.model[child] = ModelShard(self.model[left].first, self.model[right].last, (left, right))

    @rule()
    def reopen(self):
        self.stream.close()
        self.stream = EmbeddedStream.open(self.folder / "stream.db", self.settings, self.clock)

    @invariant()
    def shards_are_listed_as_modelled(self):
        since = self.clock.now_ms() - RETENTION // timedelta(milliseconds=1)
        listed = {s.shard_id: (s.first_hash_key, s.last_hash_key, s.parent_ids, s.closed) for s in self.stream.shards()}
        assert listed == {
            shard_id: (s.first, s.last, s.parents, s.closed_ms is not None)
            for shard_id, s in self.model.items()
            if s.closed_ms is None or s.records or s.closed_ms >= since
        }

    @invariant()
    def sizes_are_right(self):
        status = self.stream.describe()
        shards = [shard for shard in self.model.values() if shard.closed_ms is None or shard.records]
        payloads = [record.payload for shard in shards for record in shard.records]
        assert (status.shards, status.records, status.bytes) == (len(shards), len(payloads), sum(map(len, payloads)))

    @invariant()
    def committed_positions_are_kept(self):
        assert {consumer: self.stream.positions(consumer) for consumer in CONSUMERS} == self.positions


StreamAgainstLists.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestStreamAgainstLists = StreamAgainstLists.TestCase
