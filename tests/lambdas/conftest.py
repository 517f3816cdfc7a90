"""Signals of a shop's hour with attacks in it, as the engine gives them; and the incidents of in-process detection."""

import os
import pickle
import platform
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
from filelock import FileLock

from incident_desk import read_incidents, sqlite_desk
from lambdas.hour import FIRST_SEQUENCE_NUMBER, START_MS, events, rules, seen, wire
from lambdas.shop import Shop
from shopstream.clock import ManualClock
from shopstream.detection.allowlist import AllowList
from shopstream.detection.detectors.shipped import shipped_runner
from shopstream.detection.runner import LocalDetectionRunner
from shopstream.detection.settings import DetectionSettings
from shopstream.engine.engine import Engine
from shopstream.engine.settings import EngineSettings
from shopstream.engine.signals import encode_signals
from shopstream.events.codec import decode
from shopstream.lambdas.ports import SignalRecord
from shopstream.stream.ports import Record

ROOT = Path(__file__).resolve().parents[2]


def shared_by_workers(tmp_path_factory):
    """A folder that all workers of xdist have: what takes long is made once."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def moments(tmp_path_factory):
    """(signals, until_ms) of each step of an engine."""
    path = shared_by_workers(tmp_path_factory) / "moments.pickle"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            path.write_bytes(pickle.dumps(list(steps())))
    return pickle.loads(path.read_bytes())  # noqa: S301  written above


def steps():
    detectors = shipped_runner(DetectionSettings())
    windows = [*(rule.window_declaration() for rule in rules().values()), *detectors.declarations]
    engine = Engine(EngineSettings(threads=1), windows)
    detectors.attach(engine)
    rows = events()
    pause = next(
        place for place, ((before, *_), (after, *_)) in enumerate(pairwise(rows), 1) if after - before > 60_000
    )
    cuts = sorted({*range(0, len(rows), 400), pause, len(rows)})  # what came before the pause arrived before it
    for number, (first, last) in enumerate(pairwise(cuts)):
        records = [Record(wire(rows[first:last], number), "k", "s", number, rows[last - 1][0])]
        engine.process(records, decode([one.payload for one in records], [one.arrival_ms for one in records]))
        yield engine.advance(), engine.watermarks.current_ms
    yield engine.advance(to_the_end=True), engine.watermarks.current_ms
    engine.connection.close()


@pytest.fixture(scope="session")
def records(moments):
    """The same as records of the signals stream; a large moment takes several."""
    payloads = [part for signals, until_ms in moments for part in encode_signals(signals, until_ms, max_bytes=6_000)]
    return [
        SignalRecord(
            payload=payload,
            sequence_number=FIRST_SEQUENCE_NUMBER + 16 * number,
            shard_id="shardId-000000000000",
            stream_arn="arn:aws:kinesis:eu-central-1:123456789012:stream/shopstream-signals",
            arrival_ms=START_MS + number * 1_000,
        )
        for number, payload in enumerate(payloads)
    ]


@pytest.fixture(scope="session")
def expected(moments, tmp_path_factory):
    """The incidents of detection in process."""
    path = tmp_path_factory.mktemp("expected") / "incidents.db"
    desk = sqlite_desk(path, clock=ManualClock(START_MS))
    runner = LocalDetectionRunner(rules(), shipped_runner(DetectionSettings()), AllowList())
    for signals, until_ms in moments:
        desk.apply(runner.run(signals, until_ms).detections, until_ms)
    desk.close()
    return seen(read_incidents(path))


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """The functions' package for this machine, unpacked; made once for all workers."""
    shared = shared_by_workers(tmp_path_factory)
    folder = shared / "lambda-package"
    with FileLock(shared / "lambda-package.lock"):
        if not folder.exists():
            command = [sys.executable, str(ROOT / "infra" / "package_lambda.py"), "--architecture", platform.machine()]
            subprocess.run([*command, "--out", str(shared / "lambda-dist")], check=True, capture_output=True)
            (made,) = (shared / "lambda-dist").glob("*.zip")
            with zipfile.ZipFile(made) as archive:
                archive.extractall(folder)
    return folder


@pytest.fixture
def shop(tmp_path):
    made = Shop(tmp_path)
    yield made
    made.close()


@pytest.fixture
def shops(tmp_path_factory):
    """One for each example of a property."""
    made = []

    def make():
        made.append(Shop(tmp_path_factory.mktemp("shop")))
        return made[-1]

    yield make
    for one in made:
        one.close()
