"""The port of incident stores: the engine puts what the tracker gives, everybody else reads and sets the status.

A store is a projection: the tracker's state lies in the engine's checkpoint, and each row carries the generation of the
checkpoint that it will be part of. Status, owner, comment and context lie in the store alone, and so do notifications.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack

from shopstream.clock import from_ms
from shopstream.detection.detection import Severity
from shopstream.incidents.incident import Incident, State, TriageStatus
from shopstream.incidents.record import IncidentRow

BEFORE_ALL = -(1 << 62)
UNCOMMITTED = 2
"""So many checkpoints may be gathered or under way when a process ends."""


class LastOrdinal(NamedTuple):
    """The newest incident of a rule and key: its ordinal, 0 for none, and when its last event was."""

    ordinal: int = 0
    last_event_ms: int = BEFORE_ALL


class RowVersion(NamedTuple):
    """A row that was written after a checkpoint: for which one, and the watermark that closes its episode."""

    id: str
    generation: int
    closes_ms: int


class DeliveryState(StrEnum):
    """What became of a notification."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"


class NewNotification(NamedTuple):
    """What is to be sent to one target; `severity` is a name, `kind` opened, raised or closed."""

    incident_id: str
    kind: str
    severity: Severity
    target: str

    @property
    def reference(self) -> str:
        """Identifies repetitions: an incident is notified of once in each severity, and once when it closes."""
        return f"{self.incident_id}:{'closed' if self.kind == 'closed' else self.severity}"


class IncidentFilter(TypedDict, total=False):
    """Which incidents to list; what is left out or empty takes all. `rules`: that contributed to the incident."""

    states: Iterable[State]
    severities: Iterable[Severity]
    rules: Iterable[str]


@dataclass(frozen=True, slots=True)
class Notification:
    """One notification to one target, as people see it.

    Args:
        reference: the same whenever it is sent again, so that receivers recognise repetitions.
        target: the channel's name; addresses are secret.
        due: when the next attempt is made; None once it is sent or given up.
        error: why the last attempt failed.
    """

    reference: str
    target: str
    incident_id: str
    kind: str
    severity: Severity
    state: DeliveryState
    attempts: int
    created: datetime
    due: datetime | None
    finished: datetime | None
    error: str | None


def notification_of(row: Mapping[str, Any]) -> Notification:
    """A notification as stores keep it; what is not known may be missing."""
    finished_ms = row.get("finished_ms")
    return Notification(
        reference=row["reference"],
        target=row["target"],
        incident_id=row["incident_id"],
        kind=row["kind"],
        severity=Severity(row["severity"]),
        state=DeliveryState(row["state"]),
        attempts=int(row["attempts"]),
        created=from_ms(int(row["created_ms"])),
        due=from_ms(int(row["due_ms"])) if row["state"] == DeliveryState.PENDING else None,
        finished=None if finished_ms is None else from_ms(int(finished_ms)),
        error=row.get("error"),
    )


@dataclass(frozen=True, slots=True)
class IncidentUpdate:
    """What one call of the tracker changed.

    Args:
        generation: of the checkpoint that will hold it.
        as_of_ms: event time up to which detection has run, but never later than the end of the newest incident.
        rows: episodes as they are now.
        absorbed: id of an episode → id of the one that it is part of now.
        ordinals: scope → its newest incident.
        notifications: to send.
    """

    generation: int
    as_of_ms: int
    rows: Sequence[IncidentRow] = ()
    absorbed: Mapping[str, str] = field(default_factory=dict)
    ordinals: Mapping[str, LastOrdinal] = field(default_factory=dict)
    notifications: Sequence[NewNotification] = ()


class IncidentStore(Protocol):
    """One object belongs to one thread; any number of processes may have one.

    All methods raise RetryableError where the store is busy, full or cannot be reached, and StateError where it is
    damaged, missing or of another version.
    """

    def put(self, update: IncidentUpdate) -> None:
        """Write rows and queue notifications; the same update again changes nothing.

        What people set stays. An episode that was absorbed passes it on to the one that took it in, unless that one has
        a status of its own; from then on its id leads there. A notification that is known is not queued again.

        Raises:
            StateError: another process goes on from a later checkpoint: a row is of one that this process cannot make.
        """
        ...

    def get(self, id_or_prefix: str) -> Incident:
        """One incident, or one part of another (then with `parent`).

        Args:
            id_or_prefix: its first part may be cut short and the ordinal left out, as long as it names one.

        Raises:
            StateError: no such incident, or several.
        """
        ...

    def list(self, *, limit: int | None = None, **only: Unpack[IncidentFilter]) -> list[Incident]:
        """Incidents as people see them, those with the newest events first; what is part of another is left out.

        Args:
            limit: at most so many; None takes all.
            only: which ones.
        """
        ...

    def parts(self, incident_id: str) -> Sequence[Incident]:
        """All parts of an incident, each as an incident of its own: the head first, then by detection.

        Args:
            incident_id: the whole id of what people see; that of a part gives nothing.
        """
        ...

    def actors(self, since_ms: int = BEFORE_ALL) -> Sequence[Incident]:
        """Episodes that give a verdict on an actor and have events since then, in order of their first event."""
        ...

    def count(self) -> dict[State, int]:
        """How many incidents, as people see them, there are in each state; every state is named."""
        ...

    def as_of_ms(self) -> int | None:
        """See `IncidentUpdate.as_of_ms`; None before the first."""
        ...

    def set_status(
        self, id_or_prefix: str, status: TriageStatus, *, comment: str | None = None, owner: str | None = None
    ) -> Incident:
        """Set the status that a person gave; that of an incident is that of all its parts.

        Args:
            id_or_prefix: see `get`.
            status: NONE takes back what was noted.
            comment: None leaves the one that is there.
            owner: likewise; who looks after it.

        Raises:
            StateError: no such incident, or several.
        """
        ...

    def set_context(self, incident_id: str, context: Mapping[str, object]) -> None:
        """Keep what the recent events say of an episode, JSON-ready; see `engine.recent`."""
        ...

    def last_ordinals(self, scopes: Iterable[str]) -> dict[str, LastOrdinal]:
        """The newest incident of each of these scopes that ever had one, also of those that retention removed."""
        ...

    def statuses(self, ids: Iterable[str]) -> dict[str, TriageStatus]:
        """What people did about these incidents, as far as they are there."""
        ...

    def written_after(self, generation: int) -> Sequence[RowVersion]:
        """Rows of later checkpoints than this one, those of absorbed episodes included."""
        ...

    def remove(self, ids: Iterable[str]) -> None:
        """Remove rows that no detection supports, with their notifications that wait."""
        ...

    def forget(self, before_ms: int, ordinals_before_ms: int) -> None:
        """Remove incidents all of whose parts closed before the one moment, and last ordinals from before the other."""
        ...

    def pending(self, target: str, now_ms: int) -> Sequence[Notification]:
        """What should go to a target now, oldest first.

        Where senders of several machines share a store, the others do not get these for two minutes.
        """
        ...

    def mark(
        self,
        references: Sequence[str],
        target: str,
        state: DeliveryState,
        at_ms: int,
        error: str | None = None,
    ) -> None:
        """Note an attempt. PENDING: it failed, and the next is due at `at_ms`; else it is over since then."""
        ...

    def retry_failed(self, now_ms: int) -> int:
        """Let notifications that were given up be tried again; returns how many."""
        ...

    def notifications(self, *, incident_id: str | None = None, limit: int | None = None) -> Sequence[Notification]:
        """Notifications, newest first.

        Args:
            incident_id: only those about this one and its parts.
            limit: at most so many; None takes all.
        """
        ...

    def close(self) -> None:
        """Give the store back."""
        ...
