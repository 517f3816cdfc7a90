"""What only the embedded stream promises; what every stream keeps to is in tests/conformance/test_stream.py."""

import shutil
import sqlite3
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from shopstream.clock import ManualClock, SystemClock
from shopstream.errors import BackpressureError, PermanentError, StateError
from shopstream.stream.database import PAGE_BYTES
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import TRIM_HORIZON, NewRecord, lag
from shopstream.stream.settings import StreamSettings

START_MS = 1_572_566_400_000
SHARD = "shardId-000000000000"
MIB = 1 << 20
PLENTY = {"max_records": 10_000, "max_bytes": 64 * MIB}


@pytest.fixture
def clock():
    return ManualClock(START_MS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "stream.db"


@pytest.fixture
def open_stream(path, clock):
    opened = []

    def opener(**settings):
        opened.append(EmbeddedStream.open(path, StreamSettings(**({"shards": 1} | settings)), clock))
        return opened[-1]

    yield opener
    for stream in opened:
        stream.close()


def put(stream, *payloads: bytes) -> list[int]:
    return [outcome.sequence_number for outcome in stream.put([NewRecord(payload, "key") for payload in payloads])]


def payloads(stream, after: int = TRIM_HORIZON, shard_id: str = SHARD) -> list[bytes]:
    return [record.payload for record in stream.read(shard_id, after, **PLENTY).records]


# The file


def test_records_positions_and_shards_outlive_the_process(open_stream):
    stream = open_stream(shards=2)
    lower, _ = stream.split("shardId-000000000001", 3 << 126)
    stream.put([NewRecord(b"x", "key", 2 << 126)])
    stream.commit("lake", {lower: 5})
    shards, status = stream.shards(), stream.describe()
    stream.close()
    again = open_stream(shards=7)
    assert again.shards() == shards
    assert again.describe().shards == status.shards
    assert again.positions("lake") == {lower: 5}
    assert payloads(again, shard_id=lower) == [b"x"]


def test_shards_are_named_as_kinesis_names_them(open_stream):
    assert [shard.shard_id for shard in open_stream(shards=3).shards()] == [
        "shardId-000000000000",
        "shardId-000000000001",
        "shardId-000000000002",
    ]


def test_a_closed_stream_says_so(open_stream):
    with open_stream() as stream:
        put(stream, b"x")
    with pytest.raises(PermanentError, match="closed"):
        put(stream, b"y")


@pytest.mark.parametrize("content", [b"no database at all, but longer than a header" * 100, None])
def test_a_file_that_is_not_a_stream_is_refused_and_left_unchanged(path, open_stream, content):
    path.parent.mkdir()
    if content is None:
        with sqlite3.connect(path) as foreign:
            foreign.execute("CREATE TABLE mine (x)")
        foreign.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(StateError, match=r"stream\.db"):
        open_stream()
    assert path.read_bytes() == before


def test_a_damaged_file_is_a_state_error(path, open_stream):
    with open_stream() as stream:
        put(stream, *[b"x" * 100_000] * 20)
    with path.open("r+b") as file:
        file.seek(PAGE_BYTES)
        file.write(b"\xff" * PAGE_BYTES * 20)
    with pytest.raises(StateError, match="damaged"):
        payloads(open_stream())


def test_an_incomplete_file_of_a_killed_process_is_created_again(path, open_stream):
    path.parent.mkdir()
    path.with_name("stream.db.new").write_bytes(b"half")
    assert len(open_stream(shards=2).shards()) == 2


def test_processes_that_create_a_stream_at_the_same_time_share_it(path):
    code = (
        "import sys; from pathlib import Path; from shopstream.clock import SystemClock\n"
        "from shopstream.stream.embedded import EmbeddedStream\n"
        "from shopstream.stream.ports import NewRecord; from shopstream.stream.settings import StreamSettings\n"
        "sys.stdin.read(1)\n"
        "with EmbeddedStream.open(Path(sys.argv[1]), StreamSettings(shards=1), SystemClock()) as stream:\n"
        "    for i in range(20): stream.put([NewRecord(b'%d' % i, sys.argv[2])])\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(number)], stdin=subprocess.PIPE)
        for number in range(4)
    ]
    for process in processes:
        process.communicate(b"x", timeout=60)
    assert [process.returncode for process in processes] == [0] * 4
    with EmbeddedStream.open(path, StreamSettings(), SystemClock()) as stream:
        records = stream.read(SHARD, TRIM_HORIZON, **PLENTY).records
    for number in range(4):
        mine = [record.payload for record in records if record.partition_key == str(number)]
        assert mine == [b"%d" % i for i in range(20)]


def test_writers_that_share_nothing_but_the_file_wait_for_each_other(open_stream):
    streams, failed = [open_stream() for _ in range(3)], []

    def write(stream) -> None:
        try:
            for _ in range(100):
                put(stream, b"x")
        except Exception as error:  # noqa: BLE001  carried over to the test's thread
            failed.append(error)

    threads = [threading.Thread(target=write, args=(stream,)) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(payloads(streams[0])) == 300


@pytest.mark.parametrize("fsync", ["always", "batch", "never"])
def test_each_fsync_policy_sets_sqlites_synchronous(open_stream, fsync):
    stream = open_stream(fsync=fsync)
    put(stream, b"x")
    with stream._database.snapshot() as connection:
        (level,) = connection.execute("PRAGMA synchronous").fetchone()
    assert level == {"always": 2, "batch": 1, "never": 0}[fsync]
    assert payloads(stream) == [b"x"]


# Sequence numbers


def test_records_of_one_put_keep_their_order(open_stream):
    stream = open_stream()
    numbers = put(stream, *[b"%d" % i for i in range(500)])
    assert numbers == sorted(set(numbers))
    assert payloads(stream) == [b"%d" % i for i in range(500)]


def test_a_clock_set_back_neither_reorders_nor_repeats(open_stream, clock):
    stream = open_stream()
    (first,) = put(stream, b"1")
    clock.advance(timedelta(hours=-1))
    (second,) = put(stream, b"2")
    assert second > first
    arrivals = [record.arrival_ms for record in stream.read(SHARD, TRIM_HORIZON, **PLENTY).records]
    assert arrivals == [START_MS, START_MS]


def test_sequence_numbers_lost_in_a_power_cut_are_not_reused(path, open_stream, clock):
    stream = open_stream()
    put(stream, b"kept")
    stream.close()
    shutil.copy(path, path.with_suffix(".before"))
    stream = open_stream()
    clock.advance(timedelta(milliseconds=5))
    (lost,) = put(stream, b"lost")
    stream.close()
    shutil.copy(path.with_suffix(".before"), path)  # what the disk had when the power went
    stream = open_stream()
    clock.advance(timedelta(milliseconds=5))
    assert payloads(stream, lost) == []
    (new,) = put(stream, b"new")
    assert new > lost
    assert payloads(stream, lost) == [b"new"]


def test_a_position_from_the_future_is_a_state_error(open_stream):
    stream = open_stream()
    (newest,) = put(stream, b"x")
    with pytest.raises(StateError, match="another stream"):
        payloads(stream, newest + (1 << 40))


def test_a_position_of_an_older_stream_is_a_state_error(path, open_stream, clock):
    stream = open_stream()
    (old,) = put(stream, b"x")
    stream.close()
    path.unlink()
    clock.advance(timedelta(seconds=1))
    stream = open_stream()
    with pytest.raises(StateError):
        payloads(stream, old)


def test_a_commit_for_an_unknown_shard_is_a_state_error_and_commits_nothing(open_stream):
    stream = open_stream()
    with pytest.raises(StateError):
        stream.commit("lake", {SHARD: 1, "shardId-000000000009": 1})
    assert stream.positions("lake") == {}


@pytest.mark.parametrize("limits", [{"max_records": 0}, {"max_bytes": 0}])
def test_a_read_of_nothing_is_a_permanent_error(open_stream, limits):
    with pytest.raises(PermanentError):
        open_stream().read(SHARD, TRIM_HORIZON, **(PLENTY | limits))


# Retention


def test_trim_drops_records_older_than_the_retention(open_stream, clock):
    stream = open_stream(retention=timedelta(hours=1))
    put(stream, b"old", b"old")
    clock.advance(timedelta(minutes=59))
    put(stream, b"young")
    clock.advance(timedelta(minutes=1))
    assert stream.trim() == 0
    clock.advance(timedelta(milliseconds=1))
    assert stream.trim() == 2
    assert payloads(stream) == [b"young"]


def test_a_put_drops_expired_records_too(open_stream, clock):
    stream = open_stream(retention=timedelta(hours=1))
    put(stream, b"old")
    clock.advance(timedelta(hours=2))
    put(stream, b"new")
    assert payloads(stream) == [b"new"]
    assert stream.describe().records == 1


def test_puts_catch_up_with_a_pile_of_expired_records(open_stream, clock):
    stream = open_stream(retention=timedelta(hours=1))
    for _ in range(5):
        put(stream, *[b"old"] * 500)
    clock.advance(timedelta(hours=2))
    for _ in range(3):
        put(stream, b"new")
    assert stream.describe().records == 3


def test_a_trimmed_position_is_a_state_error_never_a_silent_gap(open_stream, clock):
    stream = open_stream(retention=timedelta(hours=1))
    first, second = put(stream, b"1", b"2")
    clock.advance(timedelta(hours=2))
    (third,) = put(stream, b"3")
    with pytest.raises(StateError, match=r"TRIM_HORIZON.*stream\.retention"):
        payloads(stream, first)
    assert payloads(stream, second) == [b"3"]
    assert payloads(stream, third) == []
    assert payloads(stream, TRIM_HORIZON) == [b"3"]


def test_records_that_came_and_went_after_an_empty_read_are_missed_loudly(open_stream, clock):
    stream = open_stream(retention=timedelta(hours=1))
    position = stream.read(SHARD, TRIM_HORIZON, **PLENTY).position
    put(stream, b"1")
    clock.advance(timedelta(hours=2))
    stream.trim()
    with pytest.raises(StateError):
        payloads(stream, position)


def test_an_emptied_shard_continues_with_larger_numbers(open_stream, clock):
    stream = open_stream(retention=timedelta(hours=1))
    (old,) = put(stream, b"old")
    clock.advance(timedelta(hours=2))
    stream.trim()
    batch = stream.read(SHARD, old, **PLENTY)
    assert (batch.records, batch.position, batch.behind_ms) == ((), old, 0)
    (new,) = put(stream, b"new")
    assert new > old


def test_a_closed_shard_is_listed_until_retention_has_passed_it(open_stream, clock):
    stream = open_stream(retention=timedelta(hours=1))
    put(stream, b"x")
    stream.split(SHARD, 1 << 127)
    clock.advance(timedelta(minutes=60))
    assert SHARD in [shard.shard_id for shard in stream.shards()]
    clock.advance(timedelta(milliseconds=1))
    stream.trim()
    assert SHARD not in [shard.shard_id for shard in stream.shards()]
    assert stream.read(SHARD, TRIM_HORIZON, **PLENTY).ended


# Bounded disk


def disk_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob("stream.db*") if not file.name.endswith("-shm"))


def fill(stream, size: int = 256 << 10, count: int = 8, match: str = "retention") -> int:
    """Put until pushed back; returns the bytes taken."""
    taken = 0
    while True:
        try:
            put(stream, *[bytes(size)] * count)
        except BackpressureError as full:
            assert match in str(full)  # noqa: PT017  the loop ends here
            return taken
        taken += size * count


def test_a_full_stream_pushes_back_within_its_disk_and_drops_nothing(path, open_stream):
    stream = open_stream(max_bytes=64 * MIB)
    put(stream, b"oldest")
    taken = fill(stream)
    assert 40 * MIB < taken < 64 * MIB
    assert disk_bytes(path) <= 64 * MIB
    assert stream.describe().disk_bytes == disk_bytes(path)
    assert stream.read(SHARD, TRIM_HORIZON, max_records=1, max_bytes=1).records[0].payload == b"oldest"
    assert stream.describe().bytes == taken + 6


def test_pushing_back_says_when_room_comes(open_stream, clock):
    stream = open_stream(max_bytes=64 * MIB, retention=timedelta(seconds=30))
    fill(stream)
    clock.advance(timedelta(seconds=20))
    fill_once = [NewRecord(bytes(MIB - 10), "key")] * 5
    with pytest.raises(BackpressureError, match=r"stream\.max_bytes") as full:
        stream.put(fill_once)
    assert full.value.retry_after == timedelta(seconds=10, milliseconds=1)
    clock.sleep(full.value.retry_after)
    assert len(stream.put(fill_once)) == 5


def test_space_freed_by_retention_is_reused(path, open_stream, clock):
    stream = open_stream(max_bytes=64 * MIB, retention=timedelta(hours=1))
    first = fill(stream)
    for _ in range(4):
        clock.advance(timedelta(hours=2))
        assert fill(stream) >= first - 2 * MIB
        assert disk_bytes(path) <= 64 * MIB


def test_small_records_too_stay_within_the_disk(path, open_stream):
    stream = open_stream(max_bytes=64 * MIB)
    assert fill(stream, size=2000, count=500) > 36 * MIB
    assert disk_bytes(path) <= 64 * MIB


def test_a_reader_at_work_does_not_break_the_bound(path, open_stream, clock):
    stream = open_stream(max_bytes=64 * MIB, retention=timedelta(hours=1))
    stop, seen, failed = threading.Event(), [], []

    def read_on() -> None:
        try:
            while not stop.is_set():
                seen.append(len(stream.read(SHARD, TRIM_HORIZON, max_records=50, max_bytes=4 * MIB).records))
        except Exception as error:  # noqa: BLE001  carried over to the test's thread
            failed.append(error)

    reader = threading.Thread(target=read_on)
    reader.start()
    for _ in range(3):
        fill(stream)
        assert disk_bytes(path) <= 64 * MIB
        clock.advance(timedelta(hours=2))
    stop.set()
    reader.join()
    assert not failed
    assert seen


@pytest.mark.parametrize("filled_before", [False, True])
def test_a_stuck_reader_pushes_writers_back_before_the_disk_runs_over(path, open_stream, clock, filled_before):
    stream = open_stream(max_bytes=64 * MIB, retention=timedelta(hours=1))
    put(stream, b"x")
    if filled_before:  # the file is large then, with free pages in it, and leaves the log little room
        fill(stream)
        clock.advance(timedelta(hours=2))
        stream.trim()
    stuck = sqlite3.connect(path, isolation_level=None)
    stuck.execute("BEGIN")
    stuck.execute("SELECT count(*) FROM record").fetchall()
    assert fill(stream, match="reader") < 64 * MIB
    assert disk_bytes(path) <= 64 * MIB
    stuck.close()
    put(stream, bytes(MIB - 10))
    assert disk_bytes(path) <= 64 * MIB


def test_another_process_that_holds_the_file_is_pushed_back_on(open_stream, path, monkeypatch):
    monkeypatch.setattr("shopstream.stream.database._BUSY_SECONDS", 0.05)
    stream = open_stream()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BackpressureError, match="another process"):
        put(stream, b"x")
    assert payloads(stream) == []
    other.execute("ROLLBACK")
    other.close()
    put(stream, b"x")
    assert payloads(stream) == [b"x"]


def test_a_full_disk_is_pushed_back_on_and_takes_nothing(open_stream):
    stream = open_stream()
    put(stream, b"kept")
    with stream._database.snapshot() as connection:  # the one idle connection, which the next put takes
        connection.execute("PRAGMA max_page_count = 1")  # SQLite fails as it does without room on the disk
    with pytest.raises(BackpressureError, match="disk"):
        put(stream, bytes(MIB - 10))
    assert payloads(stream) == [b"kept"]


@pytest.mark.parametrize("wrong", [{"max_bytes": 63 * MIB}, {"retention": timedelta(0)}, {"shards": 0}])
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(ValidationError):
        StreamSettings(**wrong)


# Reading


def test_a_read_loads_no_payload_beyond_max_bytes(open_stream):
    stream = open_stream()
    for _ in range(4):
        put(stream, *[bytes(MIB - 10)] * 5)
    statements = []
    with stream._database.snapshot() as connection:
        connection.set_trace_callback(statements.append)
    batch = stream.read(SHARD, TRIM_HORIZON, max_records=1000, max_bytes=2 * MIB)
    assert len(batch.records) == 2
    loading = [statement for statement in statements if statement.startswith("SELECT payload")]
    assert len(loading) == 1
    assert f"sequence_number <= {batch.position} " in loading[0]


def test_a_read_is_filled_up_to_exactly_max_bytes(open_stream):
    stream = open_stream()
    put(stream, *[bytes(1000)] * 5)
    assert len(stream.read(SHARD, TRIM_HORIZON, max_records=10, max_bytes=2000).records) == 2


# Status


def test_describe_reports_shards_records_and_bytes(open_stream, clock):
    stream = open_stream(shards=2, retention=timedelta(hours=1))
    stream.put([NewRecord(b"12345", "key", 0), NewRecord(b"1", "key", 1 << 127)])
    clock.advance(timedelta(minutes=10))
    stream.put([NewRecord(b"123", "key", 0)])
    status = stream.describe()
    assert (status.shards, status.records, status.bytes) == (2, 3, 9)
    clock.advance(timedelta(minutes=51))
    stream.trim()
    status = stream.describe()
    assert (status.shards, status.records, status.bytes) == (2, 1, 3)


def test_lag_is_the_age_of_the_oldest_record_after_the_position(open_stream, clock):
    stream = open_stream()
    first = put(stream, b"1")
    clock.advance(timedelta(seconds=5))
    second = put(stream, b"2")
    clock.advance(timedelta(seconds=5))
    assert lag(stream, {}, clock) == {SHARD: 10_000}
    assert lag(stream, {SHARD: first[0]}, clock) == {SHARD: 5_000}
    assert lag(stream, {SHARD: second[0]}, clock) == {SHARD: 0}
