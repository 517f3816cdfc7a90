"""How things go, in figures: the worker's, gathered over a minute and published beside the stream."""

from importlib import import_module
from typing import TYPE_CHECKING

from shopstream.metrics.worker import Datum, MetricSink, WorkerMetrics

if TYPE_CHECKING:
    from shopstream.metrics.aws import CloudWatchSink

__all__ = ["CloudWatchSink", "Datum", "MetricSink", "WorkerMetrics"]

_HOMES = {"CloudWatchSink": "aws"}


def __getattr__(name: str) -> object:
    """Load a public name from its module when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
