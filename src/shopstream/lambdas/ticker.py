"""The function that a schedule calls each minute, because time passes without signals, too."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from shopstream.clock import SystemClock
from shopstream.config import load_settings
from shopstream.incidents.aws import DetectorState
from shopstream.incidents.incident import State
from shopstream.incidents.queries import count_incidents
from shopstream.lambdas.metrics import Metrics
from shopstream.lambdas.setup import Incidents, open_incidents

__all__ = ["handler"]

_logger = Logger(service="ticker")
_clock = SystemClock()


@cache
def _function() -> tuple[Incidents, DetectorState, Metrics, Path]:
    settings = load_settings()
    states = DetectorState(settings.aws.dynamodb, _clock)
    return open_incidents(settings, _clock), states, Metrics(settings.aws.metrics), settings.incidents_path


@_logger.inject_lambda_context
def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, int]:  # noqa: ARG001  Lambda gives both
    """Send what waits, say how many incidents are open, and keep the detectors' state from expiring.

    Incidents close by event time, which the engine tells even in a silence: nothing closes here by the clock.

    Raises:
        ShopstreamError: the table cannot be read; the next minute comes anyway.
    """
    incidents, states, metrics, path = _function()
    incidents.store.refresh()
    told = incidents.sender.deliver_pending()
    states.keep()
    counts = count_incidents(path)
    still_open = counts[State.OPEN] + counts[State.ACKNOWLEDGED]
    metrics.publish({"OpenIncidents": still_open, "NotificationsSent": told.sent, "NotificationsFailed": told.given_up})
    return {"open": still_open, "sent": told.sent, "retried": told.retried, "given_up": told.given_up}
