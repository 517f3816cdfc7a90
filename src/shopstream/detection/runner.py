"""From signals to detections: rules, detectors and allow-lists, in the engine's process or in a function."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from shopstream.detection.allowlist import AllowList
from shopstream.detection.detection import Detection
from shopstream.detection.detector_runner import DetectorRunner
from shopstream.detection.rule_matcher import Rules, detect
from shopstream.engine.signals import Quiet, Signal

__all__ = ["DetectionResult", "DetectionRunner", "LocalDetectionRunner"]


@dataclass(frozen=True, slots=True)
class DetectionResult:
    """What came of signals.

    Args:
        detections: final and provisional ones; those that an allow-list covers are marked as such.
        late_signals: those that came after their bin had been handed to the detectors.
    """

    detections: Sequence[Detection] = ()
    late_signals: int = 0

    @property
    def final(self) -> list[Detection]:
        """Detections on windows that are whole."""
        return [detection for detection in self.detections if detection.final]


class DetectionRunner(Protocol):
    """Takes an engine's signals."""

    def run(self, signals: Sequence[Signal], until_ms: int, quiet: Quiet | None = None) -> DetectionResult:
        """Signals of one moment, in the engine's order.

        Args:
            signals: all since the call before.
            until_ms: event time up to which all signals have come; never goes back.
            quiet: how far the clock has gone on without events; None where some come.
        """
        ...

    def snapshot(self) -> Mapping[str, object] | None:
        """State that belongs into the engine's checkpoint, JSON-ready; None where it is kept elsewhere."""
        ...

    def restore(self, state: Mapping[str, object]) -> list[str]:
        """Go on from a snapshot; returns what starts afresh."""
        ...


class LocalDetectionRunner:
    """A DetectionRunner here and now. The same signals again, after a crash, give the same detections.

    Args:
        rules: rule id → rule, those that are switched on.
        detectors: all detectors, run per bin.
        allow_list: marks what it covers.
    """

    def __init__(self, rules: Rules, detectors: DetectorRunner, allow_list: AllowList) -> None:
        self._rules = rules
        self._detectors = detectors
        self._allow_list = allow_list

    def run(self, signals: Sequence[Signal], until_ms: int, quiet: Quiet | None = None) -> DetectionResult:
        """See `DetectionRunner.run`."""
        late = self._detectors.late_signals
        found = [*detect(signals, self._rules), *self._detectors.advance(signals, until_ms, quiet)]
        return DetectionResult(self._allow_list.mark(found), self._detectors.late_signals - late)

    def snapshot(self) -> dict[str, object]:
        """The detectors' state."""
        return self._detectors.snapshot()

    def restore(self, state: Mapping[str, object]) -> list[str]:
        """Ids of detectors that start afresh.

        Raises:
            StateError: it is no such state.
        """
        return self._detectors.restore(state)
