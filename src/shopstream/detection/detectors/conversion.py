"""Detector 10b: purchases collapse while shoppers keep browsing.

Purchases of a minute are compared with their usual share of the events of the last minutes, but at most with what the
forecast of purchases says: a surge of views is no collapse of purchases. The decision is a sum of log-likelihood
ratios: half, or a tenth, of the purchases against all of them, as Poisson counts with a somewhat wider spread.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shopstream.clock import MINUTE_MS
from shopstream.detection.baseline import Baselines
from shopstream.detection.detection import Detection, Nature, Severity
from shopstream.detection.detector import SITE_60S, AlertTemplate, Detector, OpenAlert, interval
from shopstream.detection.detectors.site_state import SiteState, numbers
from shopstream.engine.signals import Signal

_LAG: Final = 0.3
"""Purchases follow the events of the last few minutes: weight of the newest minute."""
_MEMORY: Final = 90.0
"""Minutes over which the purchase share is averaged."""
_LOSSES: Final = {"half": (0.55, 13.0), "most": (0.15, 12.0)}
"""Remaining share of the purchases, and the log-likelihood ratio at which to report."""
_SPREAD: Final = 1.15
"""Variance of a minute's purchases over their mean: some shoppers buy twice."""
_WARM_UP: Final = 120.0
_TEMPLATE: Final = AlertTemplate(
    "conversion",
    "conversion-1",
    "{missing_purchases} purchases fewer than expected",
    (),
    Nature.FAULT,
    "purchases far below their usual share of events (log-likelihood ratio)",
    1_800_000,
)


class ConversionDetector(Detector):
    """Collapse of the purchase share.

    Warm-up: half an hour with baselines. Without them, two hours, and only a loss of nine tenths is reported. Minimum
    volume: a loss of half shows after about 80 expected purchases, a loss of nine tenths after about 15.

    Args:
        site: the site's state.
        baselines: the usual share by hour; None learns it.
    """

    id = "conversion"
    windows = (SITE_60S,)

    def __init__(self, site: SiteState, baselines: Baselines | None = None) -> None:
        self._site = site
        self._share = baselines.shares.get("purchases_60s") if baselines else None
        self._factor = 1.0 if self._share else 0.0
        self._seen = _WARM_UP * 0.75 if self._share else 0.0
        self._events = 0.0
        # The share halves with the hour of the day: without baselines, a loss of half proves nothing.
        self._losses = _LOSSES if self._share else {"most": _LOSSES["most"]}
        self._sums = dict.fromkeys(self._losses, 0.0)
        self._missing: list[float] = [0.0, 0.0]
        self._since_ms: int | None = None
        self._alert = OpenAlert()

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:
        """See `Detector.observe`; a minute's purchases come at its end."""
        if end_ms % MINUTE_MS or not signals:
            return []
        site = self._site
        counts = numbers(signals[0])
        events, purchases = counts["events"], counts["purchases"]
        self._events = events if not self._seen else self._events + (events - self._events) * _LAG
        base = self._share.at(end_ms - MINUTE_MS // 2) if self._share else 1.0
        due = self._events * base * self._factor
        forecast = site.total.forecast
        if forecast.warm:
            due = min(due, forecast.expected(end_ms, MINUTE_MS) * base * self._factor)
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
            self._since_ms = self._since_ms or end_ms - MINUTE_MS
            self._missing = [self._missing[0] + purchases, self._missing[1] + due]
        if suspicion < 0.5 and site.settled(end_ms):  # noqa: PLR2004  do not learn while a collapse may begin
            self._learn(purchases, self._events * base)
        if suspicion < 1:
            self._alert.close()
            return []
        window = self._alert.window(self._since_ms or end_ms - MINUTE_MS, end_ms)
        return [] if window is None else [self._detection(window, suspicion)]

    def _add(self, purchases: float, due: float) -> None:
        for name, (remaining, height) in self._losses.items():
            ratio = (purchases * math.log(remaining) + due * (1 - remaining)) / _SPREAD
            self._sums[name] = min(max(0.0, self._sums[name] + ratio), 1.5 * height)

    def _learn(self, purchases: float, base: float) -> None:
        memory = _MEMORY if self._share else min(_MEMORY, self._seen)
        # Weighted by the purchases due, so that the few purchases of the night do not move the factor.
        step = min(1.0, max(base * max(self._factor, 1e-3), 1e-9) / 15) / max(memory, 1.0)
        if not self._factor:
            self._factor = purchases / max(base, 1.0) or 0.01
        else:
            self._factor += (purchases / max(base, 1e-9) - self._factor) * min(step, 1.0)

    def _detection(self, window: tuple[int, int], suspicion: float) -> Detection:
        observed, due = self._missing
        evidence = {
            **interval(due, due * _SPREAD),
            "score": (due - observed) / math.sqrt(due * _SPREAD + 1),
            "contributions": {"purchases": 1.0},
            "excess_events": observed - due,
            "confidence": 1 - math.exp(-2 * suspicion),
            "genuine_share": 1.0,
            **self._site.baseline_evidence(window[1]),
        }
        measures = {
            "purchases": observed,
            "expected": due,
            "missing_purchases": due - observed,
            "remaining_share": observed / max(due, 1.0),
        }
        return _TEMPLATE.detection(Severity.HIGH, {}, window, measures, evidence)

    def snapshot(self) -> Mapping[str, object]:
        """Shares and sums."""
        return {
            "learned": [self._factor, self._seen, self._events],
            "sums": dict(self._sums),
            "missing": list(self._missing),
            "since_ms": self._since_ms,
            "alert": self._alert.snapshot(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Detector.restore`; baselines may have appeared or gone since."""
        self._factor, self._seen, self._events = state["learned"]
        self._sums = {name: state["sums"].get(name, 0.0) for name in self._losses}
        self._missing = list(state["missing"])
        self._since_ms, self._alert = state["since_ms"], OpenAlert.of(state["alert"])
