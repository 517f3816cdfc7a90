"""The function behind the signals stream: `handler` gets records in order, from an event source mapping.

Its deployment is described in `docs/lambda.md`.
"""

import base64
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from shopstream.clock import SystemClock
from shopstream.config import load_settings
from shopstream.errors import ShopstreamError
from shopstream.lambdas.ports import SignalRecord
from shopstream.lambdas.setup import Metrics, open_processor, open_sender, open_store
from shopstream.lambdas.signal_processor import BatchResult, SignalProcessor
from shopstream.notify.sender import DeliveryReport, Sender


def records_of(event: Mapping[str, Any]) -> list[SignalRecord]:
    """The records of an event of a Kinesis event source mapping, in order."""
    return [
        SignalRecord(
            payload=base64.b64decode(record["kinesis"]["data"]),
            sequence_number=int(record["kinesis"]["sequenceNumber"]),
            shard_id=record["eventID"].partition(":")[0],
            stream_arn=record["eventSourceARN"],
            arrival_ms=round(record["kinesis"]["approximateArrivalTimestamp"] * 1000),
        )
        for record in event["Records"]
    ]


def response(failed: int | None) -> dict[str, list[dict[str, str]]]:
    """A partial batch response: the records from this one on come again; None: all are done."""
    return {"batchItemFailures": [] if failed is None else [{"itemIdentifier": str(failed)}]}


_logger = Logger(service="detection")
_clock = SystemClock()


@dataclass(frozen=True, slots=True)
class _Function:
    processor: SignalProcessor
    sender: Sender
    metrics: Metrics


@cache
def _function() -> _Function:
    settings = load_settings()
    store = open_store(settings, _clock)
    processor = open_processor(settings, _clock, _logger, store)
    return _Function(processor, open_sender(settings, _clock, store), Metrics(settings.aws.metrics))


@_logger.inject_lambda_context
def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, list[dict[str, str]]]:
    """Process signals; a partial batch response names the first record that Lambda has to send again."""
    records = records_of(event)
    try:
        function = _function()
    except ShopstreamError as error:
        _logger.error("records come again: %s", error)  # noqa: TRY400  the message says it all
        return response(records[0].sequence_number)
    result = function.processor.process(records, context.get_remaining_time_in_millis)
    if result.error is not None:
        _logger.error("records come again: %s", result.error)
    if result.unknown:
        _logger.warning(
            "nobody reads these signals: the engine has other rules than this package",
            extra={"windows": result.unknown},
        )
    _publish(function.metrics, result, _notify(function.sender), _clock.now_ms() - records[0].arrival_ms)
    return response(result.failed)


def _notify(sender: Sender) -> DeliveryReport:
    """Send what is due; the ticker tries again what fails."""
    try:
        return sender.deliver_pending()
    except ShopstreamError as error:
        _logger.warning("notifications wait: %s", error)
        return DeliveryReport()


def _publish(metrics: Metrics, result: BatchResult, report: DeliveryReport, age_ms: int) -> None:
    metrics.publish(
        {
            "Signals": result.signals,
            "Detections": result.detections,
            "LateSignals": result.late_signals,
            "UnknownSignals": result.unknown.total(),
            "PoisonedRecords": result.poisoned,
            "RepeatedRecords": result.repeated,
            "FailedCalls": int(result.error is not None),
            "NotificationsSent": report.sent,
            "NotificationsFailed": report.given_up,
            "SignalAgeSeconds": max(0, age_ms) / 1000,
            "ColdStart": metrics.cold_start(),
        }
    )
    for severity, count in result.opened.items():
        metrics.publish({"IncidentsOpened": count}, {"Severity": str(severity)})


if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    with suppress(ShopstreamError):  # the first call tries again, and says what is wrong
        _function()
