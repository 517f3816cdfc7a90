"""What the function that takes signals needs from the outside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shopstream.detection.detection import Detection
from shopstream.lambdas.state import SavedState

__all__ = ["DetectionSink", "DetectionStates", "FailedSignals", "SignalRecord"]


@dataclass(frozen=True, slots=True)
class SignalRecord:
    """A record of the signals stream, as Lambda hands it over; `arrival_ms` is the stream's clock."""

    payload: bytes
    sequence_number: int
    shard_id: str
    stream_arn: str
    arrival_ms: int


class DetectionStates(Protocol):
    """Keeps the state of detection and incidents between calls of a function, wherever those run; see `state`."""

    def generation(self) -> int:
        """How often it was saved; 0: never."""
        ...

    def load(self) -> SavedState | None:
        """What was saved last.

        Raises:
            StateError: it is damaged.
        """
        ...

    def save(
        self,
        state: Mapping[str, Any],
        positions: Mapping[str, int],
        *,
        until_ms: int | None = None,
        expected_generation: int = 0,
    ) -> int:
        """Save over a generation; returns the new one.

        Raises:
            StateError: another has saved meanwhile.
            RetryableError: not known to be saved.
        """
        ...


class DetectionSink(Protocol):
    """Takes final detections on their way to the lake."""

    def deliver(self, detections: Sequence[Detection]) -> None:
        """All of them, at least once; readers tell repetitions by `detection_id`.

        Raises:
            RetryableError: not all were taken.
        """
        ...


class FailedSignals(Protocol):
    """Takes records that nothing can be made of."""

    def add(self, record: SignalRecord, reason: str) -> None:
        """Keep it for people, with its reason.

        Raises:
            RetryableError: it was not taken.
        """
        ...
