"""Where detections go on their way to the lake, where failed records go, and where baselines come from."""

import base64
import json
import time
from collections.abc import Sequence
from typing import Any, Final

from shopstream.aws import clients as aws
from shopstream.detection.baseline import Baselines
from shopstream.detection.detection import Detection, detection_row
from shopstream.errors import RetryableError
from shopstream.lambdas.ports import SignalRecord

_PUT_RECORDS: Final = 500
_PUT_BYTES: Final = 4 << 20
_RECORD_BYTES: Final = 1_000 << 10
"""Limits of PutRecordBatch."""

_ATTEMPTS: Final = 5
_FIRST_WAIT_S: Final = 0.1
_BODY_BYTES: Final = 240 << 10
"""Less than a message of SQS may have in any region."""


class FirehoseSink:
    """See `ports.DetectionSink`: JSON lines with the columns of the lake's table `detections`.

    Args:
        name: the delivery stream.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._firehose = aws.client("firehose")

    def deliver(self, detections: Sequence[Detection]) -> None:
        """See `ports.DetectionSink.deliver`."""
        lines = [json.dumps(detection_row(one), separators=(",", ":")).encode() + b"\n" for one in detections]
        for batch in _batches(lines):
            self._put(batch)

    def _put(self, lines: Sequence[bytes]) -> None:
        """What is refused alone is put again; the order does not matter."""
        waiting = list(lines)
        code = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_FIRST_WAIT_S * 2 ** (attempt - 1))
            with aws.explained(f"to deliver detections to {self._name}"):
                answer = self._firehose.put_record_batch(
                    DeliveryStreamName=self._name, Records=[{"Data": line} for line in waiting]
                )
            if not answer["FailedPutCount"]:
                return
            outcomes = answer["RequestResponses"]
            code = next(outcome["ErrorCode"] for outcome in outcomes if "ErrorCode" in outcome)
            waiting = [line for line, outcome in zip(waiting, outcomes, strict=True) if "ErrorCode" in outcome]
        raise RetryableError(
            f"{self._name} refused {len(waiting)} detections {_ATTEMPTS} times ({code}); wait, or raise its limits"
        )


class SqsFailedSignals:
    """See `ports.FailedSignals`: messages in the form in which Lambda describes what it gives up, with the record.

    Args:
        url: of the queue.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._sqs = aws.client("sqs")

    def add(self, record: SignalRecord, reason: str) -> None:
        """See `ports.FailedSignals.add`; a record that is too large for a message can be read from the stream."""
        number = str(record.sequence_number)
        payload = base64.b64encode(record.payload).decode()
        body = {
            "requestContext": {"condition": "PoisonedRecord"},
            "reason": reason,
            "KinesisBatchInfo": {
                "shardId": record.shard_id,
                "startSequenceNumber": number,
                "endSequenceNumber": number,
                "approximateArrivalOfFirstRecord": record.arrival_ms / 1000,
                "batchSize": 1,
                "streamArn": record.stream_arn,
            },
            "payload": payload if len(payload) <= _BODY_BYTES else None,
        }
        with aws.explained("to set a failed record aside"):
            self._sqs.send_message(QueueUrl=self._url, MessageBody=json.dumps(body))


def read_baselines(url: str) -> Baselines | None:
    """The baselines of an object; None where there is none yet.

    Args:
        url: `s3://bucket/key`.

    Raises:
        StateError: it is damaged or of another version, or there is no such bucket.
        RetryableError: S3 cannot be reached.
    """
    bucket, _, key = url.removeprefix("s3://").partition("/")
    s3: Any = aws.client("s3")
    with aws.explained(f"to read {url}"):
        try:
            content = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except s3.exceptions.NoSuchKey:
            return None
    return Baselines.read(content, url)


def _batches(lines: Sequence[bytes]) -> list[list[bytes]]:
    batches: list[list[bytes]] = [[]]
    size = 0
    for line in lines:
        if len(line) > _RECORD_BYTES:
            # Not among our errors: the processor puts the record aside that led to it, instead of trying for ever.
            raise ValueError(f"a detection takes at most {_RECORD_BYTES} bytes, one has {len(line)}; measure less")
        if batches[-1] and (len(batches[-1]) == _PUT_RECORDS or size + len(line) > _PUT_BYTES):
            batches.append([])
            size = 0
        batches[-1].append(line)
        size += len(line)
    return batches
