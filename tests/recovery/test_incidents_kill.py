"""Incidents neither vanish nor double when the process that writes them is killed at any moment."""

import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from shopstream.clock import SystemClock
from shopstream.incidents.embedded import EmbeddedIncidentStore

WRITER = Path(__file__).with_name("incident_writer.py")
KILLS = 12


def start(folder, seed):
    process = subprocess.Popen(
        [sys.executable, WRITER, folder / "incidents.db", folder / "checkpoint.json", str(seed)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def finished(process):
    with process:
        return process.wait(timeout=120)


def result(store):
    incidents = sorted(store.list(), key=lambda incident: incident.id)
    parts = [[replace(part, notifications=0) for part in store.parts(incident.id)] for incident in incidents]
    # How often people hear of it may depend on what was known at the moment.
    return [replace(incident, notifications=0) for incident in incidents], parts


def opened(folder):
    return closing(EmbeddedIncidentStore(folder / "incidents.db", SystemClock()))


def test_kills_at_random_moments_change_nothing(tmp_path):
    clean, torn = tmp_path / "clean", tmp_path / "torn"
    clean.mkdir()
    torn.mkdir()
    assert finished(start(clean, 0)) == 0
    draw = random.Random(5)  # noqa: S311  no secret
    killed = 0
    for seed in range(1, 20 * KILLS):
        process = start(torn, seed)
        time.sleep(draw.uniform(0, 0.12))
        process.send_signal(signal.SIGKILL)
        killed += finished(process) == -signal.SIGKILL
        if killed == KILLS:
            break
    assert killed == KILLS, "the writer is done before it can be killed; give it more to do"
    assert finished(start(torn, 99)) == 0
    with opened(torn) as store, opened(clean) as undisturbed:
        incidents, parts = result(store)
        assert len(incidents) > 100
        assert sum(map(len, parts)) > 1.5 * len(incidents)
        assert (incidents, parts) == result(undisturbed)
        told = store.notifications()
        assert {(one.reference, one.target) for one in told if one.target == "json-a"} == {
            (one.reference, "json-a") for one in told if one.target == "slack-b"
        }
        assert len({(one.incident_id, one.severity, one.target) for one in told}) == len(told), "nobody hears twice"
        assert min(incident.notifications for incident in store.list()) >= 1, "nobody was told of one"
