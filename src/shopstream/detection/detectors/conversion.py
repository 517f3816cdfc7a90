"""Detector 10b: purchases collapse while shoppers go on looking.

Purchases of a minute are compared with their usual share of the events of the last minutes, at most with what the
forecast of purchases says (a surge of views is no collapse of purchases). The sum of log-likelihood ratios of half and
of a tenth of the purchases against all of them, as Poisson counts spread somewhat wider than chance, decides.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shopstream.detection.baseline import Baselines
from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.detection.detector import AlertTemplate, OpenAlert, interval
from shopstream.detection.detectors.site_state import SiteState, numbers
from shopstream.detection.windows import SITE_60S
from shopstream.engine.signals import Signal
from shopstream.engine.window import WindowDeclaration
from shopstream.errors import StateError

__all__ = ["ConversionDetector"]

_VERSION: Final = 1
_MINUTE_MS: Final = 60_000
_LAG: Final = 0.3
"""Purchases follow the events of the last few minutes: weight of the newest minute."""
_MEMORY: Final = 90.0
"""Minutes over which the purchase share is followed."""
_LOSSES: Final = {"half": (0.55, 13.0), "most": (0.15, 12.0)}
"""What is left of the purchases, and the log-likelihood ratio at which it is believed."""
_SPREAD: Final = 1.15
"""Variance of a minute's purchases over their mean: shoppers who buy twice."""
_WARM_UP: Final = 120.0
_FINDING = AlertTemplate(
    "conversion",
    "conversion-1",
    "Purchases collapse",
    (),
    Nature.FAULT,
    "Poisson log-likelihood ratio CUSUM of purchases against views",
    1_800_000,
)


class ConversionDetector:
    """Collapse of the purchase share.

    Warm-up: half an hour with baselines, two hours without, and then only a loss of nine tenths is told of. Minimum
    volume: a loss of half needs about 80 expected purchases to be seen, a loss of nine tenths about 15.

    Args:
        site: the site's state.
        baselines: the usual share by hour; None learns it.
    """

    id: Final = "conversion"
    windows: Sequence[WindowDeclaration] = (SITE_60S,)
    other_signals: Sequence[str] = ()

    def __init__(self, site: SiteState, baselines: Baselines | None = None) -> None:
        self._site = site
        self._share = baselines.shares.get("purchases_60s") if baselines else None
        self._factor = 1.0 if self._share else 0.0
        self._seen = _WARM_UP * 0.75 if self._share else 0.0
        self._events = 0.0
        # Hours of the day halve the share by themselves: without baselines a loss of half says nothing.
        self._losses = _LOSSES if self._share else {"most": _LOSSES["most"]}
        self._sums = dict.fromkeys(self._losses, 0.0)
        self._missing: list[float] = [0.0, 0.0]
        self._since_ms: int | None = None
        self._spell = OpenAlert()

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:
        """One bin; a minute's purchases come at its end."""
        if end_ms % _MINUTE_MS or not signals:
            return []
        site = self._site
        counts = numbers(signals[0])
        events, purchases = counts["events"], counts["purchases"]
        self._events = events if not self._seen else self._events + (events - self._events) * _LAG
        base = self._share.at(end_ms - _MINUTE_MS // 2) if self._share else 1.0
        due = self._events * base * self._factor
        forecast = site.total.forecast
        if forecast.warm:
            due = min(due, forecast.expected(end_ms, _MINUTE_MS) * base * self._factor)
        self._seen += 1
        if site.silent or site.recovering(end_ms):
            return []
        warm = self._seen >= _WARM_UP
        if warm:
            self._add(purchases, due)
        suspicion = max(self._sums[name] / height for name, (_, height) in self._losses.items()) if warm else 0.0
        if suspicion <= 0:
            self._since_ms, self._missing = None, [0.0, 0.0]
        else:
            self._since_ms = self._since_ms or end_ms - _MINUTE_MS
            self._missing = [self._missing[0] + purchases, self._missing[1] + due]
        if suspicion < 0.5 and site.settled(end_ms):  # noqa: PLR2004  not learned from while a collapse may begin
            self._learn(purchases, self._events * base)
        if suspicion < 1:
            self._spell.end()
            return []
        span = self._spell.span(self._since_ms or end_ms - _MINUTE_MS, end_ms)
        return [] if span is None else [self._told(span, suspicion)]

    def _add(self, purchases: float, due: float) -> None:
        for name, (left, height) in self._losses.items():
            ratio = (purchases * math.log(left) + due * (1 - left)) / _SPREAD
            self._sums[name] = min(max(0.0, self._sums[name] + ratio), 1.5 * height)

    def _learn(self, purchases: float, base: float) -> None:
        memory = _MEMORY if self._share else min(_MEMORY, self._seen)
        # weighted by what was due, so that the few purchases of the night do not move it
        step = min(1.0, max(base * max(self._factor, 1e-3), 1e-9) / 15) / max(memory, 1.0)
        if not self._factor:
            self._factor = purchases / max(base, 1.0) or 0.01
        else:
            self._factor += (purchases / max(base, 1e-9) - self._factor) * min(step, 1.0)

    def _told(self, span: tuple[int, int], suspicion: float) -> Detection:
        observed, due = self._missing
        evidence = {
            **interval(due, due * _SPREAD),
            "score": (due - observed) / math.sqrt(due * _SPREAD + 1),
            "contributions": {"purchases": 1.0},
            "excess_events": observed - due,
            "confidence": 1 - math.exp(-2 * suspicion),
            "genuine_share": 1.0,
            "baseline_age_ms": self._site.age_ms(span[1]),
            "forecast_error": self._site.total.forecast.error,
        }
        measures = {"purchases": observed, "expected": due, "left": observed / max(due, 1.0)}
        return _FINDING.detection(Severity.HIGH, {}, span, measures, evidence)

    def snapshot(self) -> Mapping[str, object]:
        """Shares and sums."""
        return {
            "version": _VERSION,
            "learned": [self._factor, self._seen, self._events],
            "sums": dict(self._sums),
            "missing": list(self._missing),
            "since_ms": self._since_ms,
            "spell": self._spell.snapshot(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a snapshot.

        Raises:
            StateError: it is of another version.
        """
        if state.get("version") != _VERSION:
            raise StateError("the conversion detector's snapshot is of another version; it begins afresh")
        self._factor, self._seen, self._events = state["learned"]
        # baselines may have come or gone since
        self._sums = {name: state["sums"].get(name, 0.0) for name in self._losses}
        self._missing = list(state["missing"])
        self._since_ms, self._spell = state["since_ms"], OpenAlert.of(state["spell"])
