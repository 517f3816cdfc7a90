"""What every keeper of leases keeps to; the one in memory is what other tests of leases run on."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from shopstream.stream.lease_table import LeaseTable
from shopstream.stream.leases import Lease
from standins.memory_leases import MemoryLeases

BIG = 49_680_470_372_914_741_974_167_115_020_064_103_473_222_689_965_587_038_210


@pytest.fixture(params=["memory", pytest.param("dynamodb", marks=pytest.mark.aws)])
def open_leases(request):
    """Opens the leases of one consumer, as each of its workers would."""
    if request.param == "memory":
        memory = MemoryLeases()
        return lambda: memory
    request.getfixturevalue("aws_env")(dynamodb=request.getfixturevalue("dynamodb_local"))
    table = request.getfixturevalue("make_table")()
    return lambda: LeaseTable(table, "events/archive")


@pytest.fixture
def leases(open_leases):
    return open_leases()


def taken(lease, owner):
    return replace(lease, owner=owner, counter=lease.counter + 1)


def test_a_lease_is_made_once_and_free(leases):
    assert leases.add("shard") == Lease("shard")
    assert leases.add("shard") == Lease("shard")
    assert leases.all() == [Lease("shard")]


def test_a_change_is_visible_to_all(open_leases):
    mine = replace(taken(open_leases().add("shard"), "me"), position=BIG, ended=True)
    assert open_leases().change(Lease("shard"), mine)
    assert open_leases().all() == [mine]
    assert open_leases().add("shard") == mine


def test_a_change_of_a_concurrently_changed_lease_is_refused(leases):
    old = leases.add("shard")
    mine = taken(old, "me")
    assert leases.change(old, mine)
    assert not leases.change(old, taken(old, "you"))
    assert leases.all() == [mine]


def test_a_repeated_change_counts_as_made(leases):
    old = leases.add("shard")
    mine = taken(old, "me")
    assert leases.change(old, mine)
    assert leases.change(old, mine)


def test_a_change_of_a_lease_that_is_gone_is_refused(leases):
    old = leases.add("shard")
    assert leases.remove(old)
    assert not leases.change(old, taken(old, "me"))
    assert leases.all() == []


def test_a_concurrently_changed_lease_is_not_removed(leases):
    old = leases.add("shard")
    leases.change(old, taken(old, "me"))
    assert not leases.remove(old)
    assert len(leases.all()) == 1


def test_one_of_many_concurrent_workers_gets_a_lease(open_leases):
    old = open_leases().add("shard")
    owners = [f"worker-{number}" for number in range(8)]
    keepers = [open_leases() for _ in owners]
    with ThreadPoolExecutor(len(owners)) as threads:
        got = list(threads.map(lambda keeper, owner: keeper.change(old, taken(old, owner)), keepers, owners))
    assert sum(got) == 1
    assert open_leases().all() == [taken(old, owners[got.index(True)])]
