"""Incidents neither vanish nor double when the process that writes them is killed at any moment."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from shopstream.alerting import read_incidents, read_notifications

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
    told = sorted((one.reference, one.target) for one in read_notifications(path))
    return incidents, told


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
    incidents, told = result(torn)
    assert len(incidents) > 100
    assert (incidents, told) == result(clean)
    assert len(told) == 2 * len(incidents)
