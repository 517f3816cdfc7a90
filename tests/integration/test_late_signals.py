"""Signals that detectors left out are seen by whoever looks: status, doctor."""

import json

import pytest
from typer.testing import CliRunner

from shopstream.cli import app
from shopstream.engine.checkpoint import CheckpointStore, Manifest
from shopstream.engine.engine import Counters


def shopstream(home, *arguments):
    return CliRunner().invoke(app, ["--home", str(home), *arguments])


def checkpoint(home, late):
    counters = Counters(events_read=10, late_signals=late).as_dict()
    store = CheckpointStore(home / "checkpoint")
    store.stage(Manifest(1, {}, 1, {}, counters, {}), lambda path: path.write_bytes(b""), {})
    store.promote(Manifest(1, {}, 1, {}, counters, {}))


@pytest.mark.parametrize("late", [0, 7])
def test_status_says_that_incidents_may_be_missing(tmp_path, late):
    checkpoint(tmp_path, late)
    done = shopstream(tmp_path, "status", "--format", "json")
    assert json.loads(done.stdout)["late_signals"] == late
    assert ("7 signals arrived after detectors had processed their time" in " ".join(done.stderr.split())) == bool(late)


@pytest.mark.parametrize("late", [0, 7])
def test_doctor_finds_late_signals(tmp_path, late):
    checkpoint(tmp_path, late)
    done = shopstream(tmp_path, "doctor", "--format", "json")
    finding = {row["check"]: row for row in json.loads(done.stdout)}["detection"]
    assert finding["ok"] == (not late)
    assert ("incidents may be missing" in finding["finding"]) == bool(late)
    assert done.exit_code == bool(late)
