"""Asks the recent events about incidents while they are still at hand."""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from shopstream.detection.detection import SEVERITIES
from shopstream.incidents.incident import Change, IncidentChange
from shopstream.incidents.ports import IncidentStore

__all__ = ["ContextEnricher", "RecentWindow"]

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
