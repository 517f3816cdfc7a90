"""Metrics in CloudWatch."""

from collections.abc import Sequence
from typing import Final

from shopstream import aws
from shopstream.metrics.worker import Datum, Span

__all__ = ["CloudWatchSink"]

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
