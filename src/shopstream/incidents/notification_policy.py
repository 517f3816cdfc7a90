"""Decides when people are notified: once when an incident opens, again only when its severity rises.

What is not critical waits for the hold time, so that the actors of a campaign, or what a wider incident takes in,
become one incident first. Where people were notified of something that this may yet be part of, it waits for
`campaign_within`. Time is the watermark's or the clock's, whichever is over first: a stream that stands still holds
nothing back.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Final

from shopstream.clock import MILLISECOND, Clock
from shopstream.detection.detection import SEVERITIES, Severity
from shopstream.incidents.incident import Change
from shopstream.incidents.ports import NewNotification
from shopstream.incidents.record import IncidentSummary
from shopstream.incidents.settings import NotifySettings
from shopstream.incidents.tracker import NEVER_MS, IncidentTracker

_CRITICAL: Final = SEVERITIES.index(Severity.CRITICAL)


class NotificationPolicy:
    """One object belongs to one tracker.

    Args:
        settings: of what people are notified, and when.
        campaign_within: how long others may join what people were notified of.
        clock: processing time.
        targets: names of the channels; without any, nothing is decided.
    """

    def __init__(
        self, settings: NotifySettings, campaign_within: timedelta, clock: Clock, targets: Sequence[str]
    ) -> None:
        self._clock = clock
        self._targets = tuple(targets)
        self._least = SEVERITIES.index(settings.severity)
        self._closed_too = settings.closed
        self._hold_ms = settings.hold // MILLISECOND
        self._chain_hold_ms = max(self._hold_ms, campaign_within // MILLISECOND)
        self._held: dict[str, int] = {}  # root → processing time that is waited for at most
        self._next_watermark_ms = self._next_now_ms = NEVER_MS

    def due(self, watermark_ms: int) -> bool:
        """Whether something that was held back may be due."""
        return watermark_ms >= self._next_watermark_ms or (
            self._next_now_ms < NEVER_MS and self._clock.now_ms() >= self._next_now_ms
        )

    def decide(
        self, tracker: IncidentTracker, watermark_ms: int, settled: Callable[[Iterable[str]], set[str]]
    ) -> list[NewNotification]:
        """What is due: of incidents that have changed, and of those that were held back.

        Args:
            tracker: knows the incidents; learns of what people were notified.
            watermark_ms: event time up to which detection has run.
            settled: which of these incidents people have resolved or called a false positive: they know of those.
        """
        waiting = {summary.id: summary for summary in tracker.summaries()}
        if not self._targets:
            return []
        for root in self._held:
            if root not in waiting and (summary := tracker.summary(root)):
                waiting[root] = summary
        self._held, held = {}, self._held
        self._next_watermark_ms = self._next_now_ms = NEVER_MS
        due = list(self._due(waiting.values(), tracker, held, watermark_ms))
        known = settled([summary.id for summary, _ in due]) if due else set()
        found: list[NewNotification] = []
        for summary, kind in due:
            if kind is not Change.CLOSED:
                sent = summary.id not in known
                tracker.set_notified(summary.id, summary.severity, sent=sent)
                if not sent:
                    continue
            severity = SEVERITIES[summary.severity]
            found += [NewNotification(summary.id, kind, severity, target) for target in self._targets]
        return found

    def _due(
        self, waiting: Iterable[IncidentSummary], tracker: IncidentTracker, held: dict[str, int], watermark_ms: int
    ) -> Iterable[tuple[IncidentSummary, Change]]:
        relevant = [summary for summary in waiting if summary.severity >= self._least]
        chains = tracker.notified_chains() if any(not one.notified_severity for one in relevant) else {}
        for summary in sorted(relevant, key=lambda one: (one.detected_ms, one.id)):
            if summary.notified_severity:
                if summary.severity >= summary.notified_severity:
                    yield summary, Change.RAISED
            elif self._is_time(summary, chains.get(summary.chain, set()), held.get(summary.id), watermark_ms):
                yield summary, Change.OPENED
                chains.setdefault(summary.chain, set()).add(summary.id)
            if self._closed_too and summary.closed and summary.id not in self._held:
                yield summary, Change.CLOSED

    def _is_time(
        self, summary: IncidentSummary, notified: set[str], waits_until_ms: int | None, watermark_ms: int
    ) -> bool:
        critical = summary.severity == _CRITICAL
        hold_ms = 0 if critical else self._chain_hold_ms if notified - {summary.id} else self._hold_ms
        now_ms = self._clock.now_ms()
        deadline_ms = now_ms + hold_ms if waits_until_ms is None else waits_until_ms
        if watermark_ms >= summary.detected_ms + hold_ms or now_ms >= deadline_ms:
            return True
        self._held[summary.id] = deadline_ms
        self._next_watermark_ms = min(self._next_watermark_ms, summary.detected_ms + hold_ms)
        self._next_now_ms = min(self._next_now_ms, deadline_ms)
        return False
