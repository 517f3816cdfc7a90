"""One verdict on one window."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Detection", "Severity"]


class Severity(StrEnum):
    """How bad it is, in Sigma's words."""

    INFORMATIONAL = "informational"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Detection:
    """One verdict on one window; the id derives from rule, key and window, so that a replay finds the same.

    Args:
        detection_id: hex text.
        rule_id, rule_version: the rule, and a digest of its file's content.
        key_kind: `site`, or the key columns joined by `+`, e.g. `user_id`.
        key: key column → value as text; empty for the site.
        start_ms, end_ms: the window, [start, end), epoch milliseconds of event time.
        first_event_ms, last_event_ms: span of the events inside it.
        measures: measure name → observed value, JSON-ready.
        threshold: the rule's condition, as text.
        final: False while the window is open; a later detection with the same id replaces this one.
        suppress_for_ms: quiet event time after which the rule's incident closes.
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
