"""Detectors: judgement over signals that needs a memory, where a rule's condition on one window does not do."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from shopstream.detection.detection import Detection
from shopstream.engine.signal import Signal
from shopstream.engine.window import WindowDeclaration

__all__ = ["BIN_MS", "Detector"]

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
