"""Detections: verdicts on single windows; and the row of the lake's table for each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Final

from shopstream.detection.wording import fill_title, subject


class Severity(StrEnum):
    """Severity, in Sigma's terms."""

    INFORMATIONAL = "informational"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Nature(StrEnum):
    """The kind of cause."""

    ATTACK = "attack"
    FAULT = "fault"
    """Broken data or business: silence, duplicates, a wrong price, a collapse of purchases."""
    SURGE = "surge"
    """Many more genuine shoppers: no threat."""


SEVERITIES: Final = tuple(Severity)
"""From the least to the most severe; stores keep the index."""


@dataclass(frozen=True, slots=True)
class Suppression:
    """Why a detection opens no incident.

    Args:
        entry: of the allow-list, `file.id`.
        reason: the entry's.
    """

    entry: str
    reason: str


@dataclass(frozen=True, slots=True)
class Detection:
    """One verdict on one window. The id derives from rule, key and window, so that a replay gives the same id.

    Args:
        detection_id: hex text.
        rule_id, rule_version: the rule or detector; the version of a rule is a digest of its file.
        title: what was found, with fields as in `wording.fill_title`.
        key_kind: `site`, or the key columns joined by `+`, e.g. `user_id`.
        key: key column → value as text; empty for the site.
        start_ms, end_ms: the window, [start, end), epoch milliseconds of event time.
        first_event_ms, last_event_ms: span of the events inside it.
        measures: measure name → observed value, JSON-ready.
        threshold: the rule's condition, as text.
        final: False while the window is open; a later detection with the same id replaces this one.
        suppress_for_ms: quiet event time after which the rule's incident closes.
        nature: attack, fault or surge.
        verdict: on the key's actor: bot, human or unknown; None for no verdict.
        evidence: JSON-ready. A detector fills in what it knows of `expected`, `low`, `high` (the interval), `score`,
            `contributions` (name → share of the score), `excess_events`, `confidence` (0 to 1), `genuine_share`
            (estimated share of genuine events in the affected traffic), `baseline_ms` (length of the
            history), `baseline_age_ms`, `forecast_error`, `composition` (name → [observed, expected]).
        suppression: set by the allow-list; the detection is kept and counted then, but opens no incident.
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


def detection_row(detection: Detection) -> dict[str, object]:
    """Column of `lakehouse.tables.DETECTION_FIELDS` → value, JSON-ready; `_time` columns are epoch microseconds.

    Firehose requires this form for times of Iceberg tables.
    """
    return {
        "detection_id": detection.detection_id,
        "rule_id": detection.rule_id,
        "rule_version": detection.rule_version,
        "title": detection.headline,
        "severity": str(detection.severity),
        "tags": json.dumps(detection.tags, ensure_ascii=False),
        "key_kind": detection.key_kind,
        "key": json.dumps(dict(detection.key), ensure_ascii=False),
        "start_time": detection.start_ms * 1000,
        "end_time": detection.end_ms * 1000,
        "first_event_time": detection.first_event_ms * 1000,
        "last_event_time": detection.last_event_ms * 1000,
        "measures": json.dumps(dict(detection.measures), ensure_ascii=False, default=_decimal_text),
        "threshold": detection.threshold,
        "final": detection.final,
        "suppress_for_ms": detection.suppress_for_ms,
        "allowed_by": detection.suppression.entry if detection.suppression else None,
        "allowed_reason": detection.suppression.reason if detection.suppression else None,
    }


def _decimal_text(value: object) -> str:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"expected JSON-ready measures, got {type(value).__name__}; make it text or a number")
