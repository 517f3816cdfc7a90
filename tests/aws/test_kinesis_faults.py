"""Streams on Kinesis when things go wrong on the way."""

import threading
from collections import Counter, defaultdict
from contextlib import contextmanager
from datetime import timedelta

import pytest

from shopstream.clock import SystemClock
from shopstream.errors import BackpressureError, ConfigurationError, RetryableError
from shopstream.simulation.stream_sender import Lane, StreamSender
from shopstream.stream.aws import KinesisStream, Pace
from shopstream.stream.ports import TRIM_HORIZON, NewRecord
from standins import faults

pytestmark = pytest.mark.aws

PLENTY = {"max_records": 1000, "max_bytes": 4 << 20}
QUICK = Pace(timedelta(milliseconds=1), timedelta(milliseconds=5))


@pytest.fixture
def table_proxy(dynamodb_local, fault_proxy):
    return fault_proxy(dynamodb_local)


@pytest.fixture
def proxy(kinesalite, table_proxy, fault_proxy, aws_env):
    proxy = fault_proxy(kinesalite)
    aws_env(kinesis=proxy.url, dynamodb=table_proxy.url)
    return proxy


@pytest.fixture
def open_stream(make_stream, make_table):
    """Opens one stream of so many shards, as each of its users would."""
    names = {}

    @contextmanager
    def opened(shards=2):
        stream, table = names.setdefault(shards, (make_stream(shards), make_table()))
        with KinesisStream(stream, table, SystemClock(), pace=QUICK) as one:
            yield one

    return opened


@pytest.fixture
def stream(proxy, open_stream):  # noqa: ARG001  behind the proxy
    with open_stream() as stream:
        yield stream


def send(stream, keys, numbers):
    """Send records of some keys, numbered, each key in order."""
    lanes = [Lane(f"key-{key}", [NewRecord(b"%d" % number, f"key-{key}") for number in numbers]) for key in range(keys)]
    StreamSender(stream, SystemClock(), lambda _why, _wait: None).send(lanes)


def read_all(stream, count):
    """So many payloads at least by key, in the order they were read."""
    found, positions = defaultdict(list), {}
    for _ in range(200):
        for shard in stream.shards():
            batch = stream.read(shard.shard_id, positions.get(shard.shard_id, TRIM_HORIZON), **PLENTY)
            positions[shard.shard_id] = batch.position
            for record in batch.records:
                found[record.partition_key].append(record.payload)
        if sum(map(len, found.values())) >= count:
            return dict(found)
    raise AssertionError(f"expected {count} records, got {sum(map(len, found.values()))}")


# Writing


def test_a_throttled_put_is_backpressure_and_takes_nothing(proxy, stream):
    proxy.on("PutRecords", faults.throttled())
    with pytest.raises(BackpressureError, match="kinesis:PutRecords") as caught:
        stream.put([NewRecord(b"x", "key")])
    assert caught.value.retry_after > timedelta(0)
    assert proxy.count("PutRecords") == 1
    stream.put([NewRecord(b"y", "key")])
    assert read_all(stream, 1) == {"key": [b"y"]}


def test_each_refused_record_of_a_put_has_its_own_error(proxy, stream):
    proxy.on("PutRecords", faults.partly(lambda index, _: index in {1, 3}))
    outcomes = stream.put([NewRecord(b"%d" % number, f"key-{number}") for number in range(5)])
    assert [outcome.error_code for outcome in outcomes] == [
        None,
        "ProvisionedThroughputExceededException",
        None,
        "ProvisionedThroughputExceededException",
        None,
    ]
    assert all(outcome.error_message for outcome in outcomes if outcome.error_code)
    assert len(read_all(stream, 3)) == 3


def test_a_writer_keeps_the_order_of_each_key_through_throttling_and_partial_failures(proxy, stream):
    proxy.on("PutRecords", faults.throttled(), times=2, skip=3)
    proxy.on("PutRecords", faults.partly(lambda index, _: index % 3 == 0), times=10, chance=0.5)
    send(stream, 12, range(20))
    assert read_all(stream, 240) == {f"key-{key}": [b"%d" % number for number in range(20)] for key in range(12)}


@pytest.mark.parametrize("fault", [faults.lost_answer(), faults.lost_request(), faults.failing()])
def test_a_put_whose_answer_is_lost_is_not_repeated_here(proxy, stream, fault):
    proxy.on("PutRecords", fault)
    with pytest.raises(RetryableError):
        stream.put([NewRecord(b"x", "key")])
    assert proxy.count("PutRecords") == 1


def test_lost_answers_cost_duplicates_and_nothing_else(proxy, stream):
    proxy.on("PutRecords", faults.lost_answer(), times=4, chance=0.4)
    send(stream, 6, range(15))
    lost = sum(call.status is None for call in proxy.calls if call.operation == "PutRecords")
    assert lost == 4
    found = read_all(stream, 6 * 15 + 1)
    for payloads in found.values():
        assert set(payloads) == {b"%d" % number for number in range(15)}
        firsts = list(dict.fromkeys(payloads))
        assert firsts == [b"%d" % number for number in range(15)]
    assert max(Counter(found["key-0"]).values()) <= 1 + lost


# Reading


def test_a_throttled_reader_waits_and_continues(proxy, stream):
    stream.put([NewRecord(b"x", "key")])
    proxy.on("GetRecords", faults.throttled(), times=3)
    assert read_all(stream, 1) == {"key": [b"x"]}
    assert proxy.count("GetRecords") > 3


def test_a_table_that_throttles_does_not_keep_anybody_from_reading(table_proxy, stream, caplog):
    stream.put([NewRecord(b"x", "key")])
    stream.commit("engine", {})
    table_proxy.on("PutItem", faults.throttled(), times=5)  # all tries of one call
    found = read_all(stream, 1)
    for shard in stream.shards():
        stream.read(shard.shard_id, TRIM_HORIZON, **PLENTY)
    assert found == {"key": [b"x"]}
    assert "noted again in a minute" in caplog.text


def test_an_expired_iterator_costs_nothing_and_doubles_nothing(proxy, open_stream):
    with open_stream(1) as stream:
        (shard,) = stream.shards()
        stream.put([NewRecord(b"1", "key")])
        first = stream.read(shard.shard_id, TRIM_HORIZON, **PLENTY)
        stream.put([NewRecord(b"2", "key")])
        proxy.on("GetRecords", faults.expired_iterator())
        second = stream.read(shard.shard_id, first.position, **PLENTY)
    assert [record.payload for record in (*first.records, *second.records)] == [b"1", b"2"]


def test_iterators_that_expire_all_the_time_lose_nothing_and_double_nothing(proxy, stream):
    proxy.on("GetRecords", faults.expired_iterator(), times=None, chance=0.4)
    send(stream, 8, range(10))
    assert read_all(stream, 80) == {f"key-{key}": [b"%d" % number for number in range(10)] for key in range(8)}


def test_lost_answers_to_reads_lose_nothing_and_double_nothing(proxy, stream):
    send(stream, 8, range(10))
    proxy.on("GetRecords", faults.lost_answer(), times=3, skip=1)
    proxy.on("GetShardIterator", faults.lost_answer())
    assert read_all(stream, 80) == {f"key-{key}": [b"%d" % number for number in range(10)] for key in range(8)}


def test_an_empty_answer_behind_the_tip_is_not_the_tip(proxy, open_stream):
    with open_stream(1) as stream:
        (shard,) = stream.shards()
        stream.put([NewRecord(b"x", "key")])

        def gap(call, forward):
            """Kinesis passes over a stretch of the shard in which there is nothing."""
            answer = forward(call)
            content = answer.json | {"Records": [], "MillisBehindLatest": 5_000}
            return answer.with_json(content | {"NextShardIterator": call.json["ShardIterator"]})

        proxy.on("GetRecords", gap, times=4)
        batch = stream.read(shard.shard_id, TRIM_HORIZON, **PLENTY)
        assert [record.payload for record in batch.records] == [b"x"]
        assert proxy.count("GetRecords") == 5


def test_shards_are_listed_over_several_pages(proxy, open_stream):
    with open_stream(5) as stream:

        def page(call, forward):
            """ListShards as a stream of many shards answers it: by two."""
            start = int(call.json.get("NextToken", 0))
            answer = forward(call, b'{"StreamName": "%s"}' % stream.name.encode())
            shards = answer.json["Shards"]
            rest = {"NextToken": str(start + 2)} if start + 2 < len(shards) else {}
            return answer.with_json({"Shards": shards[start : start + 2], **rest})

        proxy.on("ListShards", page, times=None)
        assert len(stream.shards()) == 5
        assert proxy.count("ListShards") == 3


# Permissions and clocks


@pytest.mark.parametrize(
    ("action", "do"),
    [
        ("kinesis:PutRecords", lambda stream: stream.put([NewRecord(b"x", "key")])),
        ("kinesis:ListShards", lambda stream: stream.shards()),
        ("kinesis:GetShardIterator", lambda stream: stream.read("shardId-000000000000", -1, **PLENTY)),
        ("kinesis:GetRecords", lambda stream: stream.read("shardId-000000000000", -1, **PLENTY)),
    ],
)
def test_a_missing_permission_is_named(proxy, stream, action, do):
    proxy.on(action.removeprefix("kinesis:"), faults.denied())
    with pytest.raises(ConfigurationError, match=action):
        do(stream)


@pytest.mark.parametrize(
    ("operation", "action", "do"),
    [
        ("Query", "dynamodb:Query", lambda stream: stream.positions("engine")),
        (
            "TransactWriteItems",
            "dynamodb:UpdateItem",
            lambda stream: stream.commit("engine", {"shardId-000000000000": 1}),
        ),
    ],
)
def test_a_missing_permission_for_the_table_is_named(table_proxy, stream, operation, action, do):
    table_proxy.on(operation, faults.denied())
    with pytest.raises(ConfigurationError, match=action):
        do(stream)


def test_a_wrong_clock_is_reported_as_such(proxy, stream):
    proxy.on("ListShards", faults.skewed())
    with pytest.raises(ConfigurationError, match="clock"):
        stream.shards()


# At once


def test_readers_of_one_object_in_several_threads_do_not_disturb_each_other(stream):
    send(stream, 8, range(20))
    found = []
    threads = [threading.Thread(target=lambda: found.append(read_all(stream, 160))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{f"key-{key}": [b"%d" % n for n in range(20)] for key in range(8)}] * 3
