"""Incidents neither vanish nor double when the process that writes them is killed at any moment."""

import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from shopstream.incidents.queries import read_episodes, read_incidents
from shopstream.notify.outbox import read_notifications

WRITER = Path(__file__).with_name("incident_writer.py")
KILLS = 12


def start(folder, seed):
    process = subprocess.Popen(
        [sys.executable, WRITER, folder / "incidents.db", folder / "place", str(seed)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def finished(process):
    with process:
        return process.wait(timeout=120)


def result(folder):
    path = folder / "incidents.db"
    incidents = sorted(read_incidents(path), key=lambda incident: incident.id)
    parts = [read_episodes(path, incident.id) for incident in incidents]
    # How often people hear of it may depend on what was known at the moment.
    return [replace(incident, notifications=0) for incident in incidents], parts


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
    incidents, parts = result(torn)
    assert len(incidents) > 100
    assert sum(map(len, parts)) > 1.5 * len(incidents)
    assert (incidents, parts) == result(clean)
    told = read_notifications(torn / "incidents.db")
    assert {(one.reference, one.target) for one in told if one.target == "json-a"} == {
        (one.reference, "json-a") for one in told if one.target == "slack-b"
    }
    per_incident = [incident.notifications for incident in read_incidents(torn / "incidents.db")]
    assert min(per_incident) >= 1, "nobody was told of one"
