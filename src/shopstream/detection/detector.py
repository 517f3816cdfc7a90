"""Detectors: judgement over signals that needs a memory, where a rule's condition on one window does not do.

How detectors say what they found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.detection.rule_matcher import detection_id
from shopstream.engine.signals import Signal
from shopstream.engine.window import WindowDeclaration

__all__ = ["BIN_MS", "REPEAT_MS", "AlertTemplate", "Detector", "OpenAlert", "interval"]

BIN_MS = 10_000
"""Event time is handed to detectors in bins of this length; their windows end on multiples of it."""


class Detector(Protocol):
    """One detector: deterministic, no clock but event time, small state.

    The same bins give the same detections, whatever the batches were: each bin is handed over once, in order, when the
    watermark has passed its end, and so are bins in which nothing happened.
    """

    @property
    def id(self) -> str:
        """Unique among rules and detectors; the `rule_id` of its detections begins with it."""
        ...

    @property
    def windows(self) -> Sequence[WindowDeclaration]:
        """What it wants to see of the events; equal declarations of several detectors are computed once."""
        ...

    @property
    def other_signals(self) -> Sequence[str]:
        """Names of further signals it wants to see, which operators give that the bank attaches to the engine."""
        ...

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:
        """One bin.

        Args:
            end_ms: its end, a multiple of BIN_MS, epoch milliseconds of event time.
            signals: final ones of the detector's windows that end there, ordered by window and key; may be empty.
        """
        ...

    def snapshot(self) -> Mapping[str, object]:
        """Its state, JSON-ready."""
        ...

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from a snapshot.

        Raises:
            StateError: the snapshot is of another version of the detector.
        """
        ...


REPEAT_MS: Final = 60_000
"""While something goes on, one detection this often says so."""


@dataclass(frozen=True, slots=True)
class AlertTemplate:
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
class OpenAlert:
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
    def of(state: list[int | None]) -> "OpenAlert":
        """From a snapshot."""
        return OpenAlert(state[0], state[1] or 0)
