"""Archive workers that share a stream, step by step, with leases in memory; `tests/aws` has the processes."""

from contextlib import ExitStack, closing
from datetime import timedelta

import pytest

from shopstream.adapters.flow import open_pipeline
from shopstream.adapters.ports import adapters_of
from shopstream.archive import Archive
from shopstream.clock import ManualClock
from shopstream.config import Settings
from shopstream.engine.settings import EngineSettings
from shopstream.errors import ConfigurationError, RetryableError, StateError
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.ports import LakeTable
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.leases import SharedShards
from shopstream.stream.settings import StreamSettings
from standins.memory_leases import MemoryLeases, Seconds
from standins.numbered import archived, expected, numbered

LEASE = timedelta(seconds=30)


class Place:
    """A stream, a lake and leases, and workers there."""

    def __init__(self, folder, stack):
        self.clock, self.seconds, self.leases = ManualClock(1_572_566_400_000), Seconds(), MemoryLeases()
        self.stream = stack.enter_context(EmbeddedStream.open(folder / "stream.db", StreamSettings(), self.clock))
        self.lake = stack.enter_context(closing(EmbeddedLakehouse(folder / "lake")))
        self._stack = stack
        self.sent = 0

    def send(self, count):
        for _ in range(count):
            self.stream.put([numbered(self.sent)])
            self.sent += 1

    def worker(self, name, *, lake=None, seconds=None, **changed):
        shared = SharedShards(self.leases, name, LEASE, monotonic=seconds or self.seconds)
        settings = EngineSettings(**{"batch_events": 40, **changed})
        archive = Archive(
            stream=self.stream, shared=shared, lakehouse=lake or self.lake, settings=settings, clock=self.clock
        )
        return self._stack.enter_context(closing(archive))

    def pass_time(self, seconds):
        self.clock.advance(timedelta(seconds=seconds))
        self.seconds.now += seconds


class Failing:
    """A lake in which appends to one table go wrong so many times, before or after they stand."""

    def __init__(self, lake, table, error, *, after=False, times=1):
        self._lake, self._table, self._error, self._after, self._times = lake, table, error, after, times

    def __getattr__(self, name):
        return getattr(self._lake, name)

    def append(self, table, rows, positions, *, after=None):
        fails = table == self._table and self._times > 0
        self._times -= fails
        if fails and not self._after:
            raise self._error
        self._lake.append(table, rows, positions, after=after)
        if fails:
            raise self._error


@pytest.fixture
def place(tmp_path):
    with ExitStack() as stack:
        yield Place(tmp_path, stack)


def unreachable():
    raise RetryableError("away")


def finish(place, *workers):
    """Let workers go on until all is archived."""
    for _ in range(200):
        for worker in workers:
            worker.step()
        place.pass_time(11)
        if archived(place.lake) == expected(place.sent):
            return
    assert archived(place.lake) == expected(place.sent)


def test_one_worker_archives_all_and_ends_when_caught_up(place):
    place.send(300)
    last = place.worker("only").run(until_caught_up=True)
    assert (last.events, last.dead_letters, last.behind_ms) == (270, 30, 0)
    assert archived(place.lake) == expected(300)
    assert all(lease.owner is None for lease in place.leases.all())


def test_a_second_run_continues_where_the_first_stopped(place):
    place.send(100)
    place.worker("first").run(until_caught_up=True)
    place.send(100)
    assert place.worker("second").run(until_caught_up=True).events == 90
    assert archived(place.lake) == expected(200)


def test_workers_share_the_shards_and_archive_all_of_them_once(place):
    workers = [place.worker(f"worker-{number}") for number in range(3)]
    for _ in range(8):
        place.send(50)
        for worker in workers:
            worker.step()
        place.pass_time(11)
    finish(place, *workers)
    shares = sorted(worker.archived().shards for worker in workers)
    assert shares == [1, 1, 2]


def test_a_dead_workers_shards_continue_with_another(place):
    dead, left = place.worker("dead"), place.worker("left")
    place.send(100)
    dead.step()
    left.step()
    place.send(100)
    dead.step()  # reads, and dies before it commits
    finish(place, left)
    assert left.archived().shards == 4


def test_the_lake_refuses_a_suspended_worker_which_restarts(place):
    place.send(60)
    still = place.worker("still", seconds=Seconds())  # its own clock stands still with it
    still.step()
    place.pass_time(1)
    other = place.worker("other")
    other.step()
    place.pass_time(31)
    finish(place, other)
    still.commit()
    assert still.archived().events == 0
    place.send(60)
    place.clock.advance(timedelta(seconds=31))
    finish(place, still, other)


def test_dead_letters_that_were_committed_before_a_crash_are_not_committed_again(place):
    place.send(100)
    crashing = place.worker("crashing", lake=Failing(place.lake, LakeTable.EVENTS, RuntimeError("killed")))
    for _ in range(10):
        crashing.step()
    with pytest.raises(RuntimeError, match="killed"):
        crashing.commit()
    assert archived(place.lake)[1] == expected(100)[1]
    finish(place, place.worker("next"))


def test_a_lake_that_is_busy_for_a_while_costs_nothing(place):
    place.send(100)
    lake = Failing(place.lake, LakeTable.EVENTS, RetryableError("busy"), times=3)
    assert place.worker("patient", lake=lake).run(until_caught_up=True).events == 90
    assert archived(place.lake) == expected(100)


def test_a_full_worker_waits_a_second_between_commits_that_fail(place):
    place.send(100)
    lake = Failing(place.lake, LakeTable.DEAD_LETTERS, RetryableError("busy"), times=99)
    full = place.worker("full", lake=lake, commit_events=20)
    for _ in range(10):
        full.step()
    assert lake._times == 98
    place.pass_time(1)
    for _ in range(10):
        full.step()
    assert lake._times == 97


def test_a_worker_at_the_end_of_its_shards_waits_a_second_between_commits_that_fail(place):
    place.send(40)
    for shard in place.stream.shards():
        place.stream.split(shard.shard_id, (shard.first_hash_key + shard.last_hash_key + 1) // 2)
    lake = Failing(place.lake, LakeTable.DEAD_LETTERS, RetryableError("busy"), times=99)
    waiting = place.worker("waiting", lake=lake)
    moved = [waiting.step() for _ in range(10)]
    assert lake._times == 98
    assert not moved[-1]
    lake._times = 0
    finish(place, waiting)


def test_a_failing_worker_releases_its_shards(place):
    place.send(40)
    lake = Failing(place.lake, LakeTable.EVENTS, StateError("a rollback"))
    with pytest.raises(StateError, match="a rollback"):
        place.worker("failing", lake=lake).run(until_caught_up=True)
    assert {lease.owner for lease in place.leases.all()} == {None}
    assert place.worker("next").run(until_caught_up=True).events == 36


def test_a_worker_that_cannot_release_its_shards_reports_it_beside_its_error(place, monkeypatch):
    place.send(40)
    lake = Failing(place.lake, LakeTable.EVENTS, StateError("a rollback"))
    worker = place.worker("failing", lake=lake)
    monkeypatch.setattr(worker._shared, "release", unreachable)
    with pytest.raises(StateError, match="a rollback") as failed:
        worker.run(until_caught_up=True)
    assert failed.value.__notes__ == ["its shards are free once their leases have expired: away"]


def test_a_split_and_a_merge_lose_and_double_nothing(place):
    workers = [place.worker(f"worker-{number}") for number in range(2)]
    for turn in range(12):
        place.send(40)
        opened = sorted((s for s in place.stream.shards() if not s.closed), key=lambda shard: shard.first_hash_key)
        if turn % 4 == 1:
            place.stream.split(opened[0].shard_id, (opened[0].first_hash_key + opened[0].last_hash_key + 1) // 2)
        if turn % 4 == 3:
            place.stream.merge(opened[1].shard_id, opened[2].shard_id)
        for worker in workers:
            worker.step()
        place.pass_time(5)
    finish(place, *workers)
    closed = {shard.shard_id for shard in place.stream.shards() if shard.closed}
    assert closed
    assert closed == {lease.name for lease in place.leases.all() if lease.ended}


def test_a_lake_of_an_engine_is_refused(place, lake_events):
    place.lake.append(LakeTable.EVENTS, lake_events(0, 3), {"shardId-000000000000": 7, "checkpoint": 1})
    with pytest.raises(ConfigurationError, match="belongs to an engine"):
        place.worker("wrong").step()


def test_an_engine_refuses_a_lake_of_archive_workers(tmp_path, lake_events):
    settings = Settings(home=tmp_path)
    with closing(adapters_of(settings).open_lakehouse()) as lake:
        lake.append(LakeTable.EVENTS, lake_events(0, 3), {"shardId-000000000000": 7})
    with pytest.raises(StateError, match="archive workers"), open_pipeline(settings):
        pass


def test_workers_whose_clocks_are_a_day_apart_archive_all_once(place):
    ahead = ManualClock(place.clock.now_ms() + 86_400_000)
    workers = [place.worker("right"), place.worker("ahead", seconds=Seconds(1e6))]
    workers[1]._clock = ahead
    for _ in range(8):
        place.send(50)
        for worker in workers:
            worker.step()
        place.pass_time(11)
        ahead.advance(timedelta(seconds=11))
        workers[1]._shared._monotonic.now += 11
    finish(place, workers[0])


def test_a_refusal_without_another_worker_is_an_error(place):
    place.send(20)
    lake = Failing(place.lake, LakeTable.EVENTS, StateError("a rollback"))
    worker = place.worker("puzzled", lake=lake)
    worker.step()
    with pytest.raises(StateError, match="a rollback"):
        worker.commit()


def test_a_shard_that_retention_removed_before_its_end_was_read_is_an_error(place):
    place.send(300)
    worker = place.worker("first")
    worker.step()
    worker.commit()
    for shard in place.stream.shards():
        place.stream.split(shard.shard_id, (shard.first_hash_key + shard.last_hash_key) // 2)
    place.pass_time(timedelta(days=30).total_seconds())
    place.stream.trim()
    for _ in range(2):
        with pytest.raises(StateError, match="retention"):
            place.worker("first").run(until_caught_up=True)
