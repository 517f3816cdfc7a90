"""Detectors inside of the pipeline: silence is noticed while nothing comes, and what was learned survives a restart."""

from datetime import timedelta
from decimal import Decimal

import pyarrow as pa
import pytest

from incident_desk import read_incidents
from shopstream.adapters.flow import open_pipeline
from shopstream.adapters.ports import adapters_of
from shopstream.clock import ManualClock
from shopstream.config import Settings
from shopstream.detection.baseline import SLOTS, Baselines, SeriesProfile
from shopstream.engine.checkpoint import CheckpointStore
from shopstream.errors import RuleError
from shopstream.events.arrow_ipc import encode_arrow
from shopstream.events.schema import WIRE_SCHEMA
from shopstream.stream.ports import NewRecord

START_MS = 1_573_430_400_000
MINUTES = 6
PER_SECOND = 4


@pytest.fixture
def home(tmp_path):
    """A home with baselines of four events a second, and six minutes of such events in its stream."""
    settings = Settings(home=tmp_path)
    profile = SeriesProfile((float(PER_SECOND),) * SLOTS, (1.0,) * 7, 0.05, 28.0)
    series = {"site": profile, "event_type=view": profile}
    Baselines(START_MS - 1, START_MS, 1, series=series).save(settings.baselines_path)
    rows = [
        dict.fromkeys(WIRE_SCHEMA.names)
        | {
            "event_time": (START_MS + number * 1_000 // PER_SECOND) * 1_000,
            "event_type": "view",
            "product_id": number % 50 + 1,
            "category_id": 1,
            "price": Decimal(1),
            "user_id": number % 300 + 1,
            "event_id": str(number),
        }
        for number in range(MINUTES * 60 * PER_SECOND)
    ]
    with adapters_of(settings, ManualClock(START_MS)).open_stream() as stream:
        shard = stream.shards()[0]
        payload = encode_arrow(pa.Table.from_pylist(rows, schema=WIRE_SCHEMA))
        stream.put([NewRecord(payload, "k", shard.first_hash_key)])
    return settings


def watch(settings, clock, seconds):
    """Steps of a live pipeline while the clock goes on and nothing comes."""
    with open_pipeline(settings, clock=clock, with_journeys=False) as pipeline:
        while pipeline.step():
            pass
        for _ in range(seconds // 5):
            clock.advance(timedelta(seconds=5))
            pipeline.step()
        pipeline.commit()
        pipeline.settle()
    return [one.rule for one in read_incidents(settings.incidents_path)]


def test_a_live_silence_is_noticed_within_a_minute(home):
    clock = ManualClock(START_MS + MINUTES * 60_000)
    assert watch(home, clock, 15) == []
    assert watch(home, clock, 45) == ["silence"]


def test_the_end_of_a_replay_is_no_silence(home):
    assert watch(home, ManualClock(START_MS + 10**10), 300) == []


def test_what_detectors_learned_is_in_the_checkpoint_and_continues_from_there(home):
    clock = ManualClock(START_MS + MINUTES * 60_000)
    assert watch(home, clock, 60) == ["silence"]
    checkpoints = CheckpointStore(home.checkpoint_path)
    held = checkpoints.document(checkpoints.current(), "detectors")
    assert held["next_ms"] >= START_MS + MINUTES * 60_000
    assert set(held["detectors"]) >= {"volume", "silence", "composition"}
    with open_pipeline(home, clock=clock, with_journeys=False) as pipeline:
        assert pipeline.step() is False
    assert checkpoints.document(checkpoints.current(), "no such thing") is None


def test_a_rule_that_has_the_name_of_a_detectors_window_is_refused(home, tmp_path):
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "detect_site_10s.yml").write_text(
        "id: detect_site_10s\ntitle: Mine\ndescription: Mine.\nlevel: low\nfalsepositives: [all]\nkey: []\n"
        "window: {size: 10s, slide: 1s}\nmeasures: {events: count(*)}\ncondition: events > 10\nsuppress_for: 5m\n"
    )
    settings = home.model_copy(update={"detection": home.detection.model_copy(update={"rules_path": rules})})
    with pytest.raises(RuleError, match="rename the rule"), open_pipeline(settings):
        pass
