"""Leases and positions in DynamoDB when calls go wrong."""

import time
from dataclasses import replace
from datetime import timedelta

import pytest

from shopstream.clock import SystemClock
from shopstream.errors import BackpressureError, ConfigurationError, RetryableError
from shopstream.stream.lease_table import LeaseTable
from shopstream.stream.leases import LeaderLease
from shopstream.stream.settings import KinesisSettings
from standins import faults

pytestmark = pytest.mark.aws


@pytest.fixture
def proxy(dynamodb_local, fault_proxy, aws_env):
    proxy = fault_proxy(dynamodb_local)
    aws_env(dynamodb=proxy.url)
    return proxy


@pytest.fixture
def table(proxy, make_table):  # noqa: ARG001  behind the proxy
    return LeaseTable(make_table(), "events/archive")


def taken(lease, owner):
    return replace(lease, owner=owner, counter=lease.counter + 1)


def exclusive(table, owner, lease_time=timedelta(seconds=30)):
    return LeaderLease(table, "engine", owner, lease_time, clock=SystemClock(), monotonic=time.monotonic)


def test_a_change_with_a_lost_answer_is_made_once(proxy, table):
    old = table.add("shard")
    proxy.on("PutItem", faults.lost_answer())
    assert table.change(old, taken(old, "me"))
    assert proxy.count("PutItem") == 2
    assert table.all() == [taken(old, "me")]


def test_a_change_whose_request_was_lost_is_made_after_all(proxy, table):
    old = table.add("shard")
    proxy.on("PutItem", faults.lost_request())
    assert table.change(old, taken(old, "me"))
    assert table.all() == [taken(old, "me")]


def test_a_throttled_table_is_retried(proxy, table):
    proxy.on("UpdateItem", faults.throttled(), times=2)
    proxy.on("PutItem", faults.failing(), times=2)
    old = table.add("shard")
    assert table.change(old, taken(old, "me"))


def test_a_hanging_call_is_retried_before_the_lease_expires(proxy, table):
    renewal_s = KinesisSettings().lease_time.total_seconds() / 3
    old = table.add("shard")
    proxy.on("PutItem", faults.slow(renewal_s), times=1)
    started = time.monotonic()
    assert table.change(old, taken(old, "me"))
    assert time.monotonic() - started < renewal_s


def test_positions_that_another_process_commits_at_the_same_time_are_backpressure(proxy, table):
    message = "Transaction cancelled, please refer cancellation reasons for specific reasons [TransactionConflict]"
    proxy.on("TransactWriteItems", faults.error("TransactionCanceledException", message), times=None)
    with pytest.raises(BackpressureError, match="TransactionConflict"):
        table.commit({"shardId-000000000000": 1})
    proxy.clear()
    table.commit({"shardId-000000000000": 1})
    assert table.positions() == {"shardId-000000000000": 1}


@pytest.mark.parametrize(
    ("action", "do"),
    [
        ("dynamodb:UpdateItem", lambda table, _: table.add("another")),
        ("dynamodb:PutItem", lambda table, lease: table.change(lease, taken(lease, "me"))),
        ("dynamodb:DeleteItem", lambda table, lease: table.remove(lease)),
        ("dynamodb:Query", lambda table, _: table.all()),
    ],
)
def test_a_missing_permission_is_named(proxy, table, action, do):
    lease = table.add("shard")
    proxy.on(action.removeprefix("dynamodb:"), faults.denied())
    with pytest.raises(ConfigurationError, match=action):
        do(table, lease)


def test_a_leader_without_access_to_the_table_gives_up_in_time(proxy, table):
    lease = exclusive(table, "me", timedelta(seconds=1))
    assert lease.acquire()
    proxy.on("PutItem", faults.denied(), times=None)
    lease._thread.join(30)
    with pytest.raises(ConfigurationError, match="dynamodb:PutItem"):
        lease.check()
    proxy.clear()
    lease.release()


def test_a_standby_takes_over_within_about_the_lease_time(proxy, table):
    dead = exclusive(table, "dead", timedelta(seconds=2))
    assert dead.try_acquire()  # and nobody renews it
    began = time.monotonic()
    with exclusive(table, "standby", timedelta(seconds=2)) as standby:
        assert standby.acquire()
        assert time.monotonic() - began >= 1.9
        standby.check()
        with pytest.raises(RetryableError, match="engine"):
            dead.check()
    assert table.all()[0].owner is None
    assert proxy.count("PutItem") >= 3


def test_no_row_of_a_lease_holds_a_time(proxy, table):
    lease = table.add("shard")
    table.change(lease, replace(taken(lease, "me"), position=1 << 180, ended=True))
    (row,) = (call.json["Item"] for call in proxy.calls if call.operation == "PutItem")
    assert set(row) == {"pk", "sk", "owner", "counter", "position", "ended"}
