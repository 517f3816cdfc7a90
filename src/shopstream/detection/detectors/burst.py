"""Detector 2: pulses, which are over before a volume test has seen two bins.

In the last five minutes (30 bins of 10 s) the Fano factor, variance over mean, is above 4 where genuine traffic has
about 1, and at least three separate peaks stand out of the quieter half of the bins: a ramp or a step has one. Twice in
a row, at bins of which each ends a peak or follows one.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.detection.detector import BIN_MS, AlertTemplate, OpenAlert, interval
from shopstream.detection.detectors.site_state import SILENCE_ODDS, SiteState
from shopstream.engine.signals import Signal
from shopstream.engine.window import WindowDeclaration
from shopstream.errors import StateError

__all__ = ["BurstDetector"]

_VERSION: Final = 1
_BINS: Final = 30
_FANO: Final = 4.0
_PEAK: Final = 5.0
_PEAKS: Final = 3
_BACK: Final = 0.35
"""Between two peaks it falls back below this share of the highest."""
_WINDOWS: Final = 2
_FINDING = AlertTemplate(
    "burst",
    "burst-1",
    "Pulses: short floods again and again",
    ("owasp.oat-015", "attack.t1498", "attack.t1499"),
    Nature.ATTACK,
    "Fano factor of 10 s bins over 5 min > 4 and 3 peaks, twice",
    900_000,
)


def _peaks(values: Sequence[float], limit: float, back: float) -> int:
    """How often the values rise above the limit after they were back."""
    peaks, low = 0, True
    for value in values:
        if low and value > max(limit, back):
            peaks, low = peaks + 1, False
        elif value < back:
            low = True
    return peaks


class BurstDetector:
    """Pulses of the site's volume.

    Warm-up: five minutes. Minimum volume: peaks of 20 events in 10 s.

    Args:
        site: the site's state.
    """

    id: Final = "burst"
    windows: Sequence[WindowDeclaration] = ()
    other_signals: Sequence[str] = ()

    def __init__(self, site: SiteState) -> None:
        self._site = site
        self._spell = OpenAlert()
        self._hits = 0
        self._bins: deque[float] = deque(maxlen=_BINS)

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:  # noqa: ARG002  the volume detector has read them
        """One bin."""
        site = self._site
        if site.silent or site.recovering(end_ms):
            self._bins.clear()
            return []
        self._bins.append(site.recent[-1])
        if len(self._bins) < _BINS:
            return []
        quiet = sorted(self._bins)[: _BINS // 2]
        base = sum(quiet) / len(quiet) + 1
        limit = base + _PEAK * math.sqrt(base + (0.1 * base) ** 2)
        values = list(self._bins)
        tops = [value for value in values if value > limit]
        peaks = _peaks(values, limit, base + _BACK * (max(values) - base))
        mean = sum(values) / _BINS
        fano = sum((value - mean) ** 2 for value in values) / max(mean, 1.0) / (_BINS - 1)
        if fano <= _FANO or peaks < _PEAKS or len(tops) > _BINS // 2 or max(values) < SILENCE_ODDS:
            self._hits = 0
            if not tops:
                self._spell.end()
            return []
        if values[-1] > limit or values[-2] > limit:
            self._hits += 1
        if self._hits < _WINDOWS:
            return []
        span = self._spell.span(end_ms - _BINS * BIN_MS, end_ms)
        return [] if span is None else [self._told(span, base, tops, fano)]

    def _told(self, span: tuple[int, int], base: float, tops: list[float], fano: float) -> Detection:
        top = sum(tops) / len(tops)
        excess = sum(value - base for value in tops)
        variance = base + (0.1 * base) ** 2
        return _FINDING.detection(
            Severity.HIGH,
            {},
            span,
            {"fano": fano, "peak": top, "base": base, "factor": top / base},
            {
                **interval(base, variance),
                "score": (top - base) / math.sqrt(variance),
                "contributions": {"fano": 1.0},
                "excess_events": excess,
                "genuine_share": base / top,
                "confidence": 1 - math.exp(-fano / _FANO),
                "baseline_age_ms": 0,
                "forecast_error": self._site.total.forecast.error,
            },
        )

    def snapshot(self) -> Mapping[str, object]:
        """Bins and spell."""
        return {
            "version": _VERSION,
            "bins": list(self._bins),
            "hits": self._hits,
            "spell": self._spell.snapshot(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a snapshot.

        Raises:
            StateError: it is of another version.
        """
        if state.get("version") != _VERSION:
            raise StateError("the burst detector's snapshot is of another version; it begins afresh")
        self._bins = deque(state["bins"], maxlen=_BINS)
        self._hits = state["hits"]
        self._spell = OpenAlert.of(state["spell"])
