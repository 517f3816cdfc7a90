import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from shopstream.clock import ManualClock, SystemClock, to_ms
from shopstream.errors import BackpressureError, ConfigurationError, PermanentError, StateError
from shopstream.events.codec import Decoded, Decoder
from shopstream.events.columns import REES46_COLUMNS
from shopstream.simulation.partitioning import PartitionKey, even_shards
from shopstream.simulation.replay import ReplaySettings, ReplaySummary, replay
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import NewRecord, PutOutcome
from shopstream.stream.settings import StreamSettings

START = datetime(2019, 11, 1, tzinfo=UTC)
HEADER = ",".join(REES46_COLUMNS)


class Kept:
    """A stream in memory; `break_at` raises KeyboardInterrupt in that put, counted from 1, before taking it."""

    def __init__(self, shards: int = 4, break_at: int | None = None, lost_answer: bool = False) -> None:
        self._shards = even_shards(shards)
        self.records: list[NewRecord] = []
        self.puts = 0
        self.break_at = break_at
        self.lost_answer = lost_answer

    def shards(self):
        return self._shards

    def put(self, records):
        self.puts += 1
        stop = self.puts == self.break_at
        if stop and not self.lost_answer:
            raise KeyboardInterrupt
        self.records += records
        if stop:
            raise KeyboardInterrupt
        return [PutOutcome(shard_id=self._shards[0].shard_id, sequence_number=1) for _ in records]

    def decoded(self) -> Decoded:
        return Decoder().decode(
            [r.payload for r in self.records], [to_ms(datetime(2100, 1, 1, tzinfo=UTC))] * len(self.records)
        )

    def ids(self) -> list[str]:
        return self.decoded().events["event_id"].to_pylist()


def row(place: int) -> str:
    moment = START + timedelta(seconds=place)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC,view,{place},{place % 5},,nan,{place % 90}.5,{place % 30},s{place % 40}"


def csv_file(folder: Path, rows: int, name: str = "events.csv") -> Path:
    text = "\n".join([HEADER, *map(row, range(rows))]) + "\n"
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def parquet_file(folder: Path, rows: int, price: str = "DECIMAL(18,4)", time: str = "TIMESTAMPTZ") -> Path:
    path = folder / "events.parquet"
    source = csv_file(folder, rows, "source.csv")
    sql = duckdb.connect()
    sql.execute("SET TimeZone = 'UTC'")
    clock = "event_time" if time == "VARCHAR" else f"strptime(event_time, '%Y-%m-%d %H:%M:%S UTC')::{time}"
    sql.execute(
        f"""COPY (SELECT {clock} AS event_time, event_type, product_id::BIGINT AS product_id,
        category_id::BIGINT AS category_id, category_code, brand, price::{price} AS price, user_id::BIGINT AS user_id,
        user_session FROM read_csv(?, all_varchar = true, header = true)) TO '{path}' (ROW_GROUP_SIZE 2048)""",
        [str(source)],
    )
    return path


def products(stream: Kept) -> list[int]:
    return sorted(stream.decoded().events["product_id"].to_pylist())


def test_csv_gz_and_parquet_give_the_same_events(tmp_path):
    sources = [csv_file(tmp_path, 5000), csv_file(tmp_path, 5000, "events.csv.gz"), parquet_file(tmp_path, 5000)]
    ids = []
    for source in sources:
        stream = Kept()
        summary = replay(str(source), stream)
        assert (summary.events, summary.rejected, summary.complete) == (5000, 0, True)
        assert summary.first_event_ms == to_ms(START)
        assert summary.last_event_ms == to_ms(START) + 4_999_000
        ids.append(sorted(stream.ids()))
    assert ids[0] == ids[1] == ids[2]


@pytest.mark.parametrize(
    ("price", "time"), [("DOUBLE", "TIMESTAMP"), ("VARCHAR", "VARCHAR"), ("DECIMAL(9,2)", "TIMESTAMP_NS")]
)
def test_parquet_of_other_types_gives_the_same_ids(tmp_path, price, time):
    plain, other = Kept(), Kept()
    replay(str(csv_file(tmp_path, 3000)), plain)
    summary = replay(str(parquet_file(tmp_path, 3000, price, time)), other)
    assert summary.rejected == 0
    assert sorted(plain.ids()) == sorted(other.ids())


def test_rows_that_are_not_events_are_sent_unchanged(tmp_path):
    path = csv_file(tmp_path, 100)
    bad = [b"half,a row", HEADER.encode(), row(1).replace(",view,", ",wish,").encode(), b"\xff\xfe", b'"']
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:50], *bad, *lines[50:], b"2019-11-01 00:01:4"]))
    stream = Kept()
    summary = replay(str(path), stream)
    assert (summary.events, summary.rejected) == (100, 6)
    assert sorted(stream.decoded().rejects["payload"].to_pylist()) == sorted([*bad, b"2019-11-01 00:01:4"])
    assert products(stream) == list(range(100))


def test_invalid_rows_of_parquet_are_sent(tmp_path):
    path = tmp_path / "events.parquet"
    duckdb.sql(f"""COPY (SELECT TIMESTAMP '2019-11-01' AS event_time, 'view' AS event_type, i AS product_id,
        1 AS category_id, i - 3 AS price, 5 AS user_id, 'ignored' AS other FROM range(10) t(i)) TO '{path}'""")
    stream = Kept()
    summary = replay(str(path), stream)
    assert (summary.events, summary.rejected) == (7, 3)
    assert set(stream.decoded().rejects["reason"].to_pylist()) == {"negative_price"}


def test_a_file_with_other_columns_in_another_order_is_read_by_its_header(tmp_path):
    path = tmp_path / "tracker.csv"
    path.write_text(
        "url,user_id,price,category_id,product_id,event_type,event_time,event_id\n"
        "u,1,2.5,3,4,cart,2019-11-01T00:00:00Z,mine\nu,1,oops,3,4,cart,2019-11-01T00:00:00Z,bad\n"
    )
    stream = Kept()
    summary = replay(str(path), stream)
    assert (summary.events, summary.rejected) == (1, 1)
    decoded = stream.decoded()
    assert decoded.events["event_id"].to_pylist() == ["mine"]
    assert decoded.rejects["reason"].to_pylist() == ["bad_price"]


def test_order_is_kept_for_each_key(tmp_path):
    stream = Kept()
    replay(str(csv_file(tmp_path, 4000)), stream, ReplaySettings(partition_key=PartitionKey.USER_ID))
    last: dict[int, int] = {}
    for event in stream.decoded().events.select(["user_id", "product_id"]).to_pylist():
        assert last.get(event["user_id"], -1) < event["product_id"]
        last[event["user_id"]] = event["product_id"]


def test_rebase_moves_the_first_event_to_the_given_moment(tmp_path):
    target = datetime(2026, 1, 31, 9, tzinfo=UTC)
    stream = Kept()
    summary = replay(str(csv_file(tmp_path, 10)), stream, ReplaySettings(rebase=target))
    assert (summary.first_event_ms, summary.last_event_ms) == (to_ms(target), to_ms(target) + 9000)
    times = stream.decoded().events["event_time"].to_pylist()
    assert min(times) == target


def test_rebase_now_is_kept_when_the_replay_continues(tmp_path):
    source, clock = str(csv_file(tmp_path, 100)), ManualClock(to_ms(datetime(2026, 1, 1, tzinfo=UTC)))
    settings = ReplaySettings(rebase="now")
    broken, rest = Kept(break_at=10), Kept()
    with pytest.raises(KeyboardInterrupt):
        replay(source, broken, settings, bookmarks=tmp_path / "marks", clock=clock)
    clock.advance(timedelta(days=3))
    replay(source, rest, settings, bookmarks=tmp_path / "marks", clock=clock)
    times = sorted(broken.decoded().events["event_time"].to_pylist() + rest.decoded().events["event_time"].to_pylist())
    assert times == [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second) for second in range(100)]


class Timed(Kept):
    """Keeps how far each event lay behind the clock when it was sent, too; breaks once `enough` events are there."""

    def __init__(self, clock: ManualClock, enough: int) -> None:
        super().__init__(shards=1)
        self.clock, self.enough = clock, enough
        self.lags_ms: list[int] = []

    def put(self, records):
        now = self.clock.now_ms()
        events = Decoder().decode(
            [r.payload for r in records], [to_ms(datetime(2100, 1, 1, tzinfo=UTC))] * len(records)
        )
        self.lags_ms += [now - to_ms(moment) for moment in events.events["event_time"].to_pylist()]
        outcome = super().put(records)
        if len(self.lags_ms) >= self.enough:
            raise KeyboardInterrupt
        return outcome


@pytest.mark.parametrize("speed", [None, 1], ids=["no speed", "speed 1"])
def test_a_replay_moved_to_now_sends_each_event_at_its_time_in_every_round(tmp_path, speed):
    clock = ManualClock(to_ms(datetime(2026, 1, 1, tzinfo=UTC)))
    stream = Timed(clock, 250)
    settings = ReplaySettings(rebase="now", speed=speed, loop=True)
    with pytest.raises(KeyboardInterrupt):
        replay(str(csv_file(tmp_path, 100)), stream, settings, clock=clock)
    assert 0 <= min(stream.lags_ms) <= max(stream.lags_ms) <= 60


def test_a_replay_of_today_sends_the_day_so_far_at_once_and_the_rest_as_it_happens(tmp_path):
    clock = ManualClock(to_ms(datetime(2026, 1, 31, 0, 0, 40, tzinfo=UTC)))
    stream = Timed(clock, 100)
    with pytest.raises(KeyboardInterrupt):
        replay(str(csv_file(tmp_path, 200)), stream, ReplaySettings(rebase="today"), clock=clock)
    times = stream.decoded().events["event_time"].to_pylist()
    assert times == [datetime(2026, 1, 31, tzinfo=UTC) + timedelta(seconds=second) for second in range(100)]
    assert stream.lags_ms[:41] == [1000 * second for second in range(40, -1, -1)]
    assert 0 <= min(stream.lags_ms) <= max(stream.lags_ms[41:]) <= 60


def test_each_round_of_today_is_a_day_of_its_own(tmp_path):
    clock = ManualClock(to_ms(datetime(2026, 1, 31, 9, tzinfo=UTC)))
    stream = Timed(clock, 150)
    with pytest.raises(KeyboardInterrupt):
        replay(str(csv_file(tmp_path, 50)), stream, ReplaySettings(rebase="today", loop=True), clock=clock)
    times = stream.decoded().events["event_time"].to_pylist()
    days = [datetime(2026, 1, 31, tzinfo=UTC) + timedelta(days=day) for day in range(3)]
    assert times == [day + timedelta(seconds=second) for day in days for second in range(50)]
    assert min(stream.lags_ms) >= 0


def test_a_loop_at_a_speed_keeps_it_in_every_round(tmp_path):
    clock = ManualClock()
    stream = Timed(clock, 150)
    with pytest.raises(KeyboardInterrupt):
        replay(str(csv_file(tmp_path, 50)), stream, ReplaySettings(speed=10, loop=True), clock=clock)
    assert clock.now_ms() >= 14_900


def test_each_round_of_a_loop_has_later_event_times_and_new_ids(tmp_path):
    source = str(csv_file(tmp_path, 50))
    stream = Kept(shards=1, break_at=4)
    with pytest.raises(KeyboardInterrupt):
        replay(source, stream, ReplaySettings(loop=True))
    events = stream.decoded().events
    times = events["event_time"].to_pylist()
    assert times == [START + timedelta(seconds=second) for second in range(150)]
    assert len(set(stream.ids())) == 150


def test_a_loop_gives_a_trackers_ids_a_suffix_per_round(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f"{HEADER},event_id\n{row(0)},e-0\n{row(1)},e-1\n")
    stream = Kept(shards=1, break_at=3)
    with pytest.raises(KeyboardInterrupt):
        replay(str(path), stream, ReplaySettings(loop=True))
    assert stream.ids() == ["e-0", "e-1", "e-0 round 1", "e-1 round 1"]


def test_a_loop_without_events_is_an_error(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("no,events,here\n")
    with pytest.raises(ConfigurationError, match="got none in a whole round"):
        replay(str(path), Kept(), ReplaySettings(loop=True))


@pytest.mark.parametrize("lost_answer", [False, True], ids=["put not taken", "put taken, answer lost"])
@pytest.mark.parametrize("make", [csv_file, parquet_file])
@pytest.mark.parametrize("settings", [ReplaySettings(rate=700), ReplaySettings(speed=500)], ids=["rate", "speed"])
def test_a_replay_interrupted_anywhere_continues_and_loses_nothing(tmp_path, make, settings, lost_answer):
    source = str(make(tmp_path, 3000))
    whole = Kept()
    replay(source, whole)
    parts, stops = [], 0
    for stop in (1, 2, 7, 30, None):
        stream = Kept(break_at=stop, lost_answer=lost_answer)
        parts.append(stream)
        try:
            summary = replay(source, stream, settings, bookmarks=tmp_path / "marks", clock=ManualClock())
        except KeyboardInterrupt:
            stops += 1
    assert stops == 4
    assert summary.complete
    ids = [event_id for part in parts for event_id in part.ids()]
    assert set(ids) == set(whole.ids())
    assert (len(ids) == 3000) is not lost_answer


def test_a_complete_replay_sends_nothing_again_by_default(tmp_path):
    source, marks = str(csv_file(tmp_path, 100)), tmp_path / "marks"

    def run(settings: ReplaySettings | None = None) -> ReplaySummary:
        return replay(source, Kept(), settings, bookmarks=marks)

    assert run().events == 100
    again = run()
    assert (again.events, again.earlier_events, again.complete) == (0, 100, True)
    assert run(ReplaySettings(restart=True)).events == 100
    assert run(ReplaySettings(partition_key=PartitionKey.USER_ID)).events == 100


def test_a_changed_source_is_refused(tmp_path):
    source, marks = csv_file(tmp_path, 100), tmp_path / "marks"
    replay(str(source), Kept(), bookmarks=marks)
    csv_file(tmp_path, 101)
    with pytest.raises(StateError, match="use --restart"):
        replay(str(source), Kept(), bookmarks=marks)


def test_a_damaged_bookmark_is_reported_with_its_path(tmp_path):
    source, marks = csv_file(tmp_path, 10), tmp_path / "marks"
    replay(str(source), Kept(), bookmarks=marks)
    (mark,) = marks.glob("*.json")
    mark.write_text("{")
    with pytest.raises(StateError, match="bookmark"):
        replay(str(source), Kept(), bookmarks=marks)


def test_the_same_replay_does_not_run_twice_at_once(tmp_path):
    source, marks = str(csv_file(tmp_path, 10)), tmp_path / "marks"

    def second(_: object) -> None:
        with pytest.raises(ConfigurationError, match="another process"):
            replay(source, Kept(), bookmarks=marks)

    assert replay(source, Kept(), bookmarks=marks, progress=second).events == 10


def test_progress_has_events_share_and_waits(tmp_path):
    stream, told = Kept(), []
    plain = stream.put
    stream.put = lambda records: (
        (_ for _ in ()).throw(BackpressureError("full", timedelta(seconds=1))) if not told else plain(records)
    )
    replay(str(csv_file(tmp_path, 100)), stream, clock=ManualClock(), progress=told.append)
    assert told[0].waiting == "full"
    assert (told[-1].events, told[-1].done, told[-1].waiting) == (100, 1.0, None)
    assert told[-1].event_time_ms == to_ms(START) + 99_000


def test_speed_paces_by_event_time(tmp_path):
    clock = ManualClock()
    replay(str(csv_file(tmp_path, 601)), Kept(), ReplaySettings(speed=60), clock=clock)
    assert 10_000 <= clock.now_ms() <= 10_100


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"speed": 1, "rate": 1}, "choose one"),
        ({"speed": 0}, "above 0"),
        ({"rate": float("inf")}, "above 0"),
        ({"rebase": "tomorrow"}, "'now'"),
        ({"rebase": "now", "speed": 60}, "pace of the clock"),
        ({"rebase": "today", "rate": 10}, "pace of the clock"),
        ({"rebase": datetime(2020, 1, 1)}, "time zone"),  # noqa: DTZ001  naive on purpose
    ],
)
def test_invalid_settings_are_reported(wrong, words):
    with pytest.raises(ConfigurationError, match=words):
        ReplaySettings(**wrong)


@pytest.mark.parametrize("name", ["missing.csv", "s.csv", "folder", "cut.csv.gz", "other.parquet"])
def test_a_source_that_cannot_be_read_is_reported(tmp_path, name):
    (tmp_path / "s.csv").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    whole = csv_file(tmp_path, 1000, "cut.csv.gz")
    whole.write_bytes(whole.read_bytes()[:-500])
    duckdb.sql(f"COPY (SELECT 1 AS x) TO '{tmp_path / 'other.parquet'}'")
    with pytest.raises(PermanentError, match=name):
        replay(str(tmp_path / name), Kept())


def test_a_replay_follows_a_stream_that_was_resharded(tmp_path):
    with EmbeddedStream.open(tmp_path / "stream.db", StreamSettings(shards=1), SystemClock()) as stream:
        (only,) = stream.shards()
        split = []

        def once(_: object) -> None:
            if not split:
                split.append(stream.split(only.shard_id, 1 << 127))

        replay(str(csv_file(tmp_path, 3000)), stream, ReplaySettings(rate=20_000), progress=once)
        seen: list[int] = []
        for shard in stream.shards():
            batch = stream.read(shard.shard_id, -1, max_records=1000, max_bytes=1 << 24)
            decoded = Decoder().decode([r.payload for r in batch.records], [r.arrival_ms for r in batch.records])
            seen += decoded.events["product_id"].to_pylist()
        assert sorted(seen) == list(range(3000))


def test_memory_holds_blocks_not_the_file(tmp_path):
    before = pa.total_allocated_bytes()
    most = 0

    def watch(_: object) -> None:
        nonlocal most
        most = max(most, pa.total_allocated_bytes() - before)

    path = csv_file(tmp_path, 100_000)
    path.write_bytes(path.read_bytes() * 8)  # its header lines become rejects
    replay(str(path), _Forgetful(), progress=watch)
    assert path.stat().st_size > 40 << 20
    assert most < 96 << 20


class _Forgetful(Kept):
    def put(self, records):
        return [PutOutcome(shard_id=self._shards[0].shard_id, sequence_number=1) for _ in records]
