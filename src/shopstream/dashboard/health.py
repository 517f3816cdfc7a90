"""Health of the pipeline: counters, watermark, lag and incidents, also as Prometheus metrics."""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from shopstream.clock import SystemClock, from_ms
from shopstream.dashboard.sources import DataHome, EngineState
from shopstream.engine.checkpoint import CheckpointStore, Manifest
from shopstream.engine.engine import Counters
from shopstream.errors import StateError
from shopstream.incidents.incident import State
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import lag
from shopstream.stream.settings import StreamSettings

_TRIES = 3


@dataclass(frozen=True, slots=True)
class Health:
    """The pipeline, as of the last checkpoint.

    Args:
        engine_running: whether a process holds the engine's lock.
        checkpoint: number of the last checkpoint; 0 before the first.
        committed_at: time of the last checkpoint.
        counters: name → events since the first start.
        watermark: no earlier event is expected; None before the first event.
        lag_ms: shard → age in milliseconds of the oldest record without a checkpoint, 0 if there is none.
        incidents: state → number of incidents.
    """

    engine_running: bool
    checkpoint: int
    committed_at: datetime | None
    counters: Mapping[str, int]
    watermark: datetime | None
    lag_ms: Mapping[str, int]
    incidents: Mapping[State, int]


def read_health(home: DataHome) -> Health:
    """The pipeline's health; zeros and None before the first checkpoint.

    Raises:
        StateError: a file is of another program, or damaged.
        RetryableError: a file is locked.
    """
    engine = home.remote.engine() if home.remote else _engine(home)
    with closing(home.incidents()) as store:
        incidents = store.count()
    manifest = engine.manifest
    return Health(
        engine_running=engine.running,
        checkpoint=manifest.generation if manifest else 0,
        committed_at=engine.committed_at,
        counters=manifest.counters if manifest else Counters().as_dict(),
        watermark=from_ms(manifest.watermark_ms) if manifest and manifest.watermark_ms > 0 else None,
        lag_ms=engine.lag_ms,
        incidents=incidents,
    )


def _engine(home: DataHome) -> EngineState:
    """State of the engine, from the files of the home."""
    manifest, committed_at = _checkpoint(home.checkpoint)
    lag_ms = _lag(home.stream, manifest.positions if manifest else {})
    return EngineState(_held(home.engine_lock), manifest, committed_at, lag_ms)


def _checkpoint(folder: Path) -> tuple[Manifest | None, datetime | None]:
    """The current checkpoint and its time; retried if the engine replaces it between two reads."""
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
    """Whether a process holds the lock; acquires it only for a moment, without waiting."""
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
    clock = SystemClock()
    with EmbeddedStream.open(path, StreamSettings(), clock) as stream:
        return lag(stream, positions, clock)


_COUNTERS = {
    "events_read": "Events read from the stream: stored, duplicates and dead letters.",
    "events_kept": "Events stored in the lake, late ones included.",
    "duplicates": "Duplicate events, which were dropped.",
    "late": "Stored events that were behind the watermark, in no live window.",
    "dead_letters": "Rejected rows, stored with the reason.",
    "suppressed": "Detections suppressed by an allow-list: stored, without notifications.",
    "late_signals": "Signals that arrived too late for the detectors.",
}


def metrics_text(home: DataHome, accept: str = "") -> tuple[bytes, str]:
    """Prometheus metrics in the format of the `Accept` header, and their content type.

    Raises:
        StateError: a file is of another program, or damaged.
        RetryableError: a file is locked.
    """
    if home.remote:
        home.remote.refresh()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_HealthCollector(read_health(home)))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _HealthCollector(Collector):
    """One scrape."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that the registry need not collect to learn the names."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The metric families."""
        health = self._health
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"shopstream_{name}", text, value=health.counters.get(name, 0))
        yield GaugeMetricFamily(
            "shopstream_engine_running", "1 while a process runs the engine of this home.", int(health.engine_running)
        )
        yield CounterMetricFamily("shopstream_checkpoints", "Checkpoints made.", value=health.checkpoint)
        if health.committed_at:
            yield GaugeMetricFamily(
                "shopstream_checkpoint_timestamp_seconds",
                "Time of the last checkpoint.",
                health.committed_at.timestamp(),
            )
        if health.watermark:
            yield GaugeMetricFamily(
                "shopstream_watermark_timestamp_seconds",
                "Event time before which no event is expected.",
                health.watermark.timestamp(),
            )
        lag = GaugeMetricFamily(
            "shopstream_lag_seconds", "Age of the oldest record without a checkpoint.", labels=["shard"]
        )
        for shard, milliseconds in health.lag_ms.items():
            lag.add_metric([shard], milliseconds / 1000)
        yield lag
        incidents = GaugeMetricFamily("shopstream_incidents", "Incidents by state.", labels=["state"])
        for state, count in health.incidents.items():
            incidents.add_metric([str(state)], count)
        yield incidents
