"""The function that a schedule calls each minute, because time passes without signals, too."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from shopstream.clock import SystemClock
from shopstream.config import load_settings
from shopstream.incidents.incident import State
from shopstream.incidents.ports import IncidentStore
from shopstream.lambdas.setup import Metrics, open_sender, open_store
from shopstream.lambdas.state import DetectionState
from shopstream.notify.sender import Sender

_logger = Logger(service="ticker")
_clock = SystemClock()


@cache
def _function() -> tuple[IncidentStore, Sender, DetectionState, Metrics]:
    settings = load_settings()
    store = open_store(settings, _clock)
    states = DetectionState(settings.aws.dynamodb, _clock)
    return store, open_sender(settings, _clock, store), states, Metrics(settings.aws.metrics)


@_logger.inject_lambda_context
def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, int]:  # noqa: ARG001  Lambda gives both
    """Send what waits, publish how many incidents are open, and keep the state of detection from expiring.

    Incidents close by event time, which the engine publishes even in a silence: nothing closes here by the clock.

    Raises:
        ShopstreamError: the table cannot be read; the next minute comes anyway.
    """
    store, sender, states, metrics = _function()
    report = sender.deliver_pending()
    states.keep()
    counts = store.count()
    still_open = counts[State.OPEN] + counts[State.ACKNOWLEDGED]
    metrics.publish(
        {"OpenIncidents": still_open, "NotificationsSent": report.sent, "NotificationsFailed": report.given_up}
    )
    return {"open": still_open, "sent": report.sent, "retried": report.retried, "given_up": report.given_up}
