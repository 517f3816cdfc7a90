"""Pipelines that can be killed: each JSON line on stdin forks a process that runs one over a data home.

{"home": path, "die": [point, when, nth] or null, "replay": file or null, "checkpoints": s3://… or null}: the process
kills itself (SIGKILL) before or after the nth call of the point; with a file it replays that into the stream instead;
with a place in S3 its checkpoints lie there, and the home's are scratch. Prints "pid <pid>" and then, when it is gone,
"status <wait status>". Forking saves the start-up time of Python.
"""

import functools
import json
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

from shopstream.adapters.embedded import EmbeddedAdapters
from shopstream.adapters.flow import open_pipeline
from shopstream.adapters.ports import adapters_of
from shopstream.aws.objects import S3Objects
from shopstream.config import Settings
from shopstream.detection.settings import DetectionSettings
from shopstream.engine.checkpoint import CheckpointStore, SharedCheckpointStore
from shopstream.engine.settings import EngineSettings
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.incidents.recorder import IncidentRecorder
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.simulation.replay import ReplaySettings, replay
from shopstream.stream.embedded import EmbeddedStream

RATE = 6_000  # events/s: slow enough to be killed many times
POINTS = {
    "record": (IncidentRecorder, "apply"),
    "put": (EmbeddedIncidentStore, "put"),
    "stage": (CheckpointStore, "stage"),
    "append": (EmbeddedLakehouse, "append"),
    "promote": (CheckpointStore, "promote"),
    "acknowledge": (EmbeddedStream, "commit"),
    "claim": (SharedCheckpointStore, "claim"),
    "upload": (S3Objects, "upload"),
    "secure": (SharedCheckpointStore, "secure"),
    "point": (S3Objects, "replace"),
    "clean": (S3Objects, "delete"),
}


def settings_of(home: Path) -> Settings:
    """Small batches and many commits, rules of a folder `rules` too; idleness, which needs a clock, never decides."""
    engine = EngineSettings(
        batch_bytes=60_000, commit_events=1_500, idle_timeout=timedelta(hours=9), commit_interval=timedelta(hours=1)
    )
    rules = home / "rules"
    detection = DetectionSettings(rules_path=rules if rules.is_dir() else None)
    return Settings(home=home, engine=engine, detection=detection)


def die_at(point: str, when: str, nth: int) -> None:
    """Make this process kill itself there."""
    owner, name = POINTS[point]
    original = getattr(owner, name)
    calls = 0

    @functools.wraps(original)
    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == nth and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)


def work(settings: Settings, source: str | None, checkpoints: str | None) -> None:
    if checkpoints:
        EmbeddedAdapters.open_checkpoints = lambda adapters: SharedCheckpointStore(
            adapters.settings.checkpoint_path, S3Objects(checkpoints)
        )
    if source is None:
        with open_pipeline(settings) as pipeline:
            pipeline.run(until_caught_up=True)
        return
    with adapters_of(settings).open_stream() as stream:
        replay(source, stream, ReplaySettings(rate=RATE), bookmarks=settings.home / "replays")


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            if order["die"]:
                die_at(*order["die"])
            work(settings_of(Path(order["home"])), order["replay"], order["checkpoints"])
            os._exit(0)
        os.write(1, f"pid {pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        os.write(1, f"status {status}\n".encode())


if __name__ == "__main__":
    main()
