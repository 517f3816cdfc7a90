"""The metrics of alarms and dashboard, by name, so that no stack refers to another."""

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch

from shopstream_infra.config import StageConfig
from shopstream_infra.environment import delivery_name

__all__ = ["Metrics"]

_WORKER = "worker"
_FUNCTIONS = "detection"
"""Values of our dimension `Service`."""


class Metrics:
    """Metrics of one stage; the period is a minute by default."""

    def __init__(self, config: StageConfig) -> None:
        self._config = config

    def worker(self, name: str, statistic: str, *, minutes: int = 1) -> cloudwatch.Metric:
        """A metric of the engine."""
        return self._own(name, statistic, minutes, {"Service": _WORKER})

    def detection(self, name: str, statistic: str, *, severity: str = "") -> cloudwatch.Metric:
        """A metric of the functions, which are one service."""
        dimensions = {"Service": _FUNCTIONS} | ({"Severity": severity} if severity else {})
        return self._own(name, statistic, 1, dimensions)

    def kinesis(self, stream: str, name: str, statistic: str, *, minutes: int = 1) -> cloudwatch.Metric:
        """A metric of the events or signals stream."""
        return self._of("AWS/Kinesis", name, statistic, {"StreamName": self._config.named(stream)}, minutes)

    def function(self, function: str, name: str, statistic: str) -> cloudwatch.Metric:
        """A metric of the detection or ticker function."""
        return self._of("AWS/Lambda", name, statistic, {"FunctionName": self._config.named(function)})

    def failed_signals(self) -> cloudwatch.Metric:
        """Messages in the queue of failed signals."""
        dimensions = {"QueueName": self._config.named("failed-signals")}
        return self._of("AWS/SQS", "ApproximateNumberOfMessagesVisible", "Maximum", dimensions)

    def throttled_tables(self) -> cloudwatch.MathExpression:
        """Throttled reads and writes of both tables."""
        metrics = {
            f"{table}_{kind.lower()}": self._of(
                "AWS/DynamoDB", f"{kind}ThrottleEvents", "Sum", {"TableName": self._table(table)}
            )
            for table in ("incidents", "leases")
            for kind in ("Read", "Write")
        }
        return cloudwatch.MathExpression(
            expression=" + ".join(f"FILL({metric}, 0)" for metric in metrics),
            using_metrics=metrics,
            label="throttled by tables",
            period=Duration.minutes(1),
        )

    def table(self, table: str, name: str) -> cloudwatch.Metric:
        """Consumed capacity units of the table of `incidents` or `leases`."""
        return self._of("AWS/DynamoDB", name, "Sum", {"TableName": self._table(table)})

    def delivery_age(self) -> cloudwatch.Metric:
        """Age in seconds of the oldest detection that Firehose has not delivered."""
        dimensions = {"DeliveryStreamName": delivery_name(self._config)}
        return self._of("AWS/Firehose", "DeliveryToIceberg.DataFreshness", "Maximum", dimensions)

    def failed_tasks(self) -> cloudwatch.Metric:
        """Scheduled tasks that ended with an error."""
        dimensions = {"RuleName": self._config.named("task-failed")}
        return self._of("AWS/Events", "TriggeredRules", "Sum", dimensions, 5)

    def dropped_schedules(self) -> cloudwatch.Metric:
        """Invocations that the scheduler dropped."""
        dimensions = {"ScheduleGroup": self._config.prefix}
        return self._of("AWS/Scheduler", "InvocationDroppedCount", "Sum", dimensions, 5)

    def tasks(self, name: str, service: str) -> cloudwatch.Metric:
        """A metric of Container Insights, per service."""
        dimensions = {"ClusterName": self._config.prefix, "ServiceName": self._config.named(service)}
        return self._of("ECS/ContainerInsights", name, "Average", dimensions)

    def flink(self, name: str, statistic: str, *, rate: bool = False) -> cloudwatch.IMetric:
        """A metric of the Flink application; `rate` returns the growth of a counter."""
        dimensions = {"Application": self._config.named("engine")}
        metric = self._of("AWS/KinesisAnalytics", name, statistic, dimensions)
        if not rate:
            return metric
        return cloudwatch.MathExpression(
            expression="DIFF(counter)", using_metrics={"counter": metric}, label=name, period=Duration.minutes(1)
        )

    def _table(self, table: str) -> str:
        return self._config.prefix if table == "incidents" else self._config.named(table)

    def _own(self, name: str, statistic: str, minutes: int, dimensions: dict[str, str]) -> cloudwatch.Metric:
        return self._of(self._config.metrics_namespace, name, statistic, dimensions, minutes)

    def _of(
        self, namespace: str, name: str, statistic: str, dimensions: dict[str, str], minutes: int = 1
    ) -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace=namespace,
            metric_name=name,
            statistic=statistic,
            dimensions_map=dimensions,
            period=Duration.minutes(minutes),
        )
