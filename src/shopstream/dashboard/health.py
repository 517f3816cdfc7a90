"""How the pipeline is: counters of the last checkpoint, watermark, lag, and whether an engine runs.

The pipeline's figures as Prometheus text.
"""

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
from shopstream.dashboard.sources import EngineState, Home
from shopstream.engine.checkpoint import CheckpointStore, Manifest
from shopstream.engine.engine import Counters
from shopstream.errors import StateError
from shopstream.incidents.incident import State
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import lag
from shopstream.stream.settings import StreamSettings

__all__ = ["Health", "metrics_text", "read_health"]

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
    clock = SystemClock()
    with EmbeddedStream.open(path, StreamSettings(), clock) as stream:
        return lag(stream, positions, clock)


_COUNTERS = {
    "events_read": "Events taken from the stream: kept, duplicates and dead letters.",
    "events_kept": "Events kept in the lake, late ones included.",
    "duplicates": "Events that came again and were dropped.",
    "late": "Kept events that were behind the watermark, in no live window.",
    "dead_letters": "Rejected rows, kept with their reason.",
    "suppressed": "Detections that an allow-list covered: kept, told to nobody.",
    "late_signals": "Signals that detectors did not judge: they came after their time had been judged.",
}


def metrics_text(home: Home, accept: str = "") -> tuple[bytes, str]:
    """The figures in the format that `accept` asks for, and its content type.

    Raises:
        StateError: a file is none of ours.
        RetryableError: a file is busy.
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
        """Nothing: the registry need not collect to learn the names."""
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
                "When the last one was made.",
                health.committed_at.timestamp(),
            )
        if health.watermark:
            yield GaugeMetricFamily(
                "shopstream_watermark_timestamp_seconds",
                "Event time before which no event is expected.",
                health.watermark.timestamp(),
            )
        lag = GaugeMetricFamily(
            "shopstream_lag_seconds", "Age of the oldest record that is in no checkpoint yet.", labels=["shard"]
        )
        for shard, milliseconds in health.lag_ms.items():
            lag.add_metric([shard], milliseconds / 1000)
        yield lag
        incidents = GaugeMetricFamily("shopstream_incidents", "Incidents by state.", labels=["state"])
        for state, count in health.incidents.items():
            incidents.add_metric([str(state)], count)
        yield incidents
