"""The worker's metrics: sums and spans of a minute, published beside the stream and never in its way."""

import json
import logging
import threading
from datetime import UTC, datetime, timedelta

import boto3
import pytest

from lambdas.emf import sums
from shopstream.clock import ManualClock
from shopstream.errors import RetryableError
from shopstream.lambdas.setup import Metrics
from shopstream.metrics import CloudWatchSink, StatisticSet, WorkerMetrics

NOW_MS = 1_763_845_200_000
MINUTE = timedelta(minutes=1)


def counters(read, **others):
    return {"events_read": read, "events_kept": read, "late": 0, "duplicates": 0, "dead_letters": 0, **others}


class Sink:
    """Remembers what it is given."""

    def __init__(self):
        self.puts, self.error, self.gate = [], None, threading.Event()
        self.gate.set()

    def put(self, data):
        self.gate.wait(10)
        if self.error:
            raise self.error
        self.puts.append({datum.name: datum.value for datum in data})


@pytest.fixture
def clock():
    return ManualClock(NOW_MS)


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
def metrics(sink, clock):
    made = WorkerMetrics(sink, clock)
    yield made
    sink.gate.set()
    made.close()


def a_minute_later(metrics, clock, *observed):
    clock.advance(MINUTE)
    metrics.observe(*observed)
    if metrics._putting:
        metrics._putting.exception()


def test_a_minute_is_published_as_sums_and_statistics(metrics, sink, clock):
    metrics.observe(counters(1_000), 4_000, NOW_MS - 10_000)
    a_minute_later(metrics, clock, counters(1_600, late=3, late_signals=2), 2_000, NOW_MS + 58_000)
    (put,) = sink.puts
    assert (put["EventsRead"], put["LateEvents"], put["DeadLetters"]) == (600, 3, 0)
    assert put["LateSignals"] == 2
    assert put["BehindSeconds"] == StatisticSet(2, 6.0, 2.0, 4.0)
    assert put["WatermarkAgeSeconds"] == StatisticSet(2, 12.0, 2.0, 10.0)


def test_counts_before_a_restart_are_not_published_again(metrics, sink, clock):
    metrics.observe(counters(1_000_000), 0, None)
    a_minute_later(metrics, clock, counters(1_000_000), 0, None)
    assert sink.puts[0]["EventsRead"] == 0


def test_nothing_is_published_before_the_minute_is_over(metrics, sink, clock):
    for _ in range(59):
        clock.advance(timedelta(seconds=1))
        metrics.observe(counters(1), 0, None)
    assert sink.puts == []


def test_unpublished_metrics_are_published_in_the_next_minute(metrics, sink, clock, caplog):
    metrics.observe(counters(0), 1_000, None)
    sink.error = RetryableError("no way out")
    with caplog.at_level(logging.WARNING):
        a_minute_later(metrics, clock, counters(10), 2_000, None)
        sink.error = None
        a_minute_later(metrics, clock, counters(25), 3_000, None)
        a_minute_later(metrics, clock, counters(26), 0, None)
    assert sum(put["EventsRead"] for put in sink.puts) == 26
    assert sink.puts[0]["BehindSeconds"].total + sink.puts[1]["BehindSeconds"].total == 6.0
    assert "metrics wait for the next minute: no way out" in caplog.text


def test_a_service_that_does_not_answer_holds_up_nothing(metrics, sink, clock):
    sink.gate.clear()
    for number in range(5):
        clock.advance(MINUTE)
        metrics.observe(counters(number), 0, None)
    assert sink.puts == []
    sink.gate.set()
    metrics._putting.result()
    a_minute_later(metrics, clock, counters(9), 0, None)
    assert sum(put["EventsRead"] for put in sink.puts) == 9


def test_closing_publishes_pending_metrics(sink, clock):
    metrics = WorkerMetrics(sink, clock)
    metrics.observe(counters(5), 0, None)
    metrics.observe(counters(8), 0, None)
    metrics.close()
    assert [put["EventsRead"] for put in sink.puts] == [3]


def test_closing_reports_unpublished_metrics(sink, clock, caplog):
    metrics = WorkerMetrics(sink, clock)
    metrics.observe(counters(5), 0, None)
    sink.error = RetryableError("no way out")
    metrics.close()
    assert "no way out" in caplog.text


def test_functions_print_only_named_dimensions(capsys):
    metrics = Metrics("shopstream-test")
    metrics.publish({"Signals": 3, "SignalAgeSeconds": 1.5})
    metrics.publish({"IncidentsOpened": 2}, {"Severity": "high"})
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sums(documents) == {
        ("Signals", "detection"): 3,
        ("SignalAgeSeconds", "detection"): 1.5,
        ("IncidentsOpened", "detection", "high"): 2,
    }
    units = {m["Name"]: m["Unit"] for d in documents for m in d["_aws"]["CloudWatchMetrics"][0]["Metrics"]}
    assert units == {"Signals": "Count", "SignalAgeSeconds": "Seconds", "IncidentsOpened": "Count"}


def test_without_a_namespace_functions_print_no_metrics(capsys):
    Metrics(None).publish({"Signals": 3})
    assert capsys.readouterr().out == ""


@pytest.mark.aws
def test_cloudwatch_has_the_sums_and_the_statistics(aws_env, moto, fresh_name):
    aws_env(cloudwatch=moto)
    namespace, now_ms = fresh_name("shop"), int(datetime.now(UTC).timestamp() * 1000)
    clock = ManualClock(now_ms)
    metrics = WorkerMetrics(CloudWatchSink(namespace, "worker"), clock)
    metrics.observe(counters(100), 3_000, now_ms - 7_000)
    a_minute_later(metrics, clock, counters(400), 1_000, now_ms + 60_000)
    a_minute_later(metrics, clock, counters(450), 0, now_ms + 60_000)
    metrics.close()
    start = datetime.fromtimestamp(now_ms / 1000, UTC) - timedelta(hours=1)

    def read(name, *statistics):
        found = boto3.client("cloudwatch").get_metric_statistics(
            Namespace=namespace,
            MetricName=name,
            Dimensions=[{"Name": "Service", "Value": "worker"}],
            StartTime=start,
            EndTime=start + timedelta(hours=2),
            Period=7_200,
            Statistics=list(statistics),
        )["Datapoints"]
        return [tuple(point[name] for name in statistics) for point in found]

    assert read("EventsRead", "Sum") == [(350.0,)]
    ((most, least, count),) = read("BehindSeconds", "Maximum", "Minimum", "SampleCount")
    assert (most, least, count) == (3.0, 0.0, 3.0)
