"""The worker's figures: sums and spans of a minute. What cannot be published waits for the next one; the line never.

Metrics in CloudWatch.
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from shopstream.aws import clients as aws
from shopstream.clock import Clock, from_ms
from shopstream.errors import ShopstreamError

__all__ = ["COUNTS", "SPANS", "CloudWatchSink", "Datum", "MetricSink", "Span", "WorkerMetrics"]

_LOGGER = logging.getLogger(__name__)
_MS: Final = timedelta(milliseconds=1)
_LAST_PUT: Final = timedelta(seconds=10)

COUNTS: Final[Mapping[str, str]] = {
    "EventsRead": "events_read",
    "EventsKept": "events_kept",
    "LateEvents": "late",
    "Duplicates": "duplicates",
    "DeadLetters": "dead_letters",
    "LateSignals": "late_signals",
}
"""Metric → the engine's counter; published are sums of a minute."""

SPANS: Final = ("BehindSeconds", "WatermarkAgeSeconds")
"""How far the worker is behind the stream's tip, and the watermark behind the clock."""


@dataclass(frozen=True, slots=True)
class Span:
    """Values of a minute: how many, their sum, the least and the greatest."""

    count: int
    total: float
    least: float
    greatest: float

    def with_value(self, value: float) -> "Span":
        """One more."""
        return Span(self.count + 1, self.total + value, min(self.least, value), max(self.greatest, value))


@dataclass(frozen=True, slots=True)
class Datum:
    """One figure of one minute.

    Args:
        name: the metric.
        unit: CloudWatch's word for it.
        value: a sum, or a span of values.
        at: the end of the minute, UTC.
    """

    name: str
    unit: str
    value: float | Span
    at: datetime


class MetricSink(Protocol):
    """Takes figures."""

    def put(self, data: Sequence[Datum]) -> None:
        """All, or none.

        Raises:
            ShopstreamError: they were not taken.
        """
        ...


class WorkerMetrics:
    """Gathers what `observe` is told and publishes it once a minute, in a thread of its own.

    Args:
        sink: where figures go.
        clock: processing time.
        interval: a minute, in CloudWatch's usual resolution.
    """

    def __init__(self, sink: MetricSink, clock: Clock, interval: timedelta = timedelta(minutes=1)) -> None:
        self._sink = sink
        self._clock = clock
        self._interval_ms = interval // _MS
        self._due_ms = clock.now_ms() + self._interval_ms
        self._published: dict[str, int] | None = None
        self._counters: dict[str, int] = {}
        self._spans: dict[str, Span] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._putting: Future[None] | None = None
        self._put_spans: dict[str, Span] = {}
        self._put_counters: dict[str, int] = {}

    def observe(self, counters: Mapping[str, int], behind_ms: int, watermark_ms: int | None) -> None:
        """How things are now; costs next to nothing.

        Args:
            counters: the engine's, since its beginning: those of the first call are where counting starts.
            behind_ms: how far the worker is behind the stream's tip.
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
        """Publish what is left, for ten seconds at most."""
        if self._putting:
            wait([self._putting], _LAST_PUT.total_seconds())
        if self._published is not None and (self._putting is None or self._putting.done()):
            self._publish(self._clock.now_ms())
            if self._putting:
                wait([self._putting], _LAST_PUT.total_seconds())
                self._settle()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _add(self, name: str, value: float) -> None:
        known = self._spans.get(name)
        self._spans[name] = known.with_value(value) if known else Span(1, value, value, value)

    def _publish(self, now_ms: int) -> None:
        self._settle()
        at = from_ms(now_ms)
        published = self._published or {}
        data: list[Datum] = [
            Datum(name, "Count", max(0, self._counters[counter] - published.get(counter, 0)), at)
            for name, counter in COUNTS.items()
        ]
        data += [Datum(name, "Seconds", span, at) for name, span in self._spans.items()]
        self._put_counters, self._put_spans = self._counters, self._spans
        self._spans = {}
        self._due_ms = now_ms + self._interval_ms
        self._putting = self._thread.submit(self._sink.put, data)

    def _settle(self) -> None:
        """See what became of the put before: its figures are out, or go out with the next."""
        if self._putting is None:
            return
        error = self._putting.exception()
        self._putting = None
        if error is None:
            self._published = self._put_counters
            return
        told = str(error) if isinstance(error, ShopstreamError) else type(error).__name__
        _LOGGER.warning("metrics wait for the next minute: %s", told)
        for name, span in self._put_spans.items():
            newer = self._spans.get(name)
            self._spans[name] = span if newer is None else _joined(span, newer)


def _joined(one: Span, other: Span) -> Span:
    return replace(
        one,
        count=one.count + other.count,
        total=one.total + other.total,
        least=min(one.least, other.least),
        greatest=max(one.greatest, other.greatest),
    )


_PUT_METRICS: Final = 1_000
"""Limit of PutMetricData."""


class CloudWatchSink:
    """See `worker.MetricSink`. Each metric has one dimension, `Service`, so that their number is known beforehand.

    Args:
        namespace: of all metrics of an installation.
        service: who publishes, such as `worker`.
    """

    def __init__(self, namespace: str, service: str) -> None:
        self._namespace = namespace
        self._service = service
        self._cloudwatch = aws.client("cloudwatch")

    def put(self, data: Sequence[Datum]) -> None:
        """See `worker.MetricSink.put`."""
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
        for start in range(0, len(metrics), _PUT_METRICS):
            with aws.explained(f"to publish metrics in {self._namespace}"):
                self._cloudwatch.put_metric_data(
                    Namespace=self._namespace, MetricData=metrics[start : start + _PUT_METRICS]
                )


def _value(value: float | Span) -> dict[str, object]:
    if not isinstance(value, Span):
        return {"Value": value}
    return {
        "StatisticValues": {
            "SampleCount": value.count,
            "Sum": value.total,
            "Minimum": value.least,
            "Maximum": value.greatest,
        }
    }
