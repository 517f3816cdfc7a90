"""The pipeline's figures as Prometheus text."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from shopstream.dashboard.health import Health, read_health
from shopstream.dashboard.sources import Home

__all__ = ["metrics_text"]

_COUNTERS = {
    "events_read": "Events taken from the stream: kept, duplicates and dead letters.",
    "events_kept": "Events kept in the lake, late ones included.",
    "duplicates": "Events that came again and were dropped.",
    "late": "Kept events that were behind the watermark, in no live window.",
    "dead_letters": "Rejected rows, kept with their reason.",
    "suppressed": "Detections that an allow-list covered: kept, told to nobody.",
    "late_signals": "Signals that detectors never saw: the clock had gone on through a silence.",
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
