"""The whole flow in one process, from a synthetic day to lake, incidents and live panels."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from incident_desk import read_incidents
from shopstream.adapters.flow import open_pipeline
from shopstream.adapters.ports import adapters_of
from shopstream.clock import ManualClock
from shopstream.config import Settings
from shopstream.detection.rule import load_rules
from shopstream.engine.compile import batch_sql
from shopstream.engine.settings import EngineSettings
from shopstream.errors import BackpressureError, RetryableError, StateError
from shopstream.events.arrow_ipc import encode_arrow
from shopstream.journeys.store import LiveFile
from shopstream.lakehouse.tables import create_views
from shopstream.simulation.attacks import Flood, Scraper
from shopstream.simulation.replay import ReplaySettings, replay
from shopstream.simulation.synthesis import DEFAULT_START, OutOfOrder, Synthesis, SynthesisSettings
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import NewRecord

FLOOD = Flood(DEFAULT_START + timedelta(hours=14), timedelta(minutes=3), 60, 5_000)
DEFAULT_START_MS = int(DEFAULT_START.timestamp()) * 1000
SCRAPER = Scraper(DEFAULT_START + timedelta(hours=9), timedelta(minutes=10), 1, 0.4)


@pytest.fixture(scope="module")
def day(tmp_path_factory) -> Path:
    """80,000 genuine events, an attack of each kind, some events up to 20 s out of order."""
    path = tmp_path_factory.mktemp("day") / "day.csv"
    settings = SynthesisSettings(events=80_000, scenarios=(FLOOD, SCRAPER), out_of_order=OutOfOrder(0.05, 20))
    Synthesis(settings).write(path)
    return path


@pytest.fixture(scope="module")
def processed(day, tmp_path_factory) -> Settings:
    """A home in which that day was replayed and processed."""
    settings = Settings(home=tmp_path_factory.mktemp("home"), engine=EngineSettings(commit_events=30_000))
    send(settings, day)
    with open_pipeline(settings) as pipeline:
        pipeline.run(until_caught_up=True)
    return settings


def send(settings: Settings, source: Path) -> None:
    with adapters_of(settings).open_stream() as stream:
        replay(str(source), stream, ReplaySettings(), bookmarks=settings.home / "replays")


@pytest.fixture
def lake(processed) -> Iterator[duckdb.DuckDBPyConnection]:
    lakehouse = adapters_of(processed).open_lakehouse()
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        create_views(connection, lakehouse)
        yield connection
    lakehouse.close()


def test_every_row_is_accounted_for(day, processed, lake):
    rows = len(day.read_bytes().splitlines()) - 1
    with open_pipeline(processed) as pipeline:
        counters = pipeline.progress().counters
    assert counters["events_read"] == rows
    assert counters["events_kept"] + counters["duplicates"] + counters["dead_letters"] == rows
    assert counters["late"] > 100
    kept, late = lake.execute("SELECT count(*), count(*) FILTER (is_late) FROM events").fetchone()
    assert (kept, late) == (counters["events_kept"], counters["late"])


def test_the_lake_holds_the_distinct_rows_of_the_file(day, lake):
    columns = "event_type, product_id, category_id, category_code, brand, price, user_id, user_session"
    lake.execute(f"""
        CREATE TEMP TABLE file AS
        SELECT DISTINCT strptime(event_time, '%Y-%m-%d %H:%M:%S UTC')::TIMESTAMPTZ AS event_time, event_type,
               product_id::BIGINT AS product_id, category_id::BIGINT AS category_id, category_code, brand,
               price::DECIMAL(18,4) AS price, user_id::BIGINT AS user_id, user_session
        FROM read_csv('{day}', all_varchar = true, header = true, nullstr = '')""")
    missing = lake.execute(f"SELECT event_time, {columns} FROM file EXCEPT SELECT event_time, {columns} FROM events")
    assert missing.fetchall() == []
    assert (
        lake.execute("SELECT count(*) FROM file").fetchone() == lake.execute("SELECT count(*) FROM events").fetchone()
    )


def test_streamed_detections_are_those_of_the_batch_query_over_the_lake(lake):
    lake.execute("CREATE TEMP TABLE on_time AS SELECT * FROM events WHERE NOT is_late")
    fired = set()
    for rule in (rule for rule in load_rules().values() if rule.enabled):
        streamed = lake.execute(
            "SELECT epoch_ms(start_time), key, measures FROM detections WHERE rule_id = ? AND final", [rule.id]
        ).fetchall()
        result = lake.execute(batch_sql(rule.window_declaration(), "on_time"))
        names = [column[0] for column in result.description]
        batch = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
        expected = {
            (row["start_ms"], *(str(row[column]) for column in rule.key), *(row[name] for name in rule.measures))
            for row in batch
        }
        got = {
            (
                start,
                *(json.loads(key)[column] for column in rule.key),
                *(json.loads(measures)[m] for m in rule.measures),
            )
            for start, key, measures in streamed
        }
        assert len(got) == len(streamed), "each detection once"
        assert got == expected
        fired |= {rule.id} if got else set()
    assert {"user_burst", "user_rate", "user_breadth", "user_regular"} <= fired


def test_each_attack_is_one_incident_and_no_other_actor_is_accused(processed):
    incidents = read_incidents(processed.incidents_path)
    assert sorted(incident.rule for incident in incidents) == ["user_burst", "volume"]
    user, site = sorted(incidents, key=lambda incident: incident.rule)
    assert abs(site.detected_at_event_time - FLOOD.start) < timedelta(seconds=30)
    assert abs(user.first_event_time - SCRAPER.start) < timedelta(seconds=10)
    assert user.duration > timedelta(minutes=9)


def test_the_live_funnel_counts_the_sessions_of_the_lake(processed, lake):
    panels = LiveFile(processed.live_path).read()
    now_ms = panels["as_of_ms"]
    for funnel in panels["funnel"]:
        since = datetime.fromtimestamp(now_ms / 1000, UTC) - timedelta(minutes=funnel["minutes"])
        expected = lake.execute(
            """
            WITH ordered AS (
                SELECT *, coalesce(event_time - lag(event_time) OVER visit > INTERVAL 30 MINUTES, true) AS opens
                FROM events WHERE NOT is_late AND user_session IS NOT NULL
                WINDOW visit AS (PARTITION BY user_id, user_session ORDER BY event_time)
            ), numbered AS (
                SELECT *, sum(opens::INT) OVER visit AS n FROM ordered
                WINDOW visit AS (PARTITION BY user_id, user_session ORDER BY event_time)
            ), sessions AS (
                SELECT max(event_time) AS last_time, bool_or(event_type = 'view') AS viewed,
                       bool_or(event_type = 'cart') AS carted, bool_or(event_type = 'purchase') AS bought
                FROM numbered GROUP BY user_id, user_session, n
            )
            SELECT count(*), count(*) FILTER (viewed), count(*) FILTER (viewed AND carted),
                   count(*) FILTER (viewed AND carted AND bought), count(*) FILTER (bought)
            FROM sessions WHERE last_time >= $since""",
            {"since": since},
        ).fetchone()
        got = tuple(funnel[name] for name in ("sessions", "viewed", "carted", "bought_from_cart", "bought"))
        assert got == expected
        assert funnel["sessions"] > 0


def test_live_open_carts_are_those_of_the_lake(processed, lake):
    carts = LiveFile(processed.live_path).read()["carts"]
    expected = lake.execute("""
        SELECT count(DISTINCT user_id), count(*), sum(worth) FROM (
            SELECT user_id, product_id, max(price) AS worth,
                   max(event_time) FILTER (event_type = 'cart') AS carted,
                   max(event_time) FILTER (event_type IN ('purchase', 'remove_from_cart')) AS settled
            FROM events WHERE NOT is_late AND event_type <> 'view' GROUP BY ALL
        ) WHERE carted > coalesce(settled, '-infinity'::TIMESTAMPTZ)""").fetchone()
    assert (carts["carts"], carts["lines"], float(carts["value"])) == (expected[0], expected[1], float(expected[2]))


def test_a_second_run_finds_nothing_new(processed):
    with open_pipeline(processed) as pipeline:
        before = pipeline.progress().counters
        assert pipeline.run(until_caught_up=True).counters == before


def test_a_stream_of_bad_records_alone_reaches_the_lake(tmp_path):
    settings = Settings(home=tmp_path, engine=EngineSettings(commit_events=10, batch_events=5))
    with adapters_of(settings).open_stream() as stream:
        for number in range(50):
            stream.put([NewRecord(b"no event %d" % number, "k")])
    with open_pipeline(settings) as pipeline:
        while pipeline.step():
            assert sum(table.num_rows for table in pipeline._dead_letters) < 20, "what waits is bounded"
        pipeline.run(until_caught_up=True)
    with open_pipeline(settings) as pipeline:
        assert pipeline.progress().counters["dead_letters"] == 50, "they are not read again"
    with closing(adapters_of(settings).open_lakehouse()) as lakehouse:
        assert {status.table: status.rows for status in lakehouse.status()}["dead_letters"] == 50


def test_a_stream_that_refuses_positions_does_not_stop_the_engine(tmp_path, monkeypatch, caplog):
    def throttled(*_):
        raise BackpressureError("the table throttles", timedelta(seconds=1))

    monkeypatch.setattr(EmbeddedStream, "commit", throttled)
    settings = Settings(home=tmp_path)
    with adapters_of(settings).open_stream() as stream:
        stream.put([NewRecord(b"no event", "k")])
    with open_pipeline(settings) as pipeline:
        pipeline.run(until_caught_up=True)
    assert "did not accept" in caplog.text
    with open_pipeline(settings) as pipeline:
        assert pipeline.progress().counters["dead_letters"] == 1


def test_two_engines_on_one_home_are_refused(processed):
    with (
        open_pipeline(processed),
        pytest.raises(RetryableError, match="another process runs"),
        open_pipeline(processed),
    ):
        pass


def test_a_lake_without_its_checkpoint_is_refused(tmp_path, processed):
    (tmp_path / "lake").symlink_to(processed.lake_path.resolve())
    with pytest.raises(StateError, match="restore both"), open_pipeline(Settings(home=tmp_path)):
        pass


def test_a_stream_reshaped_on_the_way_gives_the_same_events(tmp_path):
    settings = Settings(home=tmp_path)
    batches = list(Synthesis(SynthesisSettings(events=20_000)).batches(2_000))
    with adapters_of(settings).open_stream() as stream:
        for number, batch in enumerate(batches):
            open_shards = [shard for shard in stream.shards() if not shard.closed]
            if number == 3:
                first = open_shards[0]
                stream.split(first.shard_id, (first.first_hash_key + first.last_hash_key) // 2)
            if number == 6:
                stream.merge(open_shards[0].shard_id, open_shards[1].shard_id)
            open_shards = [shard for shard in stream.shards() if not shard.closed]
            for place, shard in enumerate(open_shards):
                part = batch.take([row for row in range(len(batch)) if row % len(open_shards) == place])
                stream.put([NewRecord(encode_arrow(part), "k", shard.first_hash_key)])
    with open_pipeline(settings, clock=ManualClock(1_800_000_000_000)) as pipeline:
        end = pipeline.run(until_caught_up=True)
    counters = end.counters
    newest_ms = max(batch["event_time"].cast("int64").to_numpy().max() for batch in batches) // 1000
    assert end.watermark_ms == newest_ms - 5_000, "shards that ended hold nothing back"
    assert counters["events_read"] == sum(len(batch) for batch in batches)
    assert counters["dead_letters"] == 0
    assert counters["late"] == 0, "children are read after their parents"


def test_a_checkpoint_keeps_which_shards_were_read_to_their_end(tmp_path, monkeypatch):
    """A stream that removed a shard cannot tell it, as Kinesis cannot."""
    settings, clock = Settings(home=tmp_path), ManualClock(DEFAULT_START_MS)
    batches = list(Synthesis(SynthesisSettings(events=2_000)).batches(1_000))
    with adapters_of(settings, clock).open_stream() as stream:
        first = stream.shards()[0]
        stream.put([NewRecord(encode_arrow(batches[0]), "k", first.first_hash_key)])
        with open_pipeline(settings, clock=clock) as pipeline:
            pipeline.run(until_caught_up=True)
        stream.split(first.shard_id, (first.first_hash_key + first.last_hash_key) // 2)
        with open_pipeline(settings, clock=clock) as pipeline:
            pipeline.run(until_caught_up=True)  # the end of the shard, and no event
        clock.advance(settings.stream.retention + timedelta(days=1))
        stream.trim()
        stream.put([NewRecord(encode_arrow(batches[1]), "k", first.first_hash_key)])
        listed = {shard.shard_id for shard in stream.shards()}
    assert first.shard_id not in listed
    read = EmbeddedStream.read

    def forgetful(self, shard_id, after, **limits):
        if shard_id not in listed:
            raise StateError("nobody knows this shard any more")
        return read(self, shard_id, after, **limits)

    monkeypatch.setattr(EmbeddedStream, "read", forgetful)
    for _ in range(2):
        with open_pipeline(settings, clock=clock) as pipeline:
            end = pipeline.run(until_caught_up=True)
    assert end.counters["events_read"] == sum(map(len, batches[:2]))
