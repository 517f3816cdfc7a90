"""What alerting needs from the outside: a place for incidents, and ways to tell people."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from shopstream.detection.detection import Detection
from shopstream.incidents.incident import Incident, IncidentChange
from shopstream.notify.message import Message

__all__ = ["IncidentStore", "NotificationChannel"]


class IncidentStore(Protocol):
    """Keeps incidents; the one writer of episodes is the engine, people add what they did."""

    def apply(
        self, detections: Sequence[Detection], watermark_ms: int, clock_ms: int | None = None
    ) -> list[IncidentChange]:
        """Open, update, merge and close incidents, and queue notifications: all in one transaction, or nothing.

        Detections may come in any order and any number of times: after a crash the engine gives those since its
        checkpoint again, maybe grouped otherwise, and the incidents are the same, ids included, as long as no
        detection is overtaken by one that ends more than its rule's quiet time later.

        Args:
            detections: of any rules and keys.
            watermark_ms: a promise: no final detection of a window that ends up to here comes after this call, save
                as a repetition.
            clock_ms: event time up to which nothing came by the clock, no promise: incidents close by it, too, and one
                that more is found of after all is open again.

        Raises:
            RetryableError: the store is busy or full; nothing was changed.
            StateError: the store is damaged or of another version.
        """
        ...

    def acknowledge(self, id_or_prefix: str, comment: str | None = None) -> Incident:
        """Note that somebody looks after it. The id may be cut short as long as it is unique.

        Raises:
            StateError: no such incident, or several.
        """
        ...

    def resolve(self, id_or_prefix: str, comment: str | None = None) -> Incident:
        """Note that nothing is left to do.

        Raises:
            StateError: no such incident, or several.
        """
        ...

    def mark_false_positive(self, id_or_prefix: str, comment: str) -> Incident:
        """Note that it is none: its actors are people, and the rule's precision knows of it.

        Raises:
            StateError: no such incident, or several.
        """
        ...

    def reopen(self, id_or_prefix: str, comment: str | None = None) -> Incident:
        """Take back what was noted; the comment stays unless there is another.

        Raises:
            StateError: no such incident, or several.
        """
        ...

    def describe(self, incident_id: str, context: Mapping[str, object]) -> None:
        """Keep what the recent events say of an episode, JSON-ready; see `engine.recent`."""
        ...

    def close(self) -> None:
        """Give the store back."""
        ...


class NotificationChannel(Protocol):
    """One address that messages go to."""

    @property
    def target(self) -> str:
        """A name that is safe to show, and the same after a restart."""
        ...

    def send(self, message: Message) -> None:
        """Deliver one message, or fail.

        Raises:
            RetryableError: not delivered, or not known to be.
        """
        ...
