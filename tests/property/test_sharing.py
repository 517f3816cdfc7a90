"""Sharing shards among workers, whatever they do in whatever order."""

from collections import Counter
from datetime import timedelta
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shopstream.stream.leases import SharedShards, assign_shards, ready
from shopstream.stream.ports import HASH_KEY_SPACE, Shard
from standins.memory_leases import MemoryLeases, Seconds

LEASE = timedelta(seconds=30)
WORKERS = [f"worker-{number}" for number in range(5)]


def flat(count):
    """A stream that was never reshaped."""
    return [Shard(f"shardId-{number:012d}", number, number) for number in range(count)]


@st.composite
def lineages(draw):
    """Shards after some splits and merges, as a stream lists them."""
    count = draw(st.integers(1, 6))
    bounds = [HASH_KEY_SPACE * number // count for number in range(count + 1)]
    shards = [Shard(f"shardId-{n:012d}", low, high - 1) for n, (low, high) in enumerate(pairwise(bounds))]
    for act in draw(st.lists(st.tuples(st.booleans(), st.integers(0, 99)), max_size=8)):
        opened = sorted((s for s in shards if not s.closed), key=lambda shard: shard.first_hash_key)
        split, pick = act
        one = opened[pick % len(opened)]
        if split:
            parents, middle = (one,), (one.first_hash_key + one.last_hash_key + 1) // 2
            ranges = [(one.first_hash_key, middle - 1), (middle, one.last_hash_key)]
        elif len(opened) > 1:
            pick %= len(opened) - 1
            parents = tuple(opened[pick : pick + 2])
            ranges = [(parents[0].first_hash_key, parents[1].last_hash_key)]
        else:
            continue
        names = tuple(parent.shard_id for parent in parents)
        shards = [
            Shard(s.shard_id, s.first_hash_key, s.last_hash_key, s.parent_ids, closed=True) if s in parents else s
            for s in shards
        ]
        shards += [Shard(f"shardId-{len(shards) + n:012d}", low, high, names) for n, (low, high) in enumerate(ranges)]
    return shards


@given(st.dictionaries(st.text(min_size=1, max_size=4), st.sampled_from([None, *WORKERS]), max_size=20))
def test_a_worker_takes_only_free_or_surplus_shards(owners):
    taken = assign_shards("worker-0", owners)
    assert len(set(taken)) == len(taken)
    assert all(owners[name] != "worker-0" for name in taken)
    after = Counter("worker-0" if name in taken else owner for name, owner in owners.items())
    before = Counter(owners.values())
    robbed = [owner for owner in before if owner and after[owner] < before[owner]]
    assert all(after[owner] >= after["worker-0"] for owner in robbed)


@settings(deadline=None)
@given(st.integers(1, 24), st.integers(1, 5), st.randoms(use_true_random=False))
def test_workers_that_take_turns_come_to_equal_shares(shards, workers, random):
    owners = dict.fromkeys((shard.shard_id for shard in flat(shards)), None)
    for _ in range(2 * workers + 2):
        for worker in random.sample(WORKERS[:workers], workers):
            owners |= dict.fromkeys(assign_shards(worker, owners), worker)
    loads = Counter(owners.values())
    assert None not in loads
    shares = [loads[worker] for worker in WORKERS[:workers]]
    assert max(shares) - min(shares) <= 1
    assert all(not assign_shards(worker, owners) for worker in WORKERS[:workers])


@given(lineages(), st.randoms(use_true_random=False))
def test_every_shard_is_worked_on_once_and_no_child_before_its_parents(shards, random):
    parents = {shard.shard_id: shard.parent_ids for shard in shards}
    order = []
    while now := ready(shards, set(order)):
        assert all(set(parents[name]) <= set(order) for name in now)
        order.append(random.choice(now))
    assert sorted(order) == sorted(parents)


@given(lineages())
def test_children_of_parents_that_retention_removed_are_ready(shards):
    listed = [shard for shard in shards if not shard.closed]
    assert ready(listed, set()) == [shard.shard_id for shard in listed]


class Workers(RuleBasedStateMachine):
    """Workers with clocks of their own come, work, stand still and die; a fence stands in for the lake."""

    @initialize(shards=lineages())
    def begin(self, shards):
        self.shards = shards
        self.leases = MemoryLeases()
        self.workers, self.clocks = {}, {}
        self.read = {shard.shard_id: 0 for shard in shards}
        self.ended = []

    @rule(number=st.integers(0, 4), offset=st.integers(-10_000, 10_000))
    def come(self, number, offset):
        if number not in self.workers:
            self.clocks[number] = Seconds(float(offset))
            owner = f"{WORKERS[number]}-{len(self.clocks)}-{offset}-{self.leases.changes}"
            self.workers[number] = SharedShards(self.leases, owner, LEASE, monotonic=self.clocks[number])

    @precondition(lambda self: self.workers)
    @rule(number=st.integers(0, 4))
    def die(self, number):
        self.workers.pop(number, None)

    @precondition(lambda self: self.workers)
    @rule(number=st.integers(0, 4))
    def leave(self, number):
        if worker := self.workers.pop(number, None):
            worker.release()

    @rule(seconds=st.sampled_from([1, 9, 10, 29, 31]))
    def time_passes(self, seconds):
        for clock in self.clocks.values():
            clock.now += seconds

    @rule(number=st.integers(0, 4))
    def balance(self, number):
        if worker := self.workers.get(number):
            worker.balance(self.shards)

    @rule(number=st.integers(0, 4))
    def renew(self, number):
        if worker := self.workers.get(number):
            worker.renew()

    @rule(number=st.integers(0, 4), end=st.booleans(), data=st.data())
    def work(self, number, end, data):
        worker = self.workers.get(number)
        if worker and (held := worker.held()):
            name = data.draw(st.sampled_from(held))
            closed = next(shard.closed for shard in self.shards if shard.shard_id == name)
            position = self.read[name] + 1
            if worker.record_progress(name, position, ended=end and closed):
                self.read[name] = position
                if end and closed:
                    self.ended.append(name)

    @invariant()
    def what_a_lease_says_was_told_by_its_holder(self):
        if hasattr(self, "leases"):
            for lease in self.leases.all():
                assert (lease.position or 0) == self.read[lease.name]

    @invariant()
    def no_shard_is_held_by_two_that_keep_renewing(self):
        if hasattr(self, "workers"):
            rows = {lease.name: lease for lease in self.leases.all()}
            for number, worker in self.workers.items():
                for name in worker.held():
                    fence = worker._held[name][0].counter
                    stale = rows[name].counter != fence
                    assert stale or rows[name].owner == worker._owner, number

    @invariant()
    def no_child_is_held_before_its_parents_ended(self):
        if hasattr(self, "workers"):
            parents = {shard.shard_id: shard.parent_ids for shard in self.shards}
            for worker in self.workers.values():
                for name in worker.held():
                    assert set(parents[name]) <= set(self.ended)

    def teardown(self):
        """Whatever happened: one worker that is left alone comes to hold all that can be worked on."""
        if not hasattr(self, "leases"):
            return
        clock = Seconds(77.0)
        last = SharedShards(self.leases, "last", LEASE, monotonic=clock)
        last.balance(self.shards)
        clock.now += 31
        while True:
            last.balance(self.shards)
            open_ends = ready(self.shards, {lease.name for lease in self.leases.all() if lease.ended})
            assert sorted(last.held()) == sorted(open_ends)
            assert last.settled
            closed = [shard.shard_id for shard in self.shards if shard.closed and shard.shard_id in open_ends]
            if not closed:
                break
            for name in closed:
                assert last.record_progress(name, 1_000, ended=True)


Workers.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWorkers = Workers.TestCase
