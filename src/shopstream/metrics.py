"""Metrics of the worker, published to CloudWatch once a minute.

Metrics that cannot be published wait for the next minute; the pipeline never waits for them.
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from shopstream.aws.clients import client, explained
from shopstream.clock import MILLISECOND, Clock, from_ms
from shopstream.errors import ShopstreamError

_LOGGER = logging.getLogger(__name__)
_LAST_PUT: Final = timedelta(seconds=10)

COUNTS: Final[Mapping[str, str]] = {
    "EventsRead": "events_read",
    "EventsKept": "events_kept",
    "LateEvents": "late",
    "Duplicates": "duplicates",
    "DeadLetters": "dead_letters",
    "LateSignals": "late_signals",
}
"""Metric → the engine's counter; published as a sum per minute."""

STATISTICS: Final = ("BehindSeconds", "WatermarkAgeSeconds")
"""Lag of the worker behind the stream's tip, and of the watermark behind the clock."""


@dataclass(frozen=True, slots=True)
class StatisticSet:
    """Values of a minute: count, sum, minimum and maximum."""

    count: int
    total: float
    least: float
    greatest: float

    def with_value(self, value: float) -> "StatisticSet":
        """The statistics with one more value."""
        return StatisticSet(self.count + 1, self.total + value, min(self.least, value), max(self.greatest, value))


@dataclass(frozen=True, slots=True)
class Datum:
    """One metric of one minute.

    Args:
        name: of the metric.
        unit: as CloudWatch names it.
        value: a sum, or statistics of values.
        at: end of the minute, UTC.
    """

    name: str
    unit: str
    value: float | StatisticSet
    at: datetime


class WorkerMetrics:
    """Collects observations and publishes them once a minute, in a separate thread.

    Args:
        sink: publishes the metrics.
        clock: processing time.
        interval: a minute, CloudWatch's standard resolution.
    """

    def __init__(self, sink: "CloudWatchSink", clock: Clock, interval: timedelta = timedelta(minutes=1)) -> None:
        self._sink = sink
        self._clock = clock
        self._interval_ms = interval // MILLISECOND
        self._due_ms = clock.now_ms() + self._interval_ms
        self._published: dict[str, int] | None = None
        self._counters: dict[str, int] = {}
        self._statistics: dict[str, StatisticSet] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._putting: Future[None] | None = None
        self._put_statistics: dict[str, StatisticSet] = {}
        self._put_counters: dict[str, int] = {}

    def observe(self, counters: Mapping[str, int], behind_ms: int, watermark_ms: int | None) -> None:
        """Record the current state; cheap enough for every step.

        Args:
            counters: of the engine, since its start; counting begins with those of the first call.
            behind_ms: lag of the worker behind the stream's tip.
            watermark_ms: event time up to which windows are closed; None before the first event.
        """
        now_ms = self._clock.now_ms()
        self._counters = {counter: counters.get(counter, 0) for counter in COUNTS.values()}
        if self._published is None:
            self._published = self._counters
        self._add("BehindSeconds", behind_ms / 1000)
        if watermark_ms is not None:
            self._add("WatermarkAgeSeconds", max(0, now_ms - watermark_ms) / 1000)
        if now_ms >= self._due_ms and (self._putting is None or self._putting.done()):
            self._publish(now_ms)

    def close(self) -> None:
        """Publish pending metrics, for at most ten seconds."""
        if self._putting:
            wait([self._putting], _LAST_PUT.total_seconds())
        if self._published is not None and (self._putting is None or self._putting.done()):
            self._publish(self._clock.now_ms())
            if self._putting:
                wait([self._putting], _LAST_PUT.total_seconds())
                self._settle()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _add(self, name: str, value: float) -> None:
        known = self._statistics.get(name)
        self._statistics[name] = known.with_value(value) if known else StatisticSet(1, value, value, value)

    def _publish(self, now_ms: int) -> None:
        self._settle()
        at = from_ms(now_ms)
        published = self._published or {}
        data: list[Datum] = [
            Datum(name, "Count", max(0, self._counters[counter] - published.get(counter, 0)), at)
            for name, counter in COUNTS.items()
        ]
        data += [Datum(name, "Seconds", statistics, at) for name, statistics in self._statistics.items()]
        self._put_counters, self._put_statistics = self._counters, self._statistics
        self._statistics = {}
        self._due_ms = now_ms + self._interval_ms
        self._putting = self._thread.submit(self._sink.put, data)

    def _settle(self) -> None:
        """Check the previous put: metrics that were not published go out with the next one."""
        if self._putting is None:
            return
        error = self._putting.exception()
        self._putting = None
        if error is None:
            self._published = self._put_counters
            return
        reason = str(error) if isinstance(error, ShopstreamError) else type(error).__name__
        _LOGGER.warning("metrics wait for the next minute: %s", reason)
        for name, statistics in self._put_statistics.items():
            newer = self._statistics.get(name)
            self._statistics[name] = statistics if newer is None else _merge(statistics, newer)


def _merge(one: StatisticSet, other: StatisticSet) -> StatisticSet:
    return replace(
        one,
        count=one.count + other.count,
        total=one.total + other.total,
        least=min(one.least, other.least),
        greatest=max(one.greatest, other.greatest),
    )


class CloudWatchSink:
    """Publishes to CloudWatch. Each metric has one dimension, `Service`, so the number of metrics is fixed.

    Args:
        namespace: of all metrics of an installation.
        service: the publisher, such as `worker`.
    """

    def __init__(self, namespace: str, service: str) -> None:
        self._namespace = namespace
        self._service = service
        self._cloudwatch = client("cloudwatch")

    def put(self, data: Sequence[Datum]) -> None:
        """Publish all data, or raise a ShopstreamError."""
        metrics = [
            {
                "MetricName": datum.name,
                "Unit": datum.unit,
                "Timestamp": datum.at,
                "Dimensions": [{"Name": "Service", "Value": self._service}],
                **_value(datum.value),
            }
            for datum in data
        ]
        with explained(f"to publish metrics in {self._namespace}"):
            self._cloudwatch.put_metric_data(Namespace=self._namespace, MetricData=metrics)


def _value(value: float | StatisticSet) -> dict[str, object]:
    if not isinstance(value, StatisticSet):
        return {"Value": value}
    return {
        "StatisticValues": {
            "SampleCount": value.count,
            "Sum": value.total,
            "Minimum": value.least,
            "Maximum": value.greatest,
        }
    }
