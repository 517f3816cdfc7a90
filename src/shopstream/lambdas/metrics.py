"""Metrics of the functions, as lines of the log (embedded metric format).

Dimensions are `Service` and, of opened incidents, `Severity`: their number does not grow with traffic.
"""

from collections.abc import Mapping
from typing import Final

from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

__all__ = ["Metrics"]

_SERVICE: Final = "detection"


class Metrics:
    """Metrics of both functions, which are one service.

    Args:
        namespace: of CloudWatch; None publishes no metrics.
    """

    def __init__(self, namespace: str | None) -> None:
        self._namespace = namespace
        self._cold = True

    def cold_start(self) -> int:
        """1 in the first call of this process, then 0."""
        cold, self._cold = self._cold, False
        return int(cold)

    def publish(self, figures: Mapping[str, float], dimensions: Mapping[str, str] | None = None) -> None:
        """Print figures; names that end in Seconds are seconds, all others counts.

        Args:
            figures: metric → value of this call.
            dimensions: beside `Service`.
        """
        if not self._namespace:
            return
        # An empty service: the library would add a dimension of its own.
        provider = AmazonCloudWatchEMFProvider(namespace=self._namespace, service="")
        for dimension, word in {"Service": _SERVICE, **(dimensions or {})}.items():
            provider.add_dimension(dimension, word)
        for name, value in figures.items():
            provider.add_metric(name, "Seconds" if name.endswith("Seconds") else "Count", value)
        provider.flush_metrics()
