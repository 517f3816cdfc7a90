"""Detection at a shop's pace gives what a replay gives, whatever stops, waits or is starved on the way."""

import shutil
from contextlib import closing, contextmanager
from datetime import timedelta
from decimal import Decimal

import pyarrow as pa
import pytest

from incident_desk import read_incidents
from shopstream.clock import ManualClock
from shopstream.detection.allowlist import AllowList
from shopstream.detection.baseline import SLOTS, Baselines, SeriesProfile
from shopstream.detection.detector_runner import DetectorRunner
from shopstream.detection.detectors.silence import SilenceDetector
from shopstream.detection.detectors.site_state import SiteState
from shopstream.detection.detectors.volume import VolumeDetector
from shopstream.detection.runner import LocalDetectionRunner
from shopstream.engine.checkpoint import CheckpointStore
from shopstream.engine.engine import Engine
from shopstream.engine.settings import EngineSettings
from shopstream.engine.source import SourceReader
from shopstream.events.arrow_ipc import encode_arrow
from shopstream.events.schema import WIRE_SCHEMA
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.incidents.recorder import IncidentRecorder
from shopstream.incidents.settings import IncidentSettings, NotifySettings
from shopstream.pipeline import Pipeline
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import NewRecord
from shopstream.stream.settings import StreamSettings

START_MS = 1_573_430_400_000
SECOND = timedelta(seconds=1)
PACE = 8
FLOOD = "volume_surge"
"""The events are all alike, so a flood of them is none of an attacker's."""


class Shop:
    """A live stream with its sender and its engine; one second after the other.

    Args:
        home: of the data.
        pace: events a second; baselines say so.
    """

    def __init__(self, home, pace=PACE):
        self.home, self.pace, self.clock = home, pace, ManualClock(START_MS)
        self.sent, self.sent_ms = 0, START_MS
        home.mkdir()

    def send(self, stream, until_ms, times=1):
        """All events that are due and were not sent yet."""
        moments = [
            moment + 1_000 * part // (self.pace * times)
            for moment in range(self.sent_ms, until_ms, 1_000)
            for part in range(self.pace * times)
        ]
        self.sent_ms = until_ms
        for shard in stream.shards():
            rows = [row(self.sent + place, moment) for place, moment in enumerate(moments)]
            rows = [one for one in rows if one["user_id"] % 2 == (shard.first_hash_key > 0)]
            if rows:
                payload = encode_arrow(pa.Table.from_pylist(rows, schema=WIRE_SCHEMA))
                stream.put([NewRecord(payload, "k", shard.first_hash_key)])
        self.sent += len(moments)

    def live(self, seconds, *, silent=(), flood=(), stopped=()):
        """Run the engine beside the sender; returns (counters, incidents).

        Args:
            seconds: how long.
            silent: seconds in which the sender is stopped; it catches up afterwards.
            flood: seconds with six times as many events.
            stopped: seconds in which the engine is stopped.
        """
        with opened(self.home, self.pace, self.clock) as (stream, pipeline):
            for second in range(seconds):
                self.clock.advance(SECOND)
                if second not in silent:
                    self.send(stream, self.clock.now_ms(), 6 if second in flood else 1)
                if second not in stopped:
                    while pipeline.step():
                        pass
            pipeline.commit()
            pipeline.settle()
            return pipeline.progress().counters, incidents(self.home)

    def caught_up(self):
        """Run the engine until all is read."""
        with opened(self.home, self.pace, self.clock) as (_, pipeline):
            return pipeline.run(until_caught_up=True).counters

    def replayed(self, home):
        """The incidents of a replay of the same stream."""
        again = Shop(home, self.pace)
        again.clock = self.clock
        shutil.copy(self.home / "stream.db", home / "stream.db")
        assert again.caught_up()["late_signals"] == 0
        return incidents(home)


@contextmanager
def opened(home, pace, clock):
    """A stream, and a pipeline with the detectors of volume and silence."""
    profile = SeriesProfile((float(pace),) * SLOTS, (1.0,) * 7, 0.05, 28.0)
    traffic = SiteState(Baselines(START_MS - 1, START_MS, 1, series={"site": profile, "event_type=view": profile}))
    detectors = DetectorRunner([VolumeDetector(traffic), SilenceDetector(traffic)])
    settings = EngineSettings(threads=1)
    engine = Engine(settings, detectors.declarations)
    with (
        EmbeddedStream.open(home / "stream.db", StreamSettings(shards=2), clock) as stream,
        closing(engine.connection),
        closing(EmbeddedIncidentStore(home / "incidents.db", clock)) as store,
        closing(SourceReader(stream, engine.watermarks, settings, clock)) as source,
    ):
        pipeline = Pipeline(
            source=source,
            consumers=stream,
            engine=engine,
            runner=LocalDetectionRunner({}, detectors, AllowList()),
            incidents=IncidentRecorder(store, IncidentSettings(), NotifySettings(), clock),
            checkpoints=CheckpointStore(home / "checkpoint"),
            lakehouse=None,
            journeys=None,
            settings=settings,
            clock=clock,
        )
        with closing(pipeline):
            yield stream, pipeline


def row(number, moment_ms):
    return dict.fromkeys(WIRE_SCHEMA.names) | {
        "event_time": moment_ms * 1_000,
        "event_type": "view",
        "product_id": number % 50 + 1,
        "category_id": 1,
        "price": Decimal(1),
        "user_id": number % 997 + 1,
        "event_id": str(number),
    }


def incidents(home):
    found = read_incidents(home / "incidents.db")
    return [(one.rule, one.first_event_time, one.last_event_time, one.detected_at_event_time) for one in found]


def episodes(home):
    """What incidents are made of."""
    with closing(EmbeddedIncidentStore(home / "incidents.db", ManualClock())) as store:
        parts = [part for incident in store.list() for part in store.parts(incident.id)]
    return sorted((one.rule, one.severity, one.last_event_time, one.peak_end, one.windows) for one in parts)


def rules(found):
    return sorted({rule for rule, *_ in found})


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path / "live")


def test_a_flood_is_found_and_nothing_else(shop, tmp_path):
    counters, found = shop.live(300, flood=range(200, 280))
    assert counters["late_signals"] == 0
    assert rules(found) == [FLOOD]
    assert found == shop.replayed(tmp_path / "replay")


@pytest.mark.parametrize("pause", [5, 20], ids=lambda pause: f"{pause} s")
def test_a_sender_that_pauses_changes_nothing(shop, tmp_path, pause):
    counters, found = shop.live(300, silent=range(185, 185 + pause), flood=range(220, 280))
    assert counters["late_signals"] == 0
    assert rules(found) == [FLOOD]
    assert found == shop.replayed(tmp_path / "replay")


def test_an_engine_that_is_stopped_changes_nothing(shop, tmp_path):
    counters, found = shop.live(300, stopped=range(185, 205), flood=range(220, 280))
    assert counters["late_signals"] == 0
    assert rules(found) == [FLOOD]
    assert found == shop.replayed(tmp_path / "replay")


@pytest.mark.parametrize("place", [0, 1], ids=["before the first shard", "between the shards"])
def test_an_engine_that_is_stopped_while_it_polls_changes_nothing(shop, tmp_path, monkeypatch, place):
    """Between a read that finds nothing and what the engine makes of it, 20 seconds pass."""
    read, polls = EmbeddedStream.read, []

    def stopped(self, shard_id, after, **limits):
        found = read(self, shard_id, after, **limits)
        due = shop.sent_ms >= START_MS + 185_000 and not found.records
        if due and shard_id.endswith(str(place)) and not polls:
            polls.append(shard_id)
            shop.clock.advance(20 * SECOND)
            shop.send(self, shop.clock.now_ms())
        return found

    monkeypatch.setattr(EmbeddedStream, "read", stopped)
    counters, found = shop.live(280, flood=range(200, 260))
    assert polls
    assert (counters["late"], counters["late_signals"]) == (0, 0)
    assert rules(found) == [FLOOD]
    monkeypatch.undo()
    assert found == shop.replayed(tmp_path / "replay")


def test_both_stopped_for_minutes_at_a_time_is_no_silence(shop, tmp_path):
    counters, found = shop.live(180)
    for _ in range(3):
        shop.clock.advance(timedelta(minutes=10))
        with opened(shop.home, PACE, shop.clock) as (stream, _):
            shop.send(stream, shop.clock.now_ms())
        counters, found = shop.live(30)
    assert (counters["late_signals"], found) == (0, [])
    assert shop.replayed(tmp_path / "replay") == []


def test_a_sender_that_stops_for_a_minute_is_a_silence_and_its_buffered_events_are_processed(shop, tmp_path):
    counters, found = shop.live(180)
    assert found == []
    counters, found = shop.live(60, silent=range(60))
    assert rules(found) == ["silence"]
    counters, found = shop.live(180, flood=range(60, 140))
    assert counters["late_signals"] == 0
    assert rules(found) == ["silence"], "a surge after a silence is its recovery"
    assert rules(shop.replayed(tmp_path / "replay")) == [FLOOD]
    parts = [episodes(home) for home in (shop.home, tmp_path / "replay")]
    assert [part for part in parts[0] if part[0] != "silence"] == parts[1]


def test_a_silence_in_which_nothing_was_held_back_is_that_of_the_replay(shop, tmp_path):
    shop.live(183)
    _, live = shop.live(90, silent=range(90))
    shop.sent_ms = shop.clock.now_ms()
    counters, found = shop.live(40)
    assert counters["late_signals"] == 0
    assert rules(live) == ["silence"]
    assert live[0][1] == found[0][1], "it began when it began"
    assert found == shop.replayed(tmp_path / "replay")


@pytest.mark.parametrize("minutes", [4, 10])
def test_an_outage_is_a_silence_though_some_of_its_events_were_buffered(shop, tmp_path, minutes):
    shop.live(180)
    last_ms = shop.sent_ms
    shop.live(60 * minutes, silent=range(60 * minutes))
    now_ms = shop.clock.now_ms()
    with opened(shop.home, PACE, shop.clock) as (stream, _):
        shop.sent_ms = last_ms
        shop.send(stream, last_ms + 500)
    shop.sent_ms = now_ms
    counters, found = shop.live(60)
    assert counters["late_signals"] == 0
    assert rules(found) == rules(shop.replayed(tmp_path / "replay")) == ["silence"]


def test_an_event_a_second_is_no_silence(tmp_path):
    counters, found = Shop(tmp_path / "live", pace=1).live(400)
    assert (counters["late_signals"], found) == (0, [])


@pytest.mark.parametrize("restart", [False, True], ids=["one engine", "an engine for each"])
def test_years_between_a_history_and_live_events_are_no_silence(shop, tmp_path, restart):
    shop.clock.advance(timedelta(days=7 * 365))
    with opened(shop.home, PACE, shop.clock) as (stream, _):
        shop.send(stream, START_MS + 300_000)
    if restart:
        shop.caught_up()
    shop.sent_ms = shop.clock.now_ms()
    counters, found = shop.live(180)
    assert (counters["late_signals"], found) == (0, [])
    assert shop.replayed(tmp_path / "replay") == []
