"""How detectors say what they found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.detection.rule_matcher import detection_id

__all__ = ["REPEAT_MS", "Finding", "Spell", "interval"]

REPEAT_MS: Final = 60_000
"""While something goes on, one detection this often says so."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The words of one kind of detection.

    Args:
        rule_id: begins with the detector's id.
        version: of the detector; changes when its decisions do.
        title, tags: for people.
        nature: attack, fault or surge.
        threshold: the decision as text.
        suppress_for_ms: quiet time after which the incident closes.
    """

    rule_id: str
    version: str
    title: str
    tags: tuple[str, ...]
    nature: Nature
    threshold: str
    suppress_for_ms: int = 600_000

    def detection(
        self,
        severity: Severity,
        key: Mapping[str, str],
        span_ms: tuple[int, int],
        measures: Mapping[str, object],
        evidence: Mapping[str, object],
    ) -> Detection:
        """One detection; `span_ms` is its window, [start, end)."""
        start_ms, end_ms = span_ms
        return Detection(
            detection_id=detection_id(self.rule_id, key, start_ms),
            rule_id=self.rule_id,
            rule_version=self.version,
            title=self.title,
            severity=severity,
            tags=self.tags,
            key_kind="+".join(key) or "site",
            key=dict(key),
            start_ms=start_ms,
            end_ms=end_ms,
            first_event_ms=start_ms,
            last_event_ms=end_ms - 1,
            measures={name: _short(value) for name, value in measures.items()},
            threshold=self.threshold,
            final=True,
            suppress_for_ms=self.suppress_for_ms,
            nature=self.nature,
            evidence={name: _short(value) for name, value in evidence.items() if value is not None},
        )


def interval(expected: float, variance: float) -> dict[str, float]:
    """`expected`, `low` and `high`: three standard deviations to each side."""
    wide = 3 * variance**0.5
    return {"expected": expected, "low": max(0.0, expected - wide), "high": expected + wide}


def _short(value: object) -> object:
    """Four significant digits are enough for people, and the same on every machine."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {name: _short(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_short(part) for part in value]
    return value


@dataclass(slots=True)
class Spell:
    """Something that goes on: since when, and when it was last told."""

    since_ms: int | None = None
    told_ms: int = 0

    def span(self, start_ms: int, end_ms: int) -> tuple[int, int] | None:
        """The window to tell of now; None while the last telling is fresh.

        Args:
            start_ms: where it began, if it was not going on yet.
            end_ms: of the current bin.
        """
        if self.since_ms is None:
            self.since_ms, self.told_ms = start_ms, end_ms
            return start_ms, end_ms
        if end_ms - self.told_ms < REPEAT_MS:
            return None
        window = self.told_ms, end_ms
        self.told_ms = end_ms
        return window

    def end(self) -> None:
        """It is over."""
        self.since_ms = None

    def snapshot(self) -> list[int | None]:
        """JSON-ready."""
        return [self.since_ms, self.told_ms]

    @staticmethod
    def of(state: list[int | None]) -> "Spell":
        """From a snapshot."""
        return Spell(state[0], state[1] or 0)
