"""Feeds detections to the tracker, and writes what changed to the store.

The order of one call, and what a crash after each step leaves:

1. The store looks up the last incident of each rule and key that the tracker does not remember. Nothing has changed.
2. The tracker takes the detections; the policy decides of what people are notified. Only memory has changed.
3. The store gets rows and notifications, marked with the generation of the checkpoint that will hold this state.
4. Whoever writes the checkpoint (`pipeline`, or the function's state) puts `snapshot()` into it.

A crash after step 3 leaves rows that are newer than the checkpoint. A restart reconciles them (`restore`): rows that
the restored tracker knows are written again as it has them; those that it does not know stand until the detections have
come again that led to them, and are removed if they have not led to them this time. What people set stays with the id.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from shopstream.clock import Clock
from shopstream.detection.detection import Detection
from shopstream.incidents.grouping import GroupingRules
from shopstream.incidents.incident import IncidentChange, TriageStatus, split_id
from shopstream.incidents.notification_policy import NotificationPolicy
from shopstream.incidents.ports import UNCOMMITTED, IncidentStore, IncidentUpdate, LastOrdinal, NewNotification
from shopstream.incidents.settings import IncidentSettings, NotifySettings
from shopstream.incidents.tracker import NEVER_MS, IncidentTracker

__all__ = ["IncidentRecorder"]

_MS: Final = timedelta(milliseconds=1)
_PURGES: Final = 100
"""Retention is looked after this many times in its own length."""

_ORDINALS_KEPT: Final = 3
"""Ids are not given again for so many retentions."""

_GENERATION: Final = (1 << 32) - 1
"""The part of a checkpoint's mark that counts up; see `engine.checkpoint.Manifest.mark`."""


class IncidentRecorder:
    """One object belongs to one thread.

    Args:
        store: where people read incidents.
        settings: grouping and retention.
        notify: of what people are notified, and when.
        clock: for the moments of notifications.
        targets: names of the channels that notifications are queued for.
    """

    def __init__(
        self,
        store: IncidentStore,
        settings: IncidentSettings,
        notify: NotifySettings,
        clock: Clock,
        targets: Sequence[str] = (),
    ) -> None:
        rules = GroupingRules(settings.campaign_actors, settings.campaign_within // _MS, settings.recovery // _MS)
        self.store = store
        self._tracker = IncidentTracker(rules, notify.hold // _MS)
        self._policy = NotificationPolicy(notify, settings.campaign_within, clock, targets)
        self._retention_ms = settings.retention // _MS
        self._next_purge_ms: int | None = None
        self._generation = 1
        self._unsure: set[str] = set()  # rows that the restored tracker does not know
        self._sure_ms = NEVER_MS  # by then they have come again, if they do
        self._restored = False

    def begin(self, generation: int) -> None:
        """What is written from now on will be in this checkpoint."""
        self._generation = generation

    def apply(
        self, detections: Sequence[Detection], watermark_ms: int, clock_ms: int | None = None
    ) -> list[IncidentChange]:
        """See `tracker.IncidentTracker.apply`; without detections and with nothing to do it touches no store.

        Raises:
            RetryableError: the store is busy or full. The tracker has had these detections: restore the last snapshot
                and give all since then again.
        """
        detections = [detection for detection in detections if detection.suppression is None]
        if self._next_purge_ms is None:
            self._next_purge_ms = watermark_ms
        closes = max(watermark_ms, clock_ms or watermark_ms) >= self._tracker.next_close_ms
        due = watermark_ms >= min(self._next_purge_ms, self._sure_ms) or self._policy.due(watermark_ms)
        if not (detections or closes or due or self._restored):
            return []
        first, self._restored = self._restored, False
        last = self._last_ordinals(self._tracker.unknown(detections))
        changes = self._tracker.apply(detections, watermark_ms, last, clock_ms)
        self._put(watermark_ms, self._policy.decide(self._tracker, watermark_ms, self._settled), first=first)
        self._tracker.forget(watermark_ms)
        if watermark_ms >= self._sure_ms:
            self._remove_unsure(watermark_ms)
        if watermark_ms >= self._next_purge_ms:
            before_ms = self._as_of(watermark_ms) - self._retention_ms
            self.store.forget(before_ms, before_ms - (_ORDINALS_KEPT - 1) * self._retention_ms)
            self._next_purge_ms = watermark_ms + self._retention_ms // _PURGES
        return changes

    def snapshot(self) -> dict[str, object]:
        """The tracker's state, and the rows that are not sure yet: the next crash may come before they are."""
        return self._tracker.snapshot() | {"unsure": sorted(self._unsure), "sure_ms": self._sure_ms}

    def restore(self, snapshot: Mapping[str, Any] | None, generation: int) -> None:
        """Go on from a checkpoint, and reconcile what was written after it; for a new recorder only.

        A store that is further than a crash explains belongs to a state that was lost: then incidents go on in it
        under new ids.

        Args:
            snapshot: None where the checkpoint has none, or there is no checkpoint.
            generation: the checkpoint's; 0 where there is none.

        Raises:
            StateError: it is no such state.
        """
        if snapshot is not None:
            self._tracker.restore(snapshot)
            self._unsure, self._sure_ms = set(snapshot["unsure"]), snapshot["sure_ms"]
        self._restored = True
        self.begin(generation + 1)
        newer = self.store.written_after(generation)
        if any((row.generation & _GENERATION) > (generation & _GENERATION) + UNCOMMITTED for row in newer):
            return
        unknown = self._tracker.rewrite(row.id for row in newer)
        closes_ms = [row.closes_ms for row in newer if row.id in unknown]
        if self._unsure:
            closes_ms.append(self._sure_ms)
        self._unsure |= unknown
        self._sure_ms = max(closes_ms, default=NEVER_MS)

    def _put(self, watermark_ms: int, notifications: Sequence[NewNotification], *, first: bool) -> None:
        written = self._tracker.drain()
        if not (written.rows or written.absorbed or notifications or first):
            return
        update = IncidentUpdate(
            generation=self._generation,
            as_of_ms=self._as_of(watermark_ms),
            rows=written.rows,
            absorbed=written.absorbed,
            ordinals=written.ordinals,
            notifications=notifications,
        )
        self.store.put(update)
        self._unsure.difference_update(written.absorbed, (row.record.id for row in written.rows))

    def _remove_unsure(self, watermark_ms: int) -> None:
        """Rows that have not come again, so that their ids may be given to others."""
        scopes = {split_id(one)[0] for one in self._unsure}
        ordinals = self._last_ordinals(scopes)
        ordinals |= {scope: last for scope in scopes if (last := self._tracker.last_ordinal(scope))}
        self.store.remove(self._unsure)
        self.store.put(IncidentUpdate(self._generation, self._as_of(watermark_ms), ordinals=ordinals))
        self._unsure, self._sure_ms = set(), NEVER_MS

    def _as_of(self, watermark_ms: int) -> int:
        """A watermark that is set far ahead to close everything must not make everything old."""
        return min(watermark_ms, self._tracker.newest_close_ms)

    def _last_ordinals(self, scopes: Iterable[str]) -> dict[str, LastOrdinal]:
        """As the checkpoint would have them: rows that are not sure to come again do not count."""
        wanted = set(scopes)
        found = self.store.last_ordinals(wanted) if wanted else {}
        for one in self._unsure:
            scope, ordinal = split_id(one)
            if scope in found and ordinal <= found[scope].ordinal:
                found[scope] = LastOrdinal(ordinal - 1)
        return found

    def _settled(self, ids: Iterable[str]) -> set[str]:
        """Incidents that people have resolved, or called a false positive."""
        over = {TriageStatus.RESOLVED, TriageStatus.FALSE_POSITIVE}
        return {one for one, status in self.store.statuses(ids).items() if status in over}
