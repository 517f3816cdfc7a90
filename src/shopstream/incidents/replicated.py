"""Incidents in a table that many may write, kept by the very store that keeps them in a file.

SQLite is the working copy, the table is the truth, and the version of its ledger is the fence (see `replica`, `table`).
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar

from shopstream.clock import Clock
from shopstream.detection.detection import Detection
from shopstream.incidents.database import transaction
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.incidents.episode import scope_of
from shopstream.incidents.incident import Incident, IncidentChange
from shopstream.incidents.ports import NotificationChannel
from shopstream.incidents.replica import Replica
from shopstream.incidents.settings import AlertingSettings
from shopstream.incidents.table import Table
from shopstream.notify.outbox import Outbox, Waiting
from shopstream.notify.sender import Sender

__all__ = ["ReplicatedIncidentStore", "ReplicatedOutbox", "replica_of"]

_T = TypeVar("_T")
_CLAIM: Final = timedelta(minutes=1)
"""What a sender has taken is left to it so long; then another may send it."""


def replica_of(table: Table, path: Path, settings: AlertingSettings, clock: Clock, *, complete: bool) -> Replica:
    """The working copy of a table at a path; see `replica.Replica`."""
    slack = max(settings.campaign_within, settings.recovery, settings.notify_hold)
    return Replica(table, path, clock, complete=complete, retention=settings.retention, slack=slack)


class ReplicatedIncidentStore:
    """See `ports.IncidentStore`. One object belongs to one thread; others may write to the table meanwhile.

    Args:
        table: where the truth is.
        settings: retention, and which incidents people are told of.
        clock: for the moments of notifications and of what people do, and for expiry.
        targets: names of the channels that notifications are queued for.
        working_copy: the SQLite file; made where it is missing, and never more than a copy.

    Raises:
        RetryableError: the table cannot be read.
        StateError: there is no such table, or the file holds incidents of its own.
    """

    def __init__(
        self, table: Table, settings: AlertingSettings, clock: Clock, targets: Sequence[str], working_copy: Path
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._replica = replica_of(table, working_copy, settings, clock, complete=False)
        self._replica.follow(writes=True)
        self._local = EmbeddedIncidentStore(working_copy, settings, clock, targets, connect=self._replica.connect)

    def apply(
        self, detections: Sequence[Detection], watermark_ms: int, clock_ms: int | None = None
    ) -> list[IncidentChange]:
        """See `ports.IncidentStore.apply`; without detections and with nothing to close nothing is read or written."""
        scopes: dict[str, int] = {}
        for one in detections:
            if one.suppression is None:
                scope = scope_of(one.rule_id, tuple(one.key.items()))
                from_ms = one.start_ms - one.suppress_for_ms
                scopes[scope] = min(from_ms, scopes.get(scope, from_ms))

        def act() -> list[IncidentChange]:
            self._replica.fetch(scopes)
            return self._local.apply(detections, watermark_ms, clock_ms)

        return self._commit(act)

    def acknowledge(self, id_or_prefix: str, comment: str | None = None) -> Incident:
        """See `ports.IncidentStore.acknowledge`."""
        return self._handle(lambda: self._local.acknowledge(id_or_prefix, comment))

    def resolve(self, id_or_prefix: str, comment: str | None = None) -> Incident:
        """See `ports.IncidentStore.resolve`."""
        return self._handle(lambda: self._local.resolve(id_or_prefix, comment))

    def mark_false_positive(self, id_or_prefix: str, comment: str) -> Incident:
        """See `ports.IncidentStore.mark_false_positive`."""
        return self._handle(lambda: self._local.mark_false_positive(id_or_prefix, comment))

    def reopen(self, id_or_prefix: str, comment: str | None = None) -> Incident:
        """See `ports.IncidentStore.reopen`."""
        return self._handle(lambda: self._local.reopen(id_or_prefix, comment))

    def describe(self, incident_id: str, context: Mapping[str, object]) -> None:
        """See `ports.IncidentStore.describe`."""
        self._commit(lambda: self._local.describe(incident_id, context))

    def refresh(self) -> None:
        """Follow what others have written; for a pass that sends and applies nothing."""
        self._replica.follow(writes=True)
        self._local.reload()

    def sender(self, channels: Sequence[NotificationChannel]) -> Sender:
        """Delivers what waits, in the thread of this store. Close it before the store."""
        outbox = ReplicatedOutbox(self._replica, self._local.reload)
        return Sender(outbox, channels, self._settings, self._clock)

    def close(self) -> None:
        """See `ports.IncidentStore.close`."""
        self._local.close()
        self._replica.close()

    def _handle(self, action: Callable[[], Incident]) -> Incident:
        self._replica.follow(complete=True, writes=True)  # an id may be cut short: all of them are needed
        self._local.reload()
        return self._commit(action)

    def _commit(self, action: Callable[[], _T]) -> _T:
        return self._replica.commit(action, self._local.reload)


class ReplicatedOutbox(Outbox):
    """The sender's side of the notifications; what it notes is committed to the table.

    A sender takes what is due for a minute before it sends it, so that of several senders one tells.

    Args:
        replica: of the table.
        reload: of the store that shares the replica, called after rows have changed beneath; None: the replica is its
            own, it looks into the table for what is due, and is closed with it.
    """

    def __init__(self, replica: Replica, reload: Callable[[], None] | None = None) -> None:
        super().__init__(replica.path, connect=replica.connect)
        self._replica = replica
        self._alone = reload is None
        self._reload = reload or _nothing

    def due(self, target: str, now_ms: int) -> list[Waiting]:
        """See `Outbox.due`."""
        if self._alone:
            self._replica.follow(writes=True)
        return self._replica.commit(lambda: self._take(target, now_ms), self._reload)

    def retry_failed(self, now_ms: int) -> int:
        """See `Outbox.retry_failed`."""
        return self._replica.commit(lambda: super(ReplicatedOutbox, self).retry_failed(now_ms), self._reload)

    def close(self) -> None:
        """See `Outbox.close`."""
        super().close()
        if self._alone:
            self._replica.close()

    def _take(self, target: str, now_ms: int) -> list[Waiting]:
        waiting = super().due(target, now_ms)
        if waiting:
            until_ms = now_ms + _CLAIM // timedelta(milliseconds=1)
            with transaction(self._connection, self._path):
                self._connection.executemany(
                    "UPDATE notifications SET due_ms = ? WHERE target = ? AND reference = ?",
                    [(until_ms, target, one.notice.reference) for one in waiting],
                )
        return waiting

    def _note(self, assignments: str, values: tuple[int, str | None], target: str, references: Sequence[str]) -> None:
        def note() -> None:
            super(ReplicatedOutbox, self)._note(assignments, values, target, references)

        self._replica.commit(note, self._reload)


def _nothing() -> None:
    """There is no store beside."""
