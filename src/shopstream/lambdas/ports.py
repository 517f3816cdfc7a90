"""What the function that takes signals needs from the outside."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shopstream.detection.detection import Detection


@dataclass(frozen=True, slots=True)
class SignalRecord:
    """A record of the signals stream, as Lambda hands it over; `arrival_ms` is the stream's clock."""

    payload: bytes
    sequence_number: int
    shard_id: str
    stream_arn: str
    arrival_ms: int


class DetectionSink(Protocol):
    """Takes final detections on their way to the lake."""

    def deliver(self, detections: Sequence[Detection]) -> None:
        """Deliver all of them, at least once; readers recognise repetitions by `detection_id`.

        Raises:
            RetryableError: not all were taken.
        """
        ...


class FailedSignals(Protocol):
    """Takes undecodable records."""

    def add(self, record: SignalRecord, reason: str) -> None:
        """Keep it for people, with its reason.

        Raises:
            RetryableError: it was not taken.
        """
        ...
