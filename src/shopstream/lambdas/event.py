"""The event that Lambda passes for a Kinesis stream, and the response it expects."""

import base64
from collections.abc import Mapping
from typing import Any

from shopstream.lambdas.ports import SignalRecord

__all__ = ["records_of", "response"]


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
