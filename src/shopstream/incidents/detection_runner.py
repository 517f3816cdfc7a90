"""From signals to incidents: rules, detectors, allow-lists and the incident store, wherever they run.

The engine's process has this at hand, or puts its signals into a stream (`publishing`) and a function has it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from shopstream.detection.allowlist import AllowList
from shopstream.detection.detection import Detection
from shopstream.detection.detector_runner import DetectorRunner
from shopstream.detection.rule_matcher import Rules, detect
from shopstream.engine.signals import Quiet, Signal
from shopstream.incidents.incident import IncidentChange
from shopstream.incidents.ports import IncidentStore

__all__ = ["DetectionResult", "DetectionRunner", "Judging"]


@dataclass(frozen=True, slots=True)
class DetectionResult:
    """What came of signals.

    Args:
        detections: all, those that an allow-list covers marked as such.
        changes: what happened to incidents.
        late_signals: those that came after their bin had been handed to the detectors.
    """

    detections: Sequence[Detection] = ()
    changes: Sequence[IncidentChange] = ()
    late_signals: int = 0

    @property
    def final(self) -> list[Detection]:
        """Detections on windows that are whole."""
        return [detection for detection in self.detections if detection.final]


class DetectionRunner(Protocol):
    """Takes an engine's signals."""

    def judge(self, signals: Sequence[Signal], until_ms: int, quiet: Quiet | None = None) -> DetectionResult:
        """Signals of one moment, in the engine's order.

        Args:
            signals: all since the call before.
            until_ms: event time up to which everything is told; never goes back.
            quiet: how far the clock has gone on without events; None where some come.
        """
        ...

    def snapshot(self) -> Mapping[str, object] | None:
        """State that belongs into the engine's checkpoint, JSON-ready; None where it is kept elsewhere."""
        ...

    def restore(self, state: Mapping[str, object]) -> list[str]:
        """Go on from a snapshot; returns what begins afresh."""
        ...


class Judging:
    """DetectionRunner here and now. The same signals again, after a crash, give the same incidents.

    Args:
        rules: rule id → rule, those that are switched on.
        bank: the detectors.
        allow_list: what it covers is kept and counted, and opens no incident.
        incidents: where detections go.
    """

    def __init__(self, rules: Rules, bank: DetectorRunner, allow_list: AllowList, incidents: IncidentStore) -> None:
        self._rules = rules
        self._bank = bank
        self._allow_list = allow_list
        self._incidents = incidents

    def judge(self, signals: Sequence[Signal], until_ms: int, quiet: Quiet | None = None) -> DetectionResult:
        """See `DetectionRunner.judge`.

        Raises:
            RetryableError: the incident store is busy. The detectors have had these signals: restore the last snapshot
                and give all since then again.
        """
        late = self._bank.late_signals
        found = [*detect(signals, self._rules), *self._bank.advance(signals, until_ms, quiet)]
        detections = self._allow_list.mark(found)
        told = [detection for detection in detections if detection.suppression is None]
        changes = self._incidents.apply(told, until_ms, quiet.until_ms if quiet else None)
        return DetectionResult(detections, changes, self._bank.late_signals - late)

    def snapshot(self) -> dict[str, object]:
        """The detectors' state."""
        return self._bank.snapshot()

    def restore(self, state: Mapping[str, object]) -> list[str]:
        """Ids of detectors that begin afresh.

        Raises:
            StateError: it is no such state.
        """
        return self._bank.restore(state)
