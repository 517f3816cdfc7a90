"""Hands bins of event time to detectors, in order, whatever the micro-batches were."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from shopstream.detection.detection import Detection
from shopstream.detection.detector import BIN_MS, Detector
from shopstream.engine.signals import Signal
from shopstream.engine.window import WindowDeclaration, WindowKind
from shopstream.errors import RuleError, StateError

if TYPE_CHECKING:  # a process that judges signals has no engine
    from shopstream.engine.engine import Engine
    from shopstream.engine.operators import WindowOperator

__all__ = ["DetectorRunner", "OperatorFactory"]

_PATIENCE: Final = 24 * 3_600_000 // BIN_MS
"""After so many empty bins in a row (a day) one each `_STRIDE_MS` is enough, until something happens again."""
_STRIDE_MS: Final = 3_600_000

OperatorFactory = Callable[["Engine"], "WindowOperator"]
"""Makes an operator inside of an engine's database; detectors read its signals by their window's name."""


class DetectorRunner:
    """Several detectors at work on one stream of signals.

    The first bin is that of the first signal. Bins in which nothing happened are handed over too, each one; when a
    whole day of them has passed, only one an hour until the next signal, so that years of nothing cost little.

    Args:
        detectors: in the order in which their detections come.
        operators: further sources of signals that no declaration can express; `attach` gives them to an engine.

    Raises:
        RuleError: two detectors have one id, a window does not end on bins, or two different windows share a name.
    """

    def __init__(self, detectors: Sequence[Detector], operators: Sequence[OperatorFactory] = ()) -> None:
        self._detectors = tuple(detectors)
        self._operators = tuple(operators)
        ids = [detector.id for detector in self._detectors]
        if len(set(ids)) != len(ids):
            raise RuleError(f"expected each detector id once, got {', '.join(sorted(ids))}; rename one")
        self._declarations: dict[str, WindowDeclaration] = {}
        self._readers: dict[str, list[tuple[int, str]]] = {}
        for place, detector in enumerate(self._detectors):
            for declaration in detector.windows:
                self._readers.setdefault(self._register(detector, declaration), []).append((place, declaration.name))
            for name in detector.other_signals:
                self._readers.setdefault(name, []).append((place, name))
        self._next_ms: int | None = None
        self._empty = 0
        self.late_signals = 0
        """Signals of bins that had been handed over already: only live, when the clock went on through a silence."""

    def _register(self, detector: Detector, declaration: WindowDeclaration) -> str:
        """The name under which the engine computes it; the first of equal ones."""
        if declaration.kind is WindowKind.SESSION or declaration.slide_ms % BIN_MS:
            raise RuleError(
                f"detector {detector.id}: window {declaration.name} must be tumbling or sliding by a multiple of "
                f"{BIN_MS} ms, got {declaration.kind} by {declaration.slide_ms} ms"
            )
        for name, known in self._declarations.items():
            if replace(known, name=declaration.name) == declaration:
                return name
        if declaration.name in self._declarations:
            raise RuleError(
                f"detector {detector.id}: another detector has a different window named {declaration.name}; rename one"
            )
        self._declarations[declaration.name] = declaration
        return declaration.name

    @property
    def declarations(self) -> tuple[WindowDeclaration, ...]:
        """What an engine has to compute, each window once."""
        return tuple(self._declarations.values())

    @property
    def reads(self) -> frozenset[str]:
        """Windows whose signals a detector reads, by the names under which they come."""
        return frozenset(self._readers)

    @property
    def detectors(self) -> tuple[Detector, ...]:
        """In order."""
        return self._detectors

    @property
    def operators(self) -> tuple[OperatorFactory, ...]:
        """What `attach` gives to an engine."""
        return self._operators

    def attach(self, engine: "Engine") -> None:
        """Give the engine the operators that no declaration can express; before it processes or restores anything."""
        for factory in self._operators:
            engine.attach(factory(engine), advance=True)

    def advance(self, signals: Iterable[Signal], watermark_ms: int) -> list[Detection]:
        """Hand over every bin that ends at or before the watermark.

        Args:
            signals: all that the engine gave since the last call; those of other windows and early ones are left out.
            watermark_ms: the engine's, after it gave them; further on in a silence, when the clock went on.

        Returns:
            Detections, ordered by bin, then by detector.
        """
        bins: dict[int, list[list[Signal]]] = {}
        for signal in signals:
            if not signal.final or signal.window not in self._readers:
                continue
            if self._next_ms is not None and signal.end_ms < self._next_ms:
                self.late_signals += 1
                continue
            places = bins.setdefault(signal.end_ms, [[] for _ in self._detectors])
            for place, name in self._readers[signal.window]:
                places[place].append(signal if name == signal.window else replace(signal, window=name))
        if self._next_ms is None:
            if not bins:
                return []
            self._next_ms = min(bins)
        detections: list[Detection] = []
        for end_ms in sorted(bins):
            self._hand_empty(end_ms, detections)
            self._hand(end_ms, bins[end_ms], detections)
            self._empty = 0
        self._hand_empty(watermark_ms // BIN_MS * BIN_MS + BIN_MS, detections)
        return detections

    def _hand_empty(self, until_ms: int, detections: list[Detection]) -> None:
        """Bins before `until_ms` in which nothing happened."""
        nothing: list[list[Signal]] = [[] for _ in self._detectors]
        while self._next_ms is not None and self._next_ms < until_ms:
            if self._empty < _PATIENCE:
                self._empty += 1
                self._hand(self._next_ms, nothing, detections)
                continue
            hour_ms = -(-self._next_ms // _STRIDE_MS) * _STRIDE_MS
            if hour_ms < until_ms:
                self._hand(hour_ms, nothing, detections)
            else:
                self._next_ms = until_ms

    def _hand(self, end_ms: int, places: list[list[Signal]], detections: list[Detection]) -> None:
        for detector, signals in zip(self._detectors, places, strict=True):
            if len(signals) > 1:
                signals.sort(key=_place)
            detections += detector.observe(end_ms, signals)
        self._next_ms = end_ms + BIN_MS

    def snapshot(self) -> dict[str, object]:
        """State of the bank and its detectors, JSON-ready."""
        return {
            "next_ms": self._next_ms,
            "empty": self._empty,
            "detectors": {detector.id: dict(detector.snapshot()) for detector in self._detectors},
        }

    def restore(self, state: Mapping[str, object]) -> list[str]:
        """Go on from a snapshot.

        Returns:
            Ids of detectors that begin afresh: new ones, and those whose snapshot another version made.
        """
        next_ms, empty, held = state.get("next_ms"), state.get("empty"), state.get("detectors")
        if not (next_ms is None or isinstance(next_ms, int)) or not isinstance(held, Mapping):
            raise StateError("expected detector state with next_ms and detectors; start from an older checkpoint")
        self._next_ms = next_ms
        self._empty = empty if isinstance(empty, int) else 0
        fresh = []
        for detector in self._detectors:
            if detector.id not in held:
                fresh.append(detector.id)
                continue
            try:
                detector.restore(held[detector.id])
            except StateError:
                fresh.append(detector.id)
        return fresh


def _place(signal: Signal) -> tuple[str, tuple[str, ...]]:
    return signal.window, tuple(map(str, signal.key.values()))
