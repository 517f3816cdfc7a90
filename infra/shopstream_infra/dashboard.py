"""A CloudWatch dashboard of the pipeline, in the order of the data flow."""

from collections.abc import Mapping, Sequence

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from shopstream_infra.alarms import Alarm
from shopstream_infra.config import StageConfig
from shopstream_infra.metrics import Metrics

__all__ = ["Dashboard"]

_WIDTH = 24


class Dashboard(Construct):
    """The dashboard `shopstream-STAGE`."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        config: StageConfig,
        metrics: Metrics,
        alarms: Mapping[Alarm, cloudwatch.AlarmBase],
    ) -> None:
        super().__init__(scope, construct_id)
        rows: list[list[cloudwatch.IWidget]] = [
            [
                cloudwatch.AlarmStatusWidget(
                    title="Alarms (runbooks: docs/runbooks)",
                    alarms=list(alarms.values()),
                    width=_WIDTH,
                    height=4,
                )
            ],
            _events(metrics),
            _engine(metrics),
        ]
        if config.detection == "lambda":
            rows += [_incidents(metrics), _functions(metrics)]
        rows.append(_stores(metrics, config))
        if config.flink_code:
            rows.append(_flink(metrics))
        cloudwatch.Dashboard(
            self, "Page", dashboard_name=config.prefix, widgets=rows, default_interval=Duration.hours(3)
        )


def _events(metrics: Metrics) -> list[cloudwatch.IWidget]:
    return [
        _graph("Records into the stream", [metrics.kinesis("events", "IncomingRecords", "Sum")]),
        _graph("Bytes into the stream", [metrics.kinesis("events", "IncomingBytes", "Sum")]),
        _graph(
            "Throttled by the stream",
            [
                metrics.kinesis("events", "WriteProvisionedThroughputExceeded", "Sum"),
                metrics.kinesis("events", "ReadProvisionedThroughputExceeded", "Sum"),
            ],
        ),
    ]


def _engine(metrics: Metrics) -> list[cloudwatch.IWidget]:
    return [
        _graph("Events", [metrics.worker(name, "Sum") for name in ("EventsRead", "EventsKept")]),
        _graph(
            "Late, duplicate and rejected events",
            [metrics.worker(name, "Sum") for name in ("LateEvents", "Duplicates", "DeadLetters")],
        ),
        _graph("Lag, seconds", [metrics.worker(name, "Maximum") for name in ("BehindSeconds", "WatermarkAgeSeconds")]),
    ]


def _incidents(metrics: Metrics) -> list[cloudwatch.IWidget]:
    return [
        _graph(
            "Incidents opened",
            [
                metrics.detection("IncidentsOpened", "Sum", severity=level)
                for level in ("low", "medium", "high", "critical")
            ],
            stacked=True,
        ),
        _graph(
            "Open incidents",
            [metrics.detection("OpenIncidents", "Maximum")],
        ),
        _graph(
            "Notifications", [metrics.detection(name, "Sum") for name in ("NotificationsSent", "NotificationsFailed")]
        ),
    ]


def _functions(metrics: Metrics) -> list[cloudwatch.IWidget]:
    return [
        _graph("Signals and detections", [metrics.detection(name, "Sum") for name in ("Signals", "Detections")]),
        _graph(
            "Signal age, ms",
            [metrics.function("detection", "IteratorAge", "Maximum")],
        ),
        _graph(
            "Function failures",
            [
                metrics.function(name, kind, "Sum")
                for name in ("detection", "ticker")
                for kind in ("Errors", "Throttles")
            ]
            + [metrics.failed_signals()],
        ),
    ]


def _stores(metrics: Metrics, config: StageConfig) -> list[cloudwatch.IWidget]:
    return [
        _graph(
            "Table, units",
            [metrics.table("incidents", name) for name in ("ConsumedReadCapacityUnits", "ConsumedWriteCapacityUnits")],
        ),
        _graph("Detections waiting in Firehose, seconds", [metrics.delivery_age()]),
        _graph(
            "Worker, CPU and memory",
            [
                metrics.tasks(name, "archive" if config.flink_code else "worker")
                for name in ("CpuUtilized", "MemoryUtilized")
            ],
        ),
    ]


def _flink(metrics: Metrics) -> list[cloudwatch.IWidget]:
    return [
        _graph("Flink, uptime in ms", [metrics.flink("uptime", "Maximum")]),
        _graph(
            "Flink, checkpoint duration and failures",
            [metrics.flink("lastCheckpointDuration", "Maximum"), metrics.flink("numberOfFailedCheckpoints", "Maximum")],
        ),
        _graph("Flink, KPUs", [metrics.flink("KPUs", "Maximum")]),
    ]


def _graph(title: str, left: Sequence[cloudwatch.IMetric], *, stacked: bool = False) -> cloudwatch.GraphWidget:
    return cloudwatch.GraphWidget(title=title, left=list(left), stacked=stacked, width=_WIDTH // 3, height=6)
