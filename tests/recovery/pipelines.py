"""Pipelines in processes that can be killed, what they work on, and what they leave."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from incident_desk import read_incidents
from shopstream.detection.rule import load_rules
from shopstream.engine.checkpoint import CheckpointStore
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.ports import LakeTable

SHARDS = 3
EVENTS = 12_000
START_MS = 1_572_566_400_000
SEED = 7


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

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        script = Path(__file__).with_name("pipeline_process.py")
        self._server = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def run(
        self,
        home: Path,
        die: tuple | None = None,
        kill_after: float | None = None,
        replay: Path | None = None,
        checkpoints: str | None = None,
    ) -> int:
        """Run a pipeline (or replay a file); returns the signal that ended it, 0 for none."""
        order = {"home": str(home), "die": die, "replay": str(replay) if replay else None, "checkpoints": checkpoints}
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


def arriving_events(chance: np.random.Generator) -> list[dict]:
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


def outcome(home: Path, checkpoints: CheckpointStore | None = None) -> dict:
    """All that a data home holds in the end, in an order of its own."""
    lakehouse = EmbeddedLakehouse(home / "lake")
    try:
        tables = {
            table: [row for file in lakehouse.data_files(table) for row in pq.read_table(file).to_pylist()]
            for table in LakeTable
        }
    finally:
        lakehouse.close()
    manifest = (checkpoints or CheckpointStore(home / "checkpoint")).current()
    assert manifest is not None
    return {
        "counters": dict(manifest.counters),
        "events": sorted((row["event_id"], row["is_late"], row["price"]) for row in tables[LakeTable.EVENTS]),
        "dead_letters": sorted(row["dead_letter_id"] for row in tables[LakeTable.DEAD_LETTERS]),
        "detections": sorted(
            (row["detection_id"], row["rule_id"], row["measures"]) for row in tables[LakeTable.DETECTIONS]
        ),
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
