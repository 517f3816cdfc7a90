"""A CSV in S3 becomes records in Kinesis, whatever fails on the way."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from random import Random

import boto3
import pytest

from shopstream.clock import SystemClock
from shopstream.errors import ConfigurationError, PermanentError, RetryableError, StateError
from shopstream.events.codec import Decoder
from shopstream.simulation.replay import ReplaySettings, replay
from shopstream.stream.aws import KinesisStream
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import TRIM_HORIZON, hash_key
from shopstream.stream.settings import KinesisSettings, StreamSettings
from standins import faults
from standins.reshaping import ReshapingStream

pytestmark = pytest.mark.aws

START = datetime(2019, 11, 1, tzinfo=UTC)
HEADER = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
FAR_MS = 4_000_000_000_000
SHARDS = 4


def csv_of(rows, filler=0):
    """Rows whose product_id counts up; so many characters of filler, which hardly compress, make them longer."""
    dice = Random(1)  # noqa: S311  no secret
    lines = [
        f"{START + timedelta(milliseconds=40 * n):%Y-%m-%d %H:%M:%S} UTC,view,{n},{n % 31},,brand,1.25,{n % 99},"
        f"s{n % 97}{dice.randbytes(filler // 2).hex()}"
        for n in range(rows)
    ]
    return (HEADER + "\n".join(lines) + "\n").encode()


@pytest.fixture
def s3(moto, fault_proxy):
    return fault_proxy(moto)


@pytest.fixture
def kinesis(kinesalite, fault_proxy):
    return fault_proxy(kinesalite)


@pytest.fixture
def upload(s3, kinesis, aws_env, make_bucket):
    """Puts a file into a bucket of its own; its address."""
    aws_env(s3=s3.url, kinesis=kinesis.url)
    bucket = make_bucket()

    def put(content, key="2019-Nov.csv"):
        boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=content)
        s3.calls.clear()
        return f"s3://{bucket}/{key}"

    return put


@pytest.fixture
def stream(upload, make_stream):
    assert upload
    name = make_stream(SHARDS)
    with KinesisStream.open(KinesisSettings(events=name), SystemClock()) as opened:
        yield opened


@dataclass(frozen=True)
class Shown:
    """A record as the service shows it, not as our reader does."""

    payload: bytes


def read(stream):
    """Shard id → records, from the beginning."""
    client, found = boto3.client("kinesis"), {}
    for shard in stream.shards():
        where = {"StreamName": stream.name, "ShardId": shard.shard_id, "ShardIteratorType": "TRIM_HORIZON"}
        iterator, records = client.get_shard_iterator(**where)["ShardIterator"], []
        while iterator and (answer := client.get_records(ShardIterator=iterator, Limit=10_000))["Records"]:
            records += [Shown(record["Data"]) for record in answer["Records"]]
            iterator = answer.get("NextShardIterator")
        found[shard.shard_id] = records
    return found


def read_embedded(stream):
    """The same of the embedded stream."""
    limits = {"max_records": 10_000, "max_bytes": 64 << 20}
    return [stream.read(shard.shard_id, TRIM_HORIZON, **limits).records for shard in stream.shards()]


def products(records):
    decoded = Decoder().decode([r.payload for r in records], [FAR_MS] * len(records))
    assert decoded.rejects.num_rows == 0
    return decoded.events["product_id"].to_pylist()


def check_arrived_in_order(stream, rows):
    """Each event is there, on the shard of its category, in order; for what is there twice, its first time counts."""
    seen, found = set(), read(stream)
    for shard in stream.shards():
        numbers = list(dict.fromkeys(products(found[shard.shard_id])))
        assert numbers == sorted(numbers)
        assert all(shard.first_hash_key <= hash_key(str(n % 31)) <= shard.last_hash_key for n in numbers)
        seen.update(numbers)
    assert seen == set(range(rows))


def check_doubled_at_once(stream):
    """What is there twice are whole records, one right after the other; how many."""
    doubled = 0
    for records in read(stream).values():
        once = [payload for payload, _ in groupby(record.payload for record in records)]
        assert len(set(once)) == len(once)
        numbers = products([Shown(payload) for payload in once])
        assert len(set(numbers)) == len(numbers)
        doubled += len(records) - len(once)
    return doubled


def paced(source, target, **options):
    """In slices of some 500 rows, so that there are many puts."""
    return replay(source, target, ReplaySettings(rate=10_000), **options)


def test_each_event_arrives_on_the_shard_where_the_embedded_stream_has_it(upload, stream, tmp_path):
    source = upload(csv_of(20_000))
    summary = replay(source, stream)
    assert (summary.events, summary.rejected, summary.complete) == (20_000, 0, True)
    assert summary.sent.refused == summary.sent.repeated == summary.sent.waited_ms == 0
    check_arrived_in_order(stream, 20_000)
    settings = StreamSettings(shards=SHARDS)
    with EmbeddedStream.open(tmp_path / "stream.db", settings, SystemClock()) as embedded:
        replay(source, embedded)
        expected = [products(records) for records in read_embedded(embedded)]
    assert [products(records) for records in read(stream).values()] == expected


def test_refused_records_go_again_and_nothing_overtakes_them(upload, stream, kinesis):
    source = upload(csv_of(20_000))
    kinesis.on("PutRecords", faults.partly(), times=None, chance=0.3)
    summary = paced(source, stream)
    assert summary.sent.refused > 5
    assert summary.sent.waited_ms > 0
    check_arrived_in_order(stream, 20_000)
    assert check_doubled_at_once(stream) == 0


def test_lost_answers_double_whole_puts_only(upload, stream, kinesis):
    source = upload(csv_of(20_000))
    kinesis.on("PutRecords", faults.lost_answer(), times=None, chance=0.2)
    summary = paced(source, stream)
    assert summary.sent.repeated > 2
    check_arrived_in_order(stream, 20_000)
    assert check_doubled_at_once(stream) > 2


def test_everything_at_once_loses_nothing(upload, stream, kinesis, s3):
    source = upload(csv_of(30_000))
    for number, fault in enumerate(
        [faults.throttled(), faults.partly(code="InternalFailure"), faults.lost_answer(), faults.lost_request()]
    ):
        kinesis.on("PutRecords", fault, times=None, chance=0.08, seed=number)
    kinesis.on("ListShards", faults.failing(), times=2)
    s3.on("GetObject", faults.failing(), times=2)
    s3.on("GetObject", faults.lost_answer(), times=2, skip=3)
    summary = paced(source, stream)
    assert summary.events == 30_000
    check_arrived_in_order(stream, 30_000)
    check_doubled_at_once(stream)


def test_a_throttled_shard_is_sent_to_as_fast_as_it_takes(upload, stream, kinesis):
    source = upload(csv_of(30_000, filler=200))
    limit = faults.ShardLimit(SHARDS, size=300 << 10)
    kinesis.on("PutRecords", limit, times=None)
    told = []
    summary = replay(source, stream, ReplaySettings(rate=30_000), progress=told.append)
    assert summary.sent.refused == limit.refused > 0
    assert summary.sent.refused < summary.sent.records
    assert max(progress.sent.refused for progress in told) == limit.refused
    assert any("throttle" in (progress.waiting or "") for progress in told)
    check_arrived_in_order(stream, 30_000)


def test_a_replay_that_was_stopped_continues_in_kinesis(upload, stream, tmp_path):
    source, calls = upload(csv_of(20_000)), []

    def stop(progress):
        calls.append(progress)
        if len(calls) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        paced(source, stream, bookmarks=tmp_path, stream=stream.name, progress=stop)
    summary = paced(source, stream, bookmarks=tmp_path, stream=stream.name)
    assert 0 < summary.earlier_events < 20_000
    check_arrived_in_order(stream, 20_000)


def test_shards_may_be_split_and_merged_on_the_way(s3, kinesis_local, aws_env, upload, make_stream):
    aws_env(s3=s3.url, kinesis=kinesis_local)
    source, name, calls = upload(csv_of(20_000)), make_stream(2), []
    with ReshapingStream.open(KinesisSettings(events=name), SystemClock()) as stream:

        def reshape(progress):
            calls.append(progress)
            low, high = sorted((s for s in stream.shards() if not s.closed), key=lambda s: s.first_hash_key)[:2]
            if len(calls) == 3:
                stream.split(low.shard_id, low.last_hash_key // 3)
            if len(calls) == 15:
                stream.merge(low.shard_id, high.shard_id)

        summary = replay(source, stream, ReplaySettings(rate=5_000), progress=reshape)
        found = {shard_id: products(records) for shard_id, records in read(stream).items() if records}
    assert len(found) == 5
    assert sorted(n for numbers in found.values() for n in numbers) == list(range(20_000))
    by_key = [[n for n in numbers if n % 31 == key] for numbers in found.values() for key in range(31)]
    assert all(numbers == sorted(numbers) for numbers in by_key)
    assert summary.sent.refused == summary.sent.repeated == 0


def test_another_stream_has_a_bookmark_of_its_own(upload, stream, tmp_path):
    source = upload(csv_of(100))
    with EmbeddedStream.open(tmp_path / "stream.db", StreamSettings(), SystemClock()) as embedded:
        replay(source, embedded, bookmarks=tmp_path)
    summary = replay(source, stream, bookmarks=tmp_path, stream=stream.name)
    assert (summary.events, summary.earlier_events) == (100, 0)


def test_a_file_is_read_in_ranges_never_as_a_whole(upload, stream, s3):
    content = csv_of(400_000, filler=40)
    source = upload(content)
    assert replay(source, stream).events == 400_000
    calls = [call for call in s3.calls if call.operation == "GetObject"]
    sizes = []
    for call in calls:
        first, _, last = call.headers["range"].removeprefix("bytes=").partition("-")
        sizes.append(int(last) - int(first) + 1)
    assert len(content) > 32 << 20
    assert max(sizes) <= 17 << 20
    samples = 65 * (64 << 10)
    assert len(content) <= sum(sizes) <= 1.1 * len(content) + samples


def test_rows_that_are_no_events_arrive_as_they_came(upload, stream):
    lines = csv_of(1000).splitlines()
    bad = [f"no event {n}".encode() for n in range(3000)] + [b'{"half": ' + str(n).encode() for n in range(3000)]
    mixed = [line for pair in zip(bad[:3000], bad[3000:], strict=True) for line in pair]
    summary = replay(upload(b"\n".join([*lines, *mixed, b""])), stream)
    assert (summary.events, summary.rejected) == (1000, 6000)
    records = [record for records in read(stream).values() for record in records]
    decoded = Decoder().decode([r.payload for r in records], [FAR_MS] * len(records))
    assert sorted(decoded.rejects["payload"].to_pylist()) == sorted(bad)
    assert summary.sent.puts < summary.sent.records / 50


def test_a_missing_permission_to_put_is_reported_at_once(upload, stream, kinesis):
    source = upload(csv_of(100))
    kinesis.on("PutRecords", faults.denied(), times=None)
    with pytest.raises(ConfigurationError, match=r"denies permission.*kinesis:PutRecords"):
        replay(source, stream)
    assert kinesis.count("PutRecords") == 1


def test_a_wrong_clock_is_reported(upload, stream, kinesis):
    source = upload(csv_of(100))
    kinesis.on("PutRecords", faults.skewed(), times=None)
    with pytest.raises(ConfigurationError, match="clock of this machine"):
        replay(source, stream)


@pytest.mark.parametrize("operation", ["HeadObject", "GetObject"])
def test_a_missing_permission_to_read_is_reported(upload, stream, s3, operation):
    source = upload(csv_of(100))
    s3.on(operation, faults.denied(), times=None)
    with pytest.raises(ConfigurationError, match=r"2019-Nov\.csv is denied .* grant it to the role .*s3:GetObject"):
        replay(source, stream)


def test_permission_that_is_taken_away_on_the_way_is_reported(upload, stream, s3):
    source = upload(csv_of(200_000, filler=40))
    s3.on("GetObject", faults.denied(), times=None, skip=66)
    with pytest.raises(ConfigurationError, match=r"2019-Nov\.csv is denied"):
        replay(source, stream)


@pytest.mark.parametrize("address", ["s3://no-such-bucket-here/day.csv", "{folder}/missing.csv"])
def test_a_missing_bucket_or_file_is_reported(upload, stream, address):
    folder = upload(b"x").rpartition("/")[0]
    with pytest.raises(PermanentError, match=r"expected a file at s3://.*found none; check the path or URL"):
        replay(address.format(folder=folder), stream)


@pytest.mark.usefixtures("upload")
def test_a_missing_stream_is_reported():
    with (
        KinesisStream.open(KinesisSettings(events="no-such-stream"), SystemClock()) as stream,
        pytest.raises(StateError, match="no-such-stream"),
    ):
        replay("s3://b/day.csv", stream)


def test_missing_credentials_are_reported(upload, stream, monkeypatch):
    source = upload(csv_of(100))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(RetryableError, match="credentials"):
        replay(source, stream)


def test_the_command_sends_from_s3_to_kinesis(upload, stream, kinesis, tmp_path):
    kinesis.on("PutRecords", faults.partly(), times=2)
    address = upload(csv_of(50_000))
    command = [
        *(sys.executable, "-c", "from shopstream.cli import main; main()", "--home", str(tmp_path)),
        *("simulate", address, "--rate", "40000", "--format", "json"),
    ]
    profile = {"SHOPSTREAM_PROFILE": "aws", "SHOPSTREAM_AWS__KINESIS__EVENTS": stream.name}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | profile, cwd=tmp_path)
    figures = json.loads(done.stdout)
    assert figures["events"] == 50_000
    assert figures["refused_records"] >= 2
    assert figures["puts"] > 0
    check_arrived_in_order(stream, 50_000)
