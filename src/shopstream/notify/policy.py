"""Decides who hears of what: once when an incident opens, again only when it gets a graver class.

What is not critical waits for `notify_hold`, so that the actors of a campaign, or what a wider incident takes in,
become one incident first. Where people were told of something that this may yet be part of, it waits for
`campaign_within`. Time is the watermark's or the clock's, whichever is over first: a stream that stands still holds
nothing back.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final

from shopstream.clock import Clock
from shopstream.detection.detection import Severity
from shopstream.incidents.episode import SEVERITIES
from shopstream.incidents.incident import Change, Handling
from shopstream.incidents.settings import AlertingSettings
from shopstream.incidents.tracker import Head, Heads

__all__ = ["NotificationPolicy"]

_MS: Final = timedelta(milliseconds=1)
_NEVER: Final = 1 << 62
_CRITICAL: Final = SEVERITIES.index(Severity.CRITICAL)


class NotificationPolicy:
    """Queues notifications. One object belongs to one store; used inside its transactions.

    Args:
        connection: of the store.
        settings: who is told of what.
        clock: processing time.
        targets: names of the channels that notifications are queued for.
    """

    def __init__(
        self, connection: sqlite3.Connection, settings: AlertingSettings, clock: Clock, targets: Sequence[str]
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._targets = tuple(targets)
        self._least = SEVERITIES.index(settings.notify_severity)
        self._closed_too = settings.notify_closed
        self._hold_ms = settings.notify_hold // _MS
        self._chain_hold_ms = max(self._hold_ms, settings.campaign_within // _MS)
        self._held: dict[str, int] = {}  # head → processing time that is waited for at most
        self._next_watermark_ms = self._next_now_ms = _NEVER

    def due(self, watermark_ms: int) -> bool:
        """Whether something that was held back may have to be told."""
        return watermark_ms >= self._next_watermark_ms or (
            self._next_now_ms < _NEVER and self._clock.now_ms() >= self._next_now_ms
        )

    def tell(self, changed: Iterable[Head], heads: Heads, watermark_ms: int) -> None:
        """Queue what is due: of heads that have changed, and of those that were held back."""
        if not self._targets:
            return
        waiting = {head.id: head for head in changed}
        for root in self._held:
            if root not in waiting and (head := heads.head(root)):
                waiting[root] = head
        self._held, held = {}, self._held
        self._next_watermark_ms = self._next_now_ms = _NEVER
        open_heads = [head for head in waiting.values() if self._least <= head.severity and not head.told]
        chains = heads.told_chains() if open_heads else {}
        for head in sorted(waiting.values(), key=lambda one: (one.detected_ms, one.id)):
            if head.severity < self._least:
                continue
            if head.told:
                if head.severity >= head.told:
                    self._queue(head, heads, Change.RAISED)
            elif self._is_time(head, chains.get(head.chain, set()), held.get(head.id), watermark_ms):
                self._queue(head, heads, Change.OPENED)
                chains.setdefault(head.chain, set()).add(head.id)
            if self._closed_too and head.closed and head.id not in self._held:
                self._insert(head, Change.CLOSED)

    def _is_time(self, head: Head, told: set[str], waits_until_ms: int | None, watermark_ms: int) -> bool:
        hold_ms = 0 if head.severity == _CRITICAL else self._chain_hold_ms if told - {head.id} else self._hold_ms
        now_ms = self._clock.now_ms()
        deadline_ms = now_ms + hold_ms if waits_until_ms is None else waits_until_ms
        if watermark_ms >= head.detected_ms + hold_ms or now_ms >= deadline_ms:
            return True
        self._held[head.id] = deadline_ms
        self._next_watermark_ms = min(self._next_watermark_ms, head.detected_ms + hold_ms)
        self._next_now_ms = min(self._next_now_ms, deadline_ms)
        return False

    def _queue(self, head: Head, heads: Heads, kind: Change) -> None:
        scope, _, ordinal = head.id.partition("-")
        row = self._connection.execute(
            "SELECT handling FROM incidents WHERE scope = ? AND ordinal = ?", (scope, int(ordinal))
        ).fetchone()
        if row["handling"] not in {Handling.RESOLVED, Handling.FALSE_POSITIVE}:  # somebody knows all about it
            self._insert(head, kind)
        heads.tell(head.id, head.severity + 1)

    def _insert(self, head: Head, kind: Change) -> None:
        # A severity is raised more than once, but to each height once; a repetition after a crash is told once.
        reference = f"{head.id}:{kind}" + (f":{SEVERITIES[head.severity]}" if kind is Change.RAISED else "")
        now_ms = self._clock.now_ms()
        self._connection.executemany(
            "INSERT INTO notifications (reference, target, incident_id, kind, severity, due_ms, created_ms) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [(reference, target, head.id, kind, head.severity, now_ms, now_ms) for target in self._targets],
        )
