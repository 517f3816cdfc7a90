"""What the function that judges signals needs from the outside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from shopstream.detection.detection import Detection

__all__ = ["Delivery", "DetectorStates", "FailedSignals", "SavedState", "SignalRecord"]


@dataclass(frozen=True, slots=True)
class SignalRecord:
    """A record of the signals stream, as Lambda hands it over; `arrival_ms` is the stream's clock."""

    payload: bytes
    sequence_number: int
    shard_id: str
    stream_arn: str
    arrival_ms: int


@dataclass(frozen=True, slots=True)
class SavedState:
    """What was saved last.

    Args:
        generation: counts the saves; who saves next must have seen this one.
        document: JSON-ready.
    """

    generation: int
    document: Mapping[str, object]


class DetectorStates(Protocol):
    """Keeps the state of detection between calls of a function, wherever those run."""

    def generation(self) -> int:
        """Of what was saved last; 0: nothing was."""
        ...

    def load(self) -> SavedState | None:
        """What was saved last.

        Raises:
            StateError: it is damaged.
        """
        ...

    def save(self, document: Mapping[str, object], generation: int) -> None:
        """Save as this generation.

        Raises:
            RetryableError: another call has saved this generation, or the store is busy; nothing was saved.
        """
        ...


class Delivery(Protocol):
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
