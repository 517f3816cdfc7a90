"""One verdict on one window."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from shopstream.detection.title import fill_title, subject

__all__ = ["Detection", "Nature", "Severity", "Suppression"]


class Severity(StrEnum):
    """How bad it is, in Sigma's words."""

    INFORMATIONAL = "informational"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Nature(StrEnum):
    """What sort of thing was seen; only the first is somebody's doing against the shop."""

    ATTACK = "attack"
    FAULT = "fault"
    """Data or business: silence, duplicates, a price, a collapse of purchases."""
    SURGE = "surge"
    """Many more genuine shoppers: nothing to shield from."""


@dataclass(frozen=True, slots=True)
class Suppression:
    """Why a detection is told to nobody.

    Args:
        entry: of the allow-list, `file.id`.
        reason: the entry's.
    """

    entry: str
    reason: str


@dataclass(frozen=True, slots=True)
class Detection:
    """One verdict on one window; the id derives from rule, key and window, so that a replay finds the same.

    Args:
        detection_id: hex text.
        rule_id, rule_version: the rule, and a digest of its file's content.
        title: what was found, with fields as in `title.fill_title`.
        key_kind: `site`, or the key columns joined by `+`, e.g. `user_id`.
        key: key column → value as text; empty for the site.
        start_ms, end_ms: the window, [start, end), epoch milliseconds of event time.
        first_event_ms, last_event_ms: span of the events inside it.
        measures: measure name → observed value, JSON-ready.
        threshold: the rule's condition, as text.
        final: False while the window is open; a later detection with the same id replaces this one.
        suppress_for_ms: quiet event time after which the rule's incident closes.
        nature: attack, fault or surge.
        verdict: what a hit says of the key's actor: bot, human or unknown; None says nothing.
        evidence: JSON-ready, what led to the verdict; a detector fills in what it knows of `expected`, `low`, `high`
            (the interval), `score`, `contributions` (name → share of the score), `excess_events`, `confidence` (0 to
            1), `genuine_share` (estimated share of genuine events in what was hit), `baseline_age_ms`,
            `forecast_error`, `composition` (name → [observed, expected]).
        suppression: the allow-list's; kept and counted then, no incident.
    """

    detection_id: str
    rule_id: str
    rule_version: str
    title: str
    severity: Severity
    tags: tuple[str, ...]
    key_kind: str
    key: Mapping[str, str]
    start_ms: int
    end_ms: int
    first_event_ms: int
    last_event_ms: int
    measures: Mapping[str, object]
    threshold: str
    final: bool
    suppress_for_ms: int
    nature: Nature = Nature.ATTACK
    verdict: str | None = None
    evidence: Mapping[str, object] = field(default_factory=dict)
    suppression: Suppression | None = None

    @property
    def headline(self) -> str:
        """The title with its figures."""
        return fill_title(self.title, self.key, self.measures, subject(self.key_kind, self.key))
