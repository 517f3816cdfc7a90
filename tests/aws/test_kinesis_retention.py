"""Positions that retention passed, and iterators that really expire: on a kinesalite whose clock can be put forward."""

from contextlib import closing
from datetime import timedelta

import pytest

from shopstream.clock import SystemClock
from shopstream.engine.settings import EngineSettings
from shopstream.engine.source import SourceReader
from shopstream.engine.watermark import Watermarks
from shopstream.errors import StateError
from shopstream.stream.aws import Pace
from shopstream.stream.ports import TRIM_HORIZON, NewRecord
from standins import process
from standins.reshaping import ReshapingStream

pytestmark = pytest.mark.aws

PLENTY = {"max_records": 1000, "max_bytes": 4 << 20}
SHARD = "shardId-000000000000"


class Ahead:
    """A clock that is ahead of the machine's, together with the server's; puts forward, never back."""

    def __init__(self, file):
        self._file = file
        self._ahead = timedelta(0)
        self.advance(timedelta(0))

    def advance(self, duration):
        self._ahead += duration
        self._file.write_text(str(self._ahead // timedelta(milliseconds=1)))

    def now_ms(self):
        return SystemClock().now_ms() + self._ahead // timedelta(milliseconds=1)

    def sleep(self, duration):
        SystemClock().sleep(duration)


@pytest.fixture(scope="module")
def ahead_file(tmp_path_factory):
    return tmp_path_factory.mktemp("clock") / "ahead"


@pytest.fixture(scope="module")
def server(ahead_file, tmp_path_factory):
    ahead_file.write_text("0")

    def kinesalite_ahead():
        command, folder = process.kinesalite()
        return [*command, str(ahead_file)], folder

    with process.running(kinesalite_ahead, tmp_path_factory.mktemp("log") / "kinesalite.log") as address:
        yield address


@pytest.fixture
def clock(ahead_file):
    return Ahead(ahead_file)


@pytest.fixture
def standins(server, dynamodb_local, aws_env):
    aws_env(kinesis=server, dynamodb=dynamodb_local)


@pytest.fixture
def open_stream(standins, clock, make_stream, make_table):  # noqa: ARG001  they must be there
    """Opens one stream of a single shard, as processes do one after the other. Retention is 24 hours."""
    names = make_stream(1), make_table()
    pace = Pace(timedelta(milliseconds=1), timedelta(milliseconds=5))
    return lambda kind=ReshapingStream, **options: kind(*names, clock, pace=pace, **options)


def read(stream, after):
    return stream.read(SHARD, after, **PLENTY)


def payloads(batch):
    return [record.payload for record in batch.records]


def put(stream, payload):
    (outcome,) = stream.put([NewRecord(payload, "key")])
    assert outcome.error_code is None
    return outcome.sequence_number


def test_a_position_that_retention_passed_is_a_state_error(open_stream, clock):
    stream = open_stream()
    first = put(stream, b"1")
    put(stream, b"2 that nobody read")
    clock.advance(timedelta(hours=25))
    put(stream, b"3")
    late = open_stream()
    for _ in range(2):  # the second time, too
        with pytest.raises(StateError, match="retention"):
            read(late, first)


def test_a_gap_may_be_skipped_with_a_warning(open_stream, clock, caplog):
    stream = open_stream()
    first = put(stream, b"1")
    put(stream, b"2 that nobody read")
    clock.advance(timedelta(hours=25))
    put(stream, b"3")
    assert payloads(read(open_stream(skip_gaps=True), first)) == [b"3"]
    assert "may be skipped" in caplog.text


def test_trim_horizon_is_the_oldest_record_that_retention_keeps(open_stream, clock):
    stream = open_stream()
    put(stream, b"1")
    clock.advance(timedelta(hours=25))
    put(stream, b"2")
    assert payloads(read(open_stream(), TRIM_HORIZON)) == [b"2"]


def test_a_position_whose_record_is_kept_is_not_an_error(open_stream, clock):
    stream = open_stream()
    first = put(stream, b"1")
    clock.advance(timedelta(hours=23))
    put(stream, b"2")
    assert payloads(read(open_stream(), first)) == [b"2"]


def test_an_idle_shard_is_not_an_error_while_its_consumer_polled(open_stream, clock):
    consumer = open_stream()
    first = put(consumer, b"1")
    consumer.commit("engine", {SHARD: first})
    for _ in range(13):
        assert payloads(read(consumer, first)) == []
        clock.advance(timedelta(hours=2))
    put(consumer, b"2")
    assert payloads(read(open_stream(), first)) == [b"2"]


def test_a_shard_that_was_idle_while_no_consumer_polled_is_a_state_error(open_stream, clock):
    consumer = open_stream()
    first = put(consumer, b"1")
    consumer.commit("engine", {SHARD: first})
    assert payloads(read(consumer, first)) == []
    clock.advance(timedelta(hours=25))
    put(consumer, b"2")
    with pytest.raises(StateError, match="may be skipped"):
        read(open_stream(), first)


def test_a_gap_is_found_though_the_shard_was_empty_when_its_consumer_came_back(open_stream, clock):
    consumer = open_stream()
    first = put(consumer, b"1")
    consumer.commit("engine", {SHARD: first})
    put(consumer, b"2 that nobody read")
    clock.advance(timedelta(hours=25))
    back = open_stream()
    back.commit("engine", {})
    assert payloads(read(back, first)) == []
    put(back, b"3")
    with pytest.raises(StateError, match="may be skipped"):
        read(back, first)


def test_a_restarted_consumer_still_knows_an_idle_shard(open_stream, clock):
    consumer = open_stream()
    first = put(consumer, b"1")
    consumer.commit("engine", {SHARD: first})
    for _ in range(26):
        assert payloads(read(consumer, first)) == []
        clock.advance(timedelta(hours=2))
        consumer = open_stream()
        consumer.commit("engine", {})
    put(consumer, b"2")
    assert payloads(read(open_stream(), first)) == [b"2"]


class Removing(ReshapingStream):
    """Lists closed shards no longer, as Kinesis does when the retention has passed them; the stand-ins go on."""

    def _list_shards(self):
        return [shard for shard in super()._list_shards() if not shard.closed]


def split(stream):
    """Close the shard with two records in it, give its children one; the position of the first of the two."""
    first = put(stream, b"1")
    put(stream, b"2 that nobody read")
    stream.split(SHARD, 1 << 127)
    put(stream, b"3")
    return first


def start_after(stream, clock, position, *ended):
    """An engine that comes back; what it reads then."""
    with closing(SourceReader(stream, Watermarks(0, 10_000), EngineSettings(), clock)) as source:
        source.start_after({SHARD: position}, *ended)
        return payloads(source.poll())


def test_a_shard_that_retention_removed_before_its_end_was_read_is_a_state_error(open_stream, clock):
    first = split(open_stream())
    for _ in range(2):
        with pytest.raises(StateError, match=rf"removed {SHARD} .*position {first}.*aws.kinesis.skip_gaps"):
            start_after(open_stream(Removing), clock, first)


def test_a_shard_removed_after_its_end_was_read_is_not_an_error(open_stream, clock):
    first = split(open_stream())
    assert start_after(open_stream(Removing), clock, first, [SHARD]) == [b"3"]


def test_a_removed_shard_may_be_skipped_with_a_warning(open_stream, clock, caplog):
    first = split(open_stream())
    assert start_after(open_stream(Removing, skip_gaps=True), clock, first) == [b"3"]
    assert f"removed {SHARD}" in caplog.text


def test_a_closed_shard_that_retention_emptied_before_its_end_was_read_is_a_state_error(open_stream, clock, caplog):
    first = split(open_stream())
    clock.advance(timedelta(hours=25))
    with pytest.raises(StateError, match="may be skipped"):
        read(open_stream(), first)
    assert read(open_stream(skip_gaps=True), first).ended
    assert "may be skipped" in caplog.text


def test_a_closed_shard_whose_last_record_was_read_is_at_its_end(open_stream):
    stream = open_stream()
    last = split(stream)
    last = read(stream, last).position
    assert read(open_stream(), last).ended


def test_a_position_of_another_stream_is_a_state_error(open_stream, make_stream, clock):
    clock.advance(timedelta(seconds=2))
    other = ReshapingStream(make_stream(1), "none", clock)
    with pytest.raises(StateError, match="another stream"):
        read(open_stream(), put(other, b"x"))


def test_an_iterator_that_expires_while_the_consumer_is_busy_costs_nothing(open_stream, clock):
    stream = open_stream()
    put(stream, b"1")
    batch = read(stream, TRIM_HORIZON)
    put(stream, b"2")
    clock.advance(timedelta(minutes=6))
    assert payloads(read(stream, batch.position)) == [b"2"]
