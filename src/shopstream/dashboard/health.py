"""How the pipeline is: counters of the last checkpoint, watermark, lag, and whether an engine runs."""

import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from shopstream.clock import from_ms
from shopstream.dashboard.sources import EngineState, Home
from shopstream.engine.checkpoint import CheckpointStore, Manifest
from shopstream.engine.engine import Counters
from shopstream.errors import StateError
from shopstream.incidents.incident import State
from shopstream.incidents.queries import count_incidents
from shopstream.stream.embedded_status import oldest_unread_ms

__all__ = ["Health", "read_health"]

_TRIES = 3


@dataclass(frozen=True, slots=True)
class Health:
    """The pipeline, as of the last checkpoint.

    Args:
        engine_running: a process holds the engine's lock.
        checkpoint: generations so far; 0 before the first.
        committed_at: when the last checkpoint was made.
        counters: name → events since the beginning.
        watermark: no earlier event is expected; None before the first event.
        lag_ms: shard → age in milliseconds of the oldest record that is not in a checkpoint, 0 where all are.
        incidents: state → how many.
    """

    engine_running: bool
    checkpoint: int
    committed_at: datetime | None
    counters: Mapping[str, int]
    watermark: datetime | None
    lag_ms: Mapping[str, int]
    incidents: Mapping[State, int]


def read_health(home: Home) -> Health:
    """The pipeline's health; zeros and None where there is nothing yet.

    Raises:
        StateError: a file is none of ours.
        RetryableError: a file is busy.
    """
    engine = home.remote.engine() if home.remote else _engine(home)
    manifest = engine.manifest
    return Health(
        engine_running=engine.running,
        checkpoint=manifest.generation if manifest else 0,
        committed_at=engine.committed_at,
        counters=manifest.counters if manifest else Counters().as_dict(),
        watermark=from_ms(manifest.watermark_ms) if manifest and manifest.watermark_ms > 0 else None,
        lag_ms=engine.lag_ms,
        incidents=count_incidents(home.incidents),
    )


def _engine(home: Home) -> EngineState:
    """As the files of the home have it."""
    manifest, committed_at = _checkpoint(home.checkpoint)
    lag_ms = _lag(home.stream, manifest.positions if manifest else {})
    return EngineState(_held(home.engine_lock), manifest, committed_at, lag_ms)


def _checkpoint(folder: Path) -> tuple[Manifest | None, datetime | None]:
    """The current generation and its moment; asked again when it was replaced between two looks."""
    current = folder / "CURRENT"
    for left in reversed(range(_TRIES)):
        if not current.exists():
            break
        try:
            manifest = CheckpointStore(folder).current()
            return manifest, datetime.fromtimestamp(current.stat().st_mtime, UTC)
        except (StateError, FileNotFoundError):
            if not left:
                raise
            time.sleep(0.02)
    return None, None


def _held(lock: Path) -> bool:
    """Whether somebody holds the lock; it is never waited for and given back at once."""
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _lag(path: Path, positions: Mapping[str, int]) -> dict[str, int]:
    if not path.is_file():
        return {}
    try:
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        ) as connection:
            connection.execute("BEGIN")  # one state of the stream for all shards
            oldest = oldest_unread_ms(connection, positions)
    except sqlite3.Error as error:
        raise StateError(f"the stream {path} cannot be read ({error}); `shopstream doctor` looks closer") from error
    now_ms = time.time_ns() // 1_000_000
    return {shard: 0 if arrival is None else max(0, now_ms - arrival) for shard, arrival in oldest.items()}
