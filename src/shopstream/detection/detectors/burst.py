"""Detector 2: short floods that are over before a volume test has seen two bins.

Over the last five minutes (30 bins of 10 s), the burstiness (Fano factor: variance over mean) is above 4, where genuine
traffic has about 1, and at least three separate peaks stand out of the quieter half of the bins: a ramp or a step has
one. Both must hold twice, at bins that end a peak or follow one.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.detection.detector import BIN_MS, AlertTemplate, Detector, OpenAlert, interval
from shopstream.detection.detectors.site_state import SILENCE_ODDS, SiteState
from shopstream.engine.signals import Signal

_BINS: Final = 30
_BURSTINESS: Final = 4.0
_PEAK: Final = 5.0
_PEAKS: Final = 3
_BACK: Final = 0.35
"""Between two peaks, the count falls below this share of the highest."""
_WINDOWS: Final = 2
_TEMPLATE: Final = AlertTemplate(
    "burst",
    "burst-1",
    "Repeated short floods: {peaks} peaks in 5 minutes, {factor}x the level between them",
    ("owasp.oat-015", "attack.t1498", "attack.t1499"),
    Nature.ATTACK,
    "burstiness above 4 with 3 separate peaks in 5 min, twice",
    900_000,
)


def _peaks(values: Sequence[float], limit: float, back: float) -> int:
    """How often the values rise above the limit after they fell back."""
    peaks, low = 0, True
    for value in values:
        if low and value > max(limit, back):
            peaks, low = peaks + 1, False
        elif value < back:
            low = True
    return peaks


class BurstDetector(Detector):
    """Repeated short floods of the site.

    Warm-up: five minutes. Minimum volume: peaks of 20 events in 10 s.

    Args:
        site: the site's state.
    """

    id = "burst"

    def __init__(self, site: SiteState) -> None:
        self._site = site
        self._alert = OpenAlert()
        self._hits = 0
        self._bins: deque[float] = deque(maxlen=_BINS)

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:  # noqa: ARG002  `site` has read them
        """See `Detector.observe`."""
        if self._site.silent or self._site.recovering(end_ms):
            self._bins.clear()
            return []
        self._bins.append(self._site.recent[-1])
        if len(self._bins) < _BINS:
            return []
        values = list(self._bins)
        quiet = sorted(values)[: _BINS // 2]
        base = sum(quiet) / len(quiet) + 1
        variance = base + (0.1 * base) ** 2
        limit = base + _PEAK * math.sqrt(variance)
        tops = [value for value in values if value > limit]
        peaks = _peaks(values, limit, base + _BACK * (max(values) - base))
        mean = sum(values) / _BINS
        burstiness = sum((value - mean) ** 2 for value in values) / max(mean, 1.0) / (_BINS - 1)
        if burstiness <= _BURSTINESS or peaks < _PEAKS or len(tops) > _BINS // 2 or max(values) < SILENCE_ODDS:
            self._hits = 0
            if not tops:
                self._alert.close()
            return []
        if values[-1] > limit or values[-2] > limit:
            self._hits += 1
        if self._hits < _WINDOWS:
            return []
        window = self._alert.window(end_ms - _BINS * BIN_MS, end_ms)
        if window is None:
            return []
        top = sum(tops) / len(tops)
        evidence = {
            **interval(base, variance),
            "score": (top - base) / math.sqrt(variance),
            "contributions": {"burstiness": 1.0},
            "excess_events": sum(value - base for value in tops),
            "genuine_share": base / top,
            "confidence": 1 - math.exp(-burstiness / _BURSTINESS),
            "baseline_age_ms": 0,
            "forecast_error": self._site.total.forecast.error,
        }
        measures = {"burstiness": burstiness, "peaks": peaks, "peak": top, "base": base, "factor": top / base}
        return [_TEMPLATE.detection(Severity.HIGH, {}, window, measures, evidence)]

    def snapshot(self) -> Mapping[str, object]:
        """Bins and alert."""
        return {"bins": list(self._bins), "hits": self._hits, "alert": self._alert.snapshot()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Detector.restore`."""
        self._bins = deque(state["bins"], maxlen=_BINS)
        self._hits = state["hits"]
        self._alert = OpenAlert.of(state["alert"])
