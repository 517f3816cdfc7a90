"""A killed pipeline goes on as if nothing had been: each event is in the lake once, incidents are the same."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shopstream.alerting import read_incidents
from shopstream.clock import SystemClock
from shopstream.detection import load_rules
from shopstream.engine.checkpoint import CheckpointStore
from shopstream.events.codec import encode_arrow
from shopstream.events.schema import WIRE_SCHEMA
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.ports import LakeTable
from shopstream.simulation import Scraper
from shopstream.simulation.synthesis import DEFAULT_START, OutOfOrder, Synthesis, SynthesisSettings
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import NewRecord
from shopstream.stream.settings import StreamSettings

SHARDS = 3
EVENTS = 12_000
START_MS = 1_572_566_400_000
SEED = 7
KILLS = 50


REMEMBERING = """
title: Every ten seconds, what depends on earlier events
id: remembering
description: Each derived column that needs a memory shows in a measure.
level: informational
falsepositives: [it is no alarm]
key: []
window: {kind: tumbling, size: 10s}
measures:
  events: count(*)
  fresh: count(*) filter (where new_user)
  waited: sum(gap_ms)
  waited_before: sum(previous_gap_ms)
  walked: sum(previous_product_id)
  again: count(*) filter (where not first_visit)
  seen: count(*) filter (where viewed)
condition: fresh >= 0
suppress_for: 1m
"""


class Processes:
    """The forking process of pipeline_process.py."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("pipeline_process.py")
        self._server = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self, home: Path, die: tuple | None = None, kill_after: float | None = None, replay: Path | None = None
    ) -> int:
        """Run a pipeline (or replay a file); returns the signal that ended it, 0 for none."""
        order = {"home": str(home), "die": die, "replay": str(replay) if replay else None}
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        pid = int(self._server.stdout.readline().split()[1])
        timer = None
        if kill_after is not None:
            timer = threading.Timer(kill_after, _kill, [pid])
            timer.start()
        status = int(self._server.stdout.readline().split()[1])
        if timer:
            timer.cancel()
        assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "the pipeline failed"
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it was faster
        return


def _events(chance: np.random.Generator) -> list[dict]:
    """Events in arrival order: shuffled within the lateness, some late beyond it, some sent twice, users in a hurry."""
    seconds = np.sort(chance.integers(0, 1_800, EVENTS))
    users = chance.integers(1, 3_000, EVENTS)
    for burst in range(20):
        at = chance.integers(0, EVENTS - 60)
        users[at : at + 60] = 9_000 + burst
    lag = np.where(chance.random(EVENTS) < 0.02, chance.integers(6, 60, EVENTS), chance.integers(0, 5, EVENTS))
    rows = [
        {
            "event_time": (START_MS + int(seconds[i]) * 1000) * 1000,
            "event_type": ("view", "view", "view", "cart", "purchase")[i % 5],
            "product_id": int(i % 97),
            "category_id": int(i % 11),
            "brand": "nan" if i % 9 == 0 else None,
            "price": pa.scalar(i).cast(pa.decimal128(25, 0)).as_py().scaleb(-2),
            "user_id": int(users[i]),
            "user_session": f"session-{users[i]}",
            "arrives": int(seconds[i] + lag[i]),
        }
        for i in range(EVENTS)
    ]
    rows += [dict(rows[i]) for i in chance.integers(0, EVENTS, 300)]
    return sorted(rows, key=lambda row: row["arrives"])


@pytest.fixture(scope="module")
def stream_file(tmp_path_factory) -> Path:
    """A stream of events, duplicates, late events and lines that are none."""
    path = tmp_path_factory.mktemp("stream") / "stream.db"
    chance = np.random.default_rng(SEED)
    with EmbeddedStream.open(path, StreamSettings(shards=SHARDS), SystemClock()) as stream:
        shards = stream.shards()
        events = _events(chance)
        for first in range(0, len(events), 500):
            part = events[first : first + 500]
            for number, shard in enumerate(shards):
                rows = [
                    {k: v for k, v in row.items() if k != "arrives"}
                    for row in part
                    if row["category_id"] % SHARDS == number
                ]
                payload = encode_arrow(pa.Table.from_pylist(rows, schema=WIRE_SCHEMA))
                stream.put([NewRecord(payload, "k", shard.first_hash_key)])
            stream.put([NewRecord(b"no event %d\n" % first, "k", shards[first % SHARDS].first_hash_key)])
    return path


@pytest.fixture(scope="module")
def processes():
    server = Processes()
    yield server
    server.close()


@pytest.fixture(scope="module")
def undisturbed(stream_file, processes, tmp_path_factory) -> dict:
    """What a run without a kill gives."""
    home = new_home(tmp_path_factory.mktemp("undisturbed"), stream_file)
    assert processes.run(home) == 0
    result = outcome(home)
    assert result["counters"]["events_read"] == EVENTS + 300 + result["counters"]["dead_letters"]
    assert result["counters"]["duplicates"] >= 290
    assert result["counters"]["late"] > 100
    assert len(result["incidents"]) >= 10
    assert len(result["dead_letters"]) == 25
    assert result["remembered"] > 100
    return result


def new_home(folder: Path, stream_file: Path) -> Path:
    shutil.copy(stream_file, folder / "stream.db")
    write_rules(folder)
    return folder


def write_rules(home: Path) -> None:
    """One shipped rule, and one that remembers: a process must get far enough to be killed at many places."""
    (home / "rules").mkdir()
    (home / "rules" / "remembering.yml").write_text(REMEMBERING)
    for rule in load_rules().values():
        if rule.enabled and rule.id != "user_burst":
            text = Path(rule.source).read_text()
            assert text.count("\nstatus: stable\n") == 1
            switched_off = text.replace("\nstatus: stable\n", "\nstatus: unsupported\n")
            (home / "rules" / f"{rule.id}.yml").write_text(switched_off)


def outcome(home: Path) -> dict:
    """All that a data home holds in the end, in an order of its own."""
    lakehouse = EmbeddedLakehouse(home / "lake")
    try:
        tables = {
            table: [row for file in lakehouse.data_files(table) for row in pq.read_table(file).to_pylist()]
            for table in LakeTable
        }
    finally:
        lakehouse.close()
    manifest = CheckpointStore(home / "checkpoint").current()
    assert manifest is not None
    return {
        "counters": dict(manifest.counters),
        "events": sorted((row["event_id"], row["is_late"], row["price"]) for row in tables[LakeTable.EVENTS]),
        "dead_letters": sorted(row["dead_letter_id"] for row in tables[LakeTable.DEAD_LETTERS]),
        "detections": sorted((row["detection_id"], row["measures"]) for row in tables[LakeTable.DETECTIONS]),
        "remembered": sum(
            json.loads(row["measures"])["again"]
            for row in tables[LakeTable.DETECTIONS]
            if row["rule_id"] == "remembering"
        ),
        "incidents": sorted(
            (i.id, i.rule, str(i.keys), i.first_event_time, i.last_event_time, i.windows)
            for i in read_incidents(home / "incidents.db")
        ),
    }


STEPS = [
    ("judge", "before", 2),
    ("judge", "after", 1),
    ("stage", "before", 2),
    ("stage", "after", 1),
    ("stage", "after", 3),
    ("append", "before", 4),
    ("append", "after", 1),
    ("append", "after", 4),
    ("append", "after", 5),
    ("append", "after", 6),
    ("promote", "before", 2),
    ("promote", "after", 2),
    ("acknowledge", "before", 1),
    ("acknowledge", "after", 3),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: "-".join(map(str, step)))
def test_a_kill_at_this_step_changes_nothing(step, stream_file, processes, undisturbed, tmp_path):
    home = new_home(tmp_path, stream_file)
    assert processes.run(home, die=step) == signal.SIGKILL
    assert processes.run(home) == 0
    assert outcome(home) == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_kills_of_the_pipeline_at_random_moments_change_nothing(stream_file, processes, undisturbed, tmp_path):
    chance = random.Random(SEED)  # noqa: S311  moments of death
    kills = 0
    for round_number in range(40):
        folder = tmp_path / str(round_number)
        folder.mkdir()
        home = new_home(folder, stream_file)
        while processes.run(home, kill_after=chance.uniform(0.3, 4.5)) == signal.SIGKILL:
            kills += 1
        assert outcome(home) == undisturbed
        if kills >= KILLS:
            return
    pytest.fail(f"expected at least {KILLS} kills in 40 rounds, got {kills}: make the delays shorter")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_kills_of_replay_and_pipeline_at_random_moments_lose_and_double_nothing(processes, tmp_path):
    """The way of the README: a file is replayed while it is processed, and both are killed again and again."""
    source = tmp_path / "day.csv"
    scraper = Scraper(DEFAULT_START + timedelta(hours=9), timedelta(minutes=5), 3, 0.4)
    Synthesis(SynthesisSettings(events=12_000, scenarios=(scraper,), out_of_order=OutOfOrder(0.02, 10))).write(source)
    homes = {name: tmp_path / name for name in ("calm", "killed")}
    for home in homes.values():
        home.mkdir()
        write_rules(home)
    home = homes["killed"]
    chance = random.Random(SEED)  # noqa: S311  moments of death
    replays = Processes()
    kills, unfinished = 0, True
    with ThreadPoolExecutor() as pool:
        while unfinished or kills < KILLS:
            both = [
                pool.submit(who.run, home, kill_after=chance.uniform(0.5, 5.0), replay=what)
                for who, what in ((replays, source), (processes, None))
            ]
            ends = [future.result() for future in both]
            kills += ends.count(signal.SIGKILL)
            unfinished = ends[0] == signal.SIGKILL
    replays.close()
    assert processes.run(home) == 0
    assert kills >= KILLS
    assert processes.run(homes["calm"], replay=source) == 0
    assert processes.run(homes["calm"]) == 0
    calm, killed = outcome(homes["calm"]), outcome(home)
    sent_again = killed["counters"].pop("events_read") - calm["counters"].pop("events_read")
    assert killed["counters"].pop("duplicates") - calm["counters"].pop("duplicates") == sent_again
    assert killed == calm
    assert calm["incidents"]
    with duckdb.connect() as connection:
        distinct = connection.execute(
            "SELECT count(*) FROM (SELECT DISTINCT * FROM read_csv(?, all_varchar = true))", [str(source)]
        ).fetchall()
    assert len(killed["events"]) == distinct[0][0]
