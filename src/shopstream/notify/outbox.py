"""Notifications that wait, and what became of them: a table written in the transaction that opened the incident."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from shopstream.clock import from_ms
from shopstream.detection.detection import Severity
from shopstream.incidents.database import Connection, explained, open_reader, open_writer, transaction
from shopstream.incidents.episode import SEVERITIES
from shopstream.incidents.queries import incidents_under
from shopstream.notify.message import Notice

__all__ = ["DeliveryState", "Notification", "Outbox", "Waiting", "read_notifications", "retry_failed"]


class DeliveryState(StrEnum):
    """What became of a notification."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Notification:
    """One notification to one target, as people see it.

    Args:
        reference: what a receiver tells repetitions by.
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


@dataclass(frozen=True, slots=True)
class Waiting:
    """A due notification and how often it was tried."""

    notice: Notice
    attempts: int


class Outbox:
    """The sender's side of the table. One object belongs to one thread.

    Args:
        path: the incident store's file.
        connect: opens the file.
    """

    def __init__(self, path: Path, *, connect: Callable[[Path], Connection] = open_writer) -> None:
        self._path = path
        self._connection = connect(path)

    def due(self, target: str, now_ms: int) -> list[Waiting]:
        """What should go to a target now, oldest first."""
        with explained(self._path):
            rows = self._connection.execute(
                "SELECT reference, kind, severity, attempts, incident_id FROM notifications "
                "WHERE state = 'pending' AND target = ? AND due_ms <= ? ORDER BY created_ms, reference",
                (target, now_ms),
            ).fetchall()
            incidents = incidents_under(self._connection, [row["incident_id"] for row in rows])
        return [
            Waiting(Notice(row["reference"], row["kind"], SEVERITIES[row["severity"]], incident), row["attempts"])
            for row in rows
            if (incident := incidents.get(row["incident_id"]))
        ]

    def sent(self, target: str, references: Sequence[str], now_ms: int) -> None:
        """Note a delivery."""
        self._note("state = 'sent', finished_ms = ?, error = ?", (now_ms, None), target, references)

    def failed(self, target: str, references: Sequence[str], error: str, due_ms: int) -> None:
        """Note a failed attempt; the next is due then."""
        self._note("due_ms = ?, error = ?", (due_ms, error), target, references)

    def given_up(self, target: str, references: Sequence[str], error: str, now_ms: int) -> None:
        """Note that nobody will be told."""
        self._note("state = 'failed', finished_ms = ?, error = ?", (now_ms, error), target, references)

    def retry_failed(self, now_ms: int) -> int:
        """Let notifications that were given up be tried again; returns how many."""
        with transaction(self._connection, self._path):
            return self._connection.execute(
                "UPDATE notifications SET state = 'pending', attempts = 0, due_ms = ?, finished_ms = NULL "
                "WHERE state = 'failed'",
                (now_ms,),
            ).rowcount

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    def _note(self, assignments: str, values: tuple[int, str | None], target: str, references: Sequence[str]) -> None:
        with transaction(self._connection, self._path):
            self._connection.executemany(
                f"UPDATE notifications SET attempts = attempts + 1, {assignments} WHERE target = ? AND reference = ?",
                [(*values, target, reference) for reference in references],
            )


def read_notifications(path: Path, *, incident_id: str | None = None, limit: int | None = None) -> list[Notification]:
    """Notifications, newest first; none as long as there is no store.

    Args:
        path: the incident store's file.
        incident_id: only those about this one, and those about its parts from before they were its parts.
        limit: at most so many; None takes all.
    """
    connection = open_reader(path)
    if connection is None:
        return []
    try:
        with explained(path):
            rows = connection.execute(
                "SELECT * FROM notifications WHERE ?1 IS NULL OR incident_id = ?1 "
                "OR incident_id IN (SELECT scope || '-' || ordinal FROM incidents WHERE root = ?1) "
                "ORDER BY created_ms DESC, reference, target LIMIT ?2",
                (incident_id, -1 if limit is None else limit),
            ).fetchall()
    finally:
        connection.close()
    return [_notification(row) for row in rows]


def retry_failed(path: Path, now_ms: int) -> int:
    """Let notifications that were given up be tried again; returns how many."""
    if not path.is_file():
        return 0
    with closing(Outbox(path)) as outbox:
        return outbox.retry_failed(now_ms)


def _notification(row: sqlite3.Row) -> Notification:
    pending = row["state"] == DeliveryState.PENDING
    return Notification(
        reference=row["reference"],
        target=row["target"],
        incident_id=row["incident_id"],
        kind=row["kind"],
        severity=SEVERITIES[row["severity"]],
        state=DeliveryState(row["state"]),
        attempts=row["attempts"],
        created=from_ms(row["created_ms"]),
        due=from_ms(row["due_ms"]) if pending else None,
        finished=None if row["finished_ms"] is None else from_ms(row["finished_ms"]),
        error=row["error"],
    )
