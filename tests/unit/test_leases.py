"""Leases and the clocks of those that monitor them."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shopstream.clock import ManualClock
from shopstream.errors import ConfigurationError, RetryableError
from shopstream.stream.leases import HeartbeatMonitor, LeaderLease, Lease, SharedShards
from shopstream.stream.ports import Shard
from standins.memory_leases import MemoryLeases, Seconds

LEASE = timedelta(seconds=30)
SHARDS = [Shard("shardId-000000000000", 0, 9), Shard("shardId-000000000001", 10, 19)]


class Broken(MemoryLeases):
    """Leases whose table cannot be written for a while."""

    error = None

    def change(self, old, new):
        if self.error:
            raise self.error
        return super().change(old, new)


def worker(leases, name, clock):
    return SharedShards(leases, name, LEASE, monotonic=clock)


def exclusive(leases, owner, seconds, clock=None):
    return LeaderLease(leases, "engine", owner, LEASE, clock=clock or ManualClock(), monotonic=seconds)


def test_an_owner_is_alive_while_its_counter_grows():
    seconds = Seconds()
    monitor = HeartbeatMonitor(LEASE, seconds)
    lease = Lease("shard", "somebody", 5)
    assert monitor.live_owners([lease]) == {"shard": "somebody"}
    seconds.now = 29
    lease = replace(lease, counter=6)
    assert monitor.live_owners([lease]) == {"shard": "somebody"}
    seconds.now = 58
    assert monitor.live_owners([lease]) == {"shard": "somebody"}
    seconds.now = 59
    assert monitor.live_owners([lease]) == {"shard": None}


def test_a_new_monitor_waits_a_whole_lease_time():
    seconds = Seconds(1e9)
    monitor = HeartbeatMonitor(LEASE, seconds)
    monitor.live_owners([Lease("shard", "somebody", 5)])
    seconds.now += 29.9
    assert monitor.live_owners([Lease("shard", "somebody", 5)]) == {"shard": "somebody"}


@pytest.mark.parametrize("skew", [-86_400.0, 0.0, 86_400.0])
def test_clocks_that_differ_by_a_day_do_not_matter(skew):
    leases = MemoryLeases()
    mine, yours = Seconds(100_000.0), Seconds(100_000.0 + skew)
    first, second = worker(leases, "first", mine), worker(leases, "second", yours)
    assert len(first.balance(SHARDS)) == 2
    for _ in range(10):
        mine.now += 10
        yours.now += 10
        first.renew()
        second.balance(SHARDS)
    assert [len(first.held()), len(second.held())] == [1, 1]


def test_a_dead_workers_shards_are_taken_after_the_lease_time():
    leases = MemoryLeases()
    seconds = Seconds()
    dead, left = worker(leases, "dead", seconds), worker(leases, "left", seconds)
    dead.balance(SHARDS)
    left.balance(SHARDS)
    seconds.now = 29
    assert len(left.balance(SHARDS)) == 1
    left.renew()
    seconds.now = 31
    left.renew()
    assert len(left.balance(SHARDS)) == 2


def test_a_worker_that_could_not_renew_stops_by_its_own_clock_before_others_take_over():
    leases = MemoryLeases()
    mine, yours = Seconds(), Seconds()
    first, second = worker(leases, "first", mine), worker(leases, "second", yours)
    first.balance(SHARDS)
    yours.now = 1
    second._monitor.live_owners(leases.all())
    mine.now = 30
    assert first.held() == []
    yours.now = 30.9
    assert None not in second._monitor.live_owners(leases.all()).values()


def test_a_checkpoint_of_a_shard_that_was_taken_is_refused():
    leases = MemoryLeases()
    first, second = worker(leases, "first", Seconds()), worker(leases, "second", Seconds())
    first.balance(SHARDS)
    (stolen,) = second.balance(SHARDS)
    assert not first.record_progress(stolen, 7)
    assert stolen not in first.held()
    assert second.record_progress(stolen, 5)


def test_an_ended_shard_is_released_and_not_assigned_again():
    leases = MemoryLeases()
    only = worker(leases, "only", Seconds())
    parent, other = SHARDS
    children = [
        Shard("shardId-000000000002", 0, 4, (parent.shard_id,)),
        Shard("shardId-000000000003", 5, 9, (parent.shard_id,)),
    ]
    shards = [replace(parent, closed=True), other, *children]
    assert only.balance(shards) == [parent.shard_id, other.shard_id]
    assert only.record_progress(parent.shard_id, 9, ended=True)
    assert only.held() == [other.shard_id]
    assert only.balance(shards) == [other.shard_id, *(child.shard_id for child in children)]


def test_leases_of_shards_that_retention_removed_are_removed():
    leases = MemoryLeases()
    only = worker(leases, "only", Seconds())
    only.balance(SHARDS)
    only.record_progress(SHARDS[0].shard_id, 9, ended=True)
    only.balance(SHARDS[1:])
    assert [lease.name for lease in leases.all()] == [SHARDS[1].shard_id]


def test_a_shard_that_retention_removed_before_its_end_was_read_is_reported(caplog):
    leases = MemoryLeases()
    only = worker(leases, "only", Seconds())
    only.balance(SHARDS)
    only.record_progress(SHARDS[0].shard_id, 9)
    only.record_progress(SHARDS[1].shard_id, 9, ended=True)
    only.balance([])
    assert [record.getMessage() for record in caplog.records] == [
        "retention dropped shard shardId-000000000000 before it was read to its end"
    ]


def test_released_shards_are_free_immediately():
    leases = MemoryLeases()
    first, second = worker(leases, "first", Seconds()), worker(leases, "second", Seconds())
    first.balance(SHARDS)
    first.release()
    assert len(second.balance(SHARDS)) == 2


def test_settled_are_those_whose_other_workers_are_seen_at_work():
    leases = MemoryLeases()
    seconds = Seconds()
    first, second = worker(leases, "first", seconds), worker(leases, "second", seconds)
    first.balance(SHARDS)
    assert first.settled
    second.balance(SHARDS)
    assert not second.settled
    first.renew()
    second.balance(SHARDS)
    assert second.settled


# The one lease of a name


def test_a_standby_waits_until_the_leader_releases_the_lease():
    leases = MemoryLeases()
    holder, standby = exclusive(leases, "holder", Seconds()), exclusive(leases, "standby", Seconds())
    assert holder.try_acquire()
    assert not standby.try_acquire()
    holder.release()
    assert standby.try_acquire()


def test_a_standby_takes_over_from_a_leader_that_stopped_renewing():
    leases = MemoryLeases()
    mine, yours = Seconds(5_000), Seconds()
    holder, standby = exclusive(leases, "holder", mine), exclusive(leases, "standby", yours)
    assert holder.try_acquire()
    assert not standby.try_acquire()
    for _ in range(4):
        mine.now += 10
        yours.now += 10
        holder.renew()
        assert not standby.try_acquire()
    yours.now += 29
    assert not standby.try_acquire()
    yours.now += 1
    assert standby.try_acquire()
    mine.now += 30
    with pytest.raises(RetryableError, match="stand by"):
        holder.check()


def test_a_holder_that_was_taken_for_dead_learns_it_when_it_renews():
    leases = MemoryLeases()
    yours = Seconds()
    holder, standby = exclusive(leases, "holder", Seconds()), exclusive(leases, "standby", yours)
    holder.try_acquire()
    standby.try_acquire()
    yours.now = 30
    assert standby.try_acquire()
    holder.check()
    holder.renew()
    with pytest.raises(RetryableError, match="engine"):
        holder.check()
    holder.release()
    standby.check()


def test_a_stopped_standby_does_not_wait():
    leases = MemoryLeases()
    exclusive(leases, "holder", Seconds()).try_acquire()
    told = []
    looks = iter([False, False, True])
    assert not exclusive(leases, "standby", Seconds()).acquire(stop=lambda: next(looks), waiting=told.append)
    assert told == ["holder"]


def test_the_holder_renews_by_itself_while_it_works():
    leases = MemoryLeases()
    lease = LeaderLease(leases, "engine", "me", timedelta(milliseconds=60), clock=ManualClock(), monotonic=Seconds())
    with lease:
        assert lease.acquire()
        for _ in range(200):
            if leases.changes > 3:
                break
            lease._stopping.wait(0.02)
        lease.check()
    assert leases.changes > 3
    assert leases.all()[0].owner is None


def test_a_read_only_table_is_reported_as_such():
    leases = Broken()
    lease = LeaderLease(leases, "engine", "me", timedelta(milliseconds=60), clock=ManualClock(), monotonic=Seconds())
    assert lease.acquire()
    leases.error = ConfigurationError("AWS denies dynamodb:PutItem")
    lease._thread.join(10)
    with pytest.raises(ConfigurationError, match="dynamodb:PutItem"):
        lease.check()
    leases.error = None
    lease.release()


def test_a_table_that_is_away_for_less_than_the_lease_time_costs_nothing():
    leases = Broken()
    lease = LeaderLease(leases, "engine", "me", timedelta(milliseconds=60), clock=ManualClock(), monotonic=Seconds())
    leases.error = None
    assert lease.acquire()
    leases.error = RetryableError("away")
    for _ in range(200):
        if lease._error:
            break
        lease._stopping.wait(0.02)
    leases.error = None
    before = leases.changes
    for _ in range(200):
        if leases.changes > before:
            break
        lease._stopping.wait(0.02)
    lease.check()
    lease.release()
