"""Feeds detections to the tracker, and writes what changed to the store.

The order of one call, and what a crash after each step leaves:

1. The store looks up the last incident of each rule and key that the tracker does not remember. Nothing has changed.
2. The tracker takes the detections; the policy decides of what people are notified. Only memory has changed.
3. The store gets rows and notifications, marked with the generation of the checkpoint that will hold this state.
4. Whoever writes the checkpoint (`pipeline`, or the function's state) puts `snapshot()` into it.

A crash after step 3 leaves rows that are newer than the checkpoint. A restart reconciles them (`restore`): rows that
the restored tracker knows are written again as it has them; those that it does not know stand until the detections have
come again that led to them, and are removed if they have not led to them this time. What people set stays with the id.

`ContextEnricher` asks the recent events about incidents while they are still at hand.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from shopstream.clock import MILLISECOND, Clock, to_ms
from shopstream.detection.detection import SEVERITIES, Detection
from shopstream.errors import StateError
from shopstream.incidents.grouping import GroupingRules
from shopstream.incidents.incident import Change, IncidentChange, TriageStatus, split_id
from shopstream.incidents.notification_policy import NotificationPolicy
from shopstream.incidents.ports import (
    BEFORE_ALL,
    UNCOMMITTED,
    IncidentStore,
    IncidentUpdate,
    LastOrdinal,
    NewNotification,
)
from shopstream.incidents.settings import IncidentSettings, NotifySettings
from shopstream.incidents.tracker import NEVER_MS, IncidentTracker

_LOGGER = logging.getLogger(__name__)
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
        rules = GroupingRules(
            settings.campaign_actors, settings.campaign_within // MILLISECOND, settings.recovery // MILLISECOND
        )
        self.store = store
        self._tracker = IncidentTracker(rules, notify.hold // MILLISECOND)
        self._policy = NotificationPolicy(notify, settings.campaign_within, clock, targets)
        self._retention_ms = settings.retention // MILLISECOND
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

        Incidents of the checkpoint that the store lacks are written again. A store that is further ahead than a crash
        explains is refused if it holds newer states of these incidents; otherwise its rows are left alone.

        Args:
            snapshot: None where the checkpoint has none, or there is no checkpoint.
            generation: the checkpoint's; 0 where there is none.

        Raises:
            StateError: the snapshot is damaged, or the store belongs to a later checkpoint.
        """
        if snapshot is not None:
            self._tracker.restore(snapshot)
            self._unsure, self._sure_ms = set(snapshot["unsure"]), snapshot["sure_ms"]
        self._restored = True
        self.begin(generation + 1)
        remembered = self._tracker.remembered
        if lost := remembered - self.store.statuses(remembered).keys():
            self._tracker.rewrite(remembered)
            _LOGGER.warning(
                "the incident store lacks %d incidents of the checkpoint: it was removed, or is an older copy; they "
                "are written again, but older incidents, statuses and comments are lost",
                len(lost),
            )
        newer = self.store.written_after(generation)
        if any((row.generation & _GENERATION) > (generation & _GENERATION) + UNCOMMITTED for row in newer):
            if remembered.intersection(row.id for row in newer):
                raise StateError(
                    "the incident store belongs to a later checkpoint than this one and holds newer states of its "
                    "incidents; restore both from one copy, or move the incident store away"
                )
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
        unsure: dict[str, int] = {}
        for scope, ordinal in map(split_id, self._unsure):
            unsure[scope] = min(ordinal, unsure.get(scope, ordinal))
        for scope in unsure.keys() & found.keys():
            if unsure[scope] <= found[scope].ordinal:
                previous = unsure[scope] - 1
                found[scope] = LastOrdinal(previous, self._last_event_ms(f"{scope}-{previous}"))
        return found

    def _last_event_ms(self, incident_id: str) -> int:
        """When the last event of an episode was; BEFORE_ALL if retention has removed the episode."""
        try:
            found = self.store.get(incident_id)
        except StateError:
            return BEFORE_ALL
        episode = found if found.parent else self.store.parts(found.id)[0]
        return to_ms(episode.last_event_time)

    def _settled(self, ids: Iterable[str]) -> set[str]:
        """Incidents that people have resolved, or called a false positive."""
        over = {TriageStatus.RESOLVED, TriageStatus.FALSE_POSITIVE}
        return {one for one, status in self.store.statuses(ids).items() if status in over}


_AT_ONCE: Final = 5
"""So many are asked about in a step, the gravest and earliest first: asking takes milliseconds, and the stream waits.
For the others `shopstream incidents show` asks the lake."""

_GROWTH: Final = 1.5
"""Asked again when the peak has grown by so much."""


class RecentWindow(Protocol):
    """Knows the newest events; see `engine.recent.RecentEvents`."""

    def describe(self, key: Mapping[str, str], from_ms: int, to_ms: int) -> Mapping[str, object] | None:
        """What the events of a key in a time are; None where none is remembered."""
        ...


class ContextEnricher:
    """Adds context from the recent events to incidents.

    Args:
        store: keeps the answers.
        recent: the newest events.
    """

    def __init__(self, store: IncidentStore, recent: RecentWindow) -> None:
        self._store = store
        self._recent = recent
        self._peaks: dict[str, float] = {}

    def enrich(self, changes: Sequence[IncidentChange]) -> int:
        """Ask about what has opened or grown; returns how many that were too many for one step."""
        wanted = []
        for change in changes:
            if change.change in {Change.CLOSED, Change.ABSORBED}:
                self._peaks.pop(change.incident_id, None)
            elif change.change is Change.OPENED or self._has_grown(change):
                wanted.append(change)
        wanted.sort(key=_urgency)
        for change in wanted[:_AT_ONCE]:
            found = self._recent.describe(change.key, change.from_ms, change.to_ms)
            if found is not None:
                self._store.set_context(change.incident_id, found)
                self._peaks[change.incident_id] = change.peak
        return max(len(wanted) - _AT_ONCE, 0)

    def _has_grown(self, change: IncidentChange) -> bool:
        known = self._peaks.get(change.incident_id)
        return known is not None and change.peak > known * _GROWTH


def _urgency(change: IncidentChange) -> tuple[bool, int, int, str]:
    part = change.root != change.incident_id
    return part, -SEVERITIES.index(change.severity), change.from_ms, change.incident_id
