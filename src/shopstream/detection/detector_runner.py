"""Runs detectors on bins of event time, in order, independently of micro-batches."""

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from shopstream.detection.detection import Detection
from shopstream.detection.detector import BIN_MS, Detector
from shopstream.engine.signals import QUIET, UNWATCHED, Quiet, Signal
from shopstream.engine.window import WindowDeclaration, WindowKind
from shopstream.errors import RuleError, StateError

if TYPE_CHECKING:  # functions that only read signals have no engine
    from shopstream.engine.engine import Engine
    from shopstream.engine.operators import WindowOperator

_LOGGER = logging.getLogger(__name__)

_PATIENCE: Final = 24 * 3_600_000 // BIN_MS
"""After this many consecutive empty bins (a day), one per `_STRIDE_MS` is enough until the next signal."""
_STRIDE_MS: Final = 3_600_000
_STRETCH_MS: Final = 300_000
"""Late signals within this much event time give one warning."""

OperatorFactory = Callable[["Engine"], "WindowOperator"]
"""Creates an operator in an engine's database; detectors read its signals by their window's name."""


class DetectorRunner:
    """Runs several detectors on one stream of signals.

    The first bin is that of the first signal. Empty bins are handed over, too; after a whole day of them, only one per
    hour until the next signal, so that years without events cost little. UNWATCHED time is skipped.

    Without events, the clock advances but the watermark does not. A copy of the detectors then receives empty bins
    after the newest event, and its detections are reported. Once events arrive, the copy is dropped and the detectors
    continue from the watermark. So all events are processed, and a replay gives the same, however late they arrive.

    Args:
        detectors: in the order in which their detections come.
        operators: sources of signals that no declaration can express; `attach` adds them to an engine.

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
        self._unwatched: tuple[int, int] | None = None
        self._ahead: DetectorRunner | None = None
        self._reported_ahead: dict[str, Detection] = {}
        self._late_until_ms = 0
        self.late_signals = 0
        """Signals of bins that were handed over before: repeated ones, or from an older state of the engine."""

    def _register(self, detector: Detector, declaration: WindowDeclaration) -> str:
        """The name under which the engine computes the window: that of the first equal one."""
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
        """The windows that an engine must compute, each once."""
        return tuple(self._declarations.values())

    @property
    def reads(self) -> frozenset[str]:
        """Names of the windows whose signals are read."""
        return frozenset([*self._readers, UNWATCHED])

    @property
    def detectors(self) -> tuple[Detector, ...]:
        """The detectors, in order."""
        return self._detectors

    @property
    def operators(self) -> tuple[OperatorFactory, ...]:
        """Operators that `attach` adds to an engine."""
        return self._operators

    def attach(self, engine: "Engine") -> None:
        """Add the operators to an engine, before it processes or restores anything."""
        for factory in self._operators:
            engine.attach(factory(engine), advance=True)

    def advance(self, signals: Iterable[Signal], watermark_ms: int, quiet: Quiet | None = None) -> list[Detection]:
        """Hand over every bin that ends at or before the watermark.

        Args:
            signals: all signals of the engine since the last call; early ones and those of other windows are ignored.
            watermark_ms: the engine's, after these signals.
            quiet: how far the clock has advanced without events; None if events arrive.

        Returns:
            Detections by bin, then by detector, without those that were reported ahead of the watermark before.
        """
        before_ms = self._next_ms
        detections = [
            one for one in self._advance(signals, watermark_ms) if self._reported_ahead.get(one.detection_id) != one
        ]
        if self._next_ms is None:
            return detections
        if quiet is None or self._next_ms != before_ms:
            self._ahead = None
            self._reported_ahead = {
                id_: one for id_, one in self._reported_ahead.items() if one.end_ms >= self._next_ms
            }
        if quiet is not None:
            for one in self._look_ahead(quiet, self._next_ms):
                if self._reported_ahead.get(one.detection_id) != one:
                    self._reported_ahead[one.detection_id] = one
                    detections.append(one)
        return detections

    def _advance(self, signals: Iterable[Signal], watermark_ms: int) -> list[Detection]:
        bins = self._bins(signals)
        if self._next_ms is None:
            if not bins:
                return []
            self._next_ms = min(bins)
        detections: list[Detection] = []
        for end_ms in sorted(bins):
            self._process_empty(end_ms, detections)
            self._process(end_ms, bins[end_ms], detections)
            self._empty = 0
        self._process_empty(watermark_ms // BIN_MS * BIN_MS + BIN_MS, detections)
        return detections

    def _bins(self, signals: Iterable[Signal]) -> dict[int, list[list[Signal]]]:
        """End of a bin → its signals for each detector."""
        bins: dict[int, list[list[Signal]]] = {}
        late: list[Signal] = []
        for signal in signals:
            if signal.window == UNWATCHED:
                self._unwatched = signal.start_ms, signal.end_ms
            elif signal.window == QUIET:
                self._skip_open_bins(signal)
            elif not signal.final or signal.window not in self._readers:
                continue
            elif self._next_ms is not None and signal.end_ms < self._next_ms:
                late.append(signal)
            else:
                places = bins.setdefault(signal.end_ms, [[] for _ in self._detectors])
                for place, name in self._readers[signal.window]:
                    places[place].append(signal if name == signal.window else replace(signal, window=name))
        if late and self._next_ms is not None:
            self._warn(late, self._next_ms)
        return bins

    def _look_ahead(self, quiet: Quiet, next_ms: int) -> list[Detection]:
        """Detections of a copy in the empty bins from the newest event to `quiet.until_ms`."""
        newest_ms = max(quiet.newest_ms // BIN_MS * BIN_MS + BIN_MS, next_ms - BIN_MS)
        if quiet.until_ms < newest_ms + BIN_MS:
            return []
        signals: list[Signal] = []
        if self._ahead is None:
            self._ahead = copy.deepcopy(self)
            if newest_ms >= next_ms:
                times = (newest_ms - BIN_MS, newest_ms, quiet.newest_ms, quiet.newest_ms)
                signals.append(Signal(QUIET, {}, *times, {}, final=True))
        return self._ahead.advance(signals, quiet.until_ms)

    def _skip_open_bins(self, event: Signal) -> None:
        """Skip the bins up to that of the newest event, whose windows are open, and notify readers of QUIET."""
        for detector in self._detectors:
            if QUIET in detector.other_signals:
                detector.observe(event.end_ms, [event])
        self._next_ms = event.end_ms + BIN_MS

    def _warn(self, late: Sequence[Signal], next_ms: int) -> None:
        self.late_signals += len(late)
        if next_ms >= self._late_until_ms:
            windows = Counter(signal.window for signal in late)
            _LOGGER.warning(
                "detectors skipped %d signals, up to %.0f s late, because they had processed that time before (%s): "
                "the engine restarted from an older checkpoint than the detectors, or repeated its signals. Repeated "
                "signals are harmless; others are missing from detection, and a new run over the stream finds them. "
                "More of them in the next %d minutes of event time are only counted in late_signals",
                len(late),
                max(next_ms - signal.end_ms for signal in late) / 1000,
                ", ".join(f"{window} {count}" for window, count in sorted(windows.items())),
                _STRETCH_MS // 60_000,
            )
        self._late_until_ms = next_ms + _STRETCH_MS

    def _process_empty(self, until_ms: int, detections: list[Detection]) -> None:
        """Hand over the empty bins before `until_ms`."""
        nothing: list[list[Signal]] = [[] for _ in self._detectors]
        while self._next_ms is not None and self._next_ms < until_ms:
            if self._unwatched and self._unwatched[0] <= self._next_ms - BIN_MS and self._next_ms <= self._unwatched[1]:
                self._next_ms = min(until_ms, self._unwatched[1] // BIN_MS * BIN_MS + BIN_MS)
                self._empty = 0
            elif self._empty < _PATIENCE:
                self._empty += 1
                self._process(self._next_ms, nothing, detections)
            elif (hour_ms := -(-self._next_ms // _STRIDE_MS) * _STRIDE_MS) < until_ms:
                self._process(hour_ms, nothing, detections)
            else:
                self._next_ms = until_ms

    def _process(self, end_ms: int, places: list[list[Signal]], detections: list[Detection]) -> None:
        for detector, signals in zip(self._detectors, places, strict=True):
            if len(signals) > 1:
                signals.sort(key=_place)
            detections += detector.observe(end_ms, signals)
        self._next_ms = end_ms + BIN_MS

    def snapshot(self) -> dict[str, object]:
        """State of the runner and its detectors, JSON-ready."""
        return {
            "next_ms": self._next_ms,
            "empty": self._empty,
            "detectors": {detector.id: [detector.version, dict(detector.snapshot())] for detector in self._detectors},
        }

    def restore(self, state: Mapping[str, object]) -> list[str]:
        """Continue from a snapshot.

        Returns:
            Ids of detectors that start empty: new ones, and those whose snapshot has another version.
        """
        next_ms, empty, held = state.get("next_ms"), state.get("empty"), state.get("detectors")
        if not (next_ms is None or isinstance(next_ms, int)) or not isinstance(held, Mapping):
            raise StateError("expected detector state with next_ms and detectors; start from an older checkpoint")
        self._next_ms = next_ms
        self._empty = empty if isinstance(empty, int) else 0
        fresh = []
        for detector in self._detectors:
            version, snapshot = held.get(detector.id, (None, {}))
            if version == detector.version:
                detector.restore(snapshot)
            else:
                fresh.append(detector.id)
        return fresh


def _place(signal: Signal) -> tuple[str, tuple[str, ...]]:
    return signal.window, tuple(map(str, signal.key.values()))
