"""The state of the site: forecasts of its series, and whether the traffic is normal.

The volume detector updates it; the detectors after it read it.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shopstream.clock import DAY_MS
from shopstream.detection.baseline import Baselines
from shopstream.detection.detector import EVENT_TYPES, SITE_10S, TAIL_10S
from shopstream.detection.detectors.surge_classifier import TrafficMix
from shopstream.detection.forecast import SeriesForecast
from shopstream.engine.signals import Signal

SITE: Final = "site"
SILENCE_ODDS: Final = -math.log(1e-9)
"""With so many events expected, the chance of none is 1e-9."""

_EVENTS_A_USER: Final = 1.15
"""A bin counts at most this many events per id on average: one robot is no flood of the site. People have 1.03."""
_RECENT: Final = 30
_FIRST_HOURS_MS: Final = 2 * 3_600_000
"""After so long, most shoppers on the site are known, and an excess of new ids stands out."""
_SALE: Final = 1.4
_SETTLE_MS: Final = 180_000
_GRACE_MS: Final = (300_000, 3_600_000)


def numbers(signal: Signal) -> dict[str, float]:
    """A signal's numeric measures."""
    return {name: float(value) for name, value in signal.measures.items() if isinstance(value, int | float)}


class SeriesState:
    """One series: this bin's count, the expected count, and the events missed in a silence.

    Args:
        forecast: of the series.
    """

    def __init__(self, forecast: SeriesForecast) -> None:
        self.forecast = forecast
        self.count = 0.0
        self.expected = 0.0
        self.missed = 0.0
        self.missed_since_ms = 0

    def read(self, end_ms: int, count: float) -> None:
        """Process a bin."""
        self.count = count
        self.expected = self.forecast.expected(end_ms)
        if count:
            self.missed = 0.0
            self.missed_since_ms = end_ms
        elif self.forecast.warm:
            self.missed += self.expected * max(0.1, 1 - 3 * self.forecast.error)

    @property
    def variance(self) -> float:
        """Variance of a bin's count: chance and forecast error."""
        return self.expected + (self.forecast.error * self.expected) ** 2 + 1

    @property
    def score(self) -> float:
        """Standard deviations above the expected count."""
        return (self.count - self.expected) / math.sqrt(self.variance)

    @property
    def silent(self) -> bool:
        """Whether no event has arrived for longer than chance explains."""
        return self.missed >= SILENCE_ODDS


class SiteState:
    """Forecasts of the site and its event types, its usual mix of traffic, and flags for unusual times.

    Args:
        baselines: what is normal; None learns it.
    """

    def __init__(self, baselines: Baselines | None = None) -> None:
        known = baselines.series if baselines else {}
        names = (SITE, *(f"event_type={kind}" for kind in EVENT_TYPES))
        self.series = {name: SeriesState(SeriesForecast(known.get(name))) for name in names}
        self._history_ms = (baselines.from_ms, baselines.until_ms) if baselines else None
        self.mix = TrafficMix.of(baselines)
        self.counts: dict[str, float] = {}
        self.recent: deque[float] = deque(maxlen=_RECENT)
        self.surge = False
        self.attack = False
        self._sale_level: float | None = None
        self._sale_until_ms = 0
        self._begun_ms: int | None = None
        self._silent_since_ms: int | None = None
        self._grace_until_ms = 0
        self._unsettled_until_ms = 0

    @property
    def total(self) -> SeriesState:
        """All events of the site."""
        return self.series[SITE]

    def baseline_evidence(self, at_ms: int, forecast_error: float | None = None) -> dict[str, object]:
        """`baseline_ms` (length of the history), `baseline_age_ms` and `forecast_error` (the site's by default)."""
        evidence: dict[str, object] = {"baseline_ms": None, "baseline_age_ms": None}
        if self._history_ms is not None:
            from_ms, until_ms = self._history_ms
            evidence = {"baseline_ms": until_ms - from_ms, "baseline_age_ms": max(0, at_ms - until_ms)}
        error = self.total.forecast.error if forecast_error is None else forecast_error
        return evidence | {"forecast_error": error}

    def read(self, end_ms: int, signals: Sequence[Signal]) -> None:
        """Process a bin's signals."""
        counts: dict[str, float] = {}
        tail: Mapping[str, float] | None = None
        for signal in signals:
            if signal.window == SITE_10S.name:
                counts = numbers(signal)
            elif signal.window == TAIL_10S:
                tail = numbers(signal)
        counts["buys"] = counts.get("carts", 0.0) + counts.get("purchases", 0.0)
        if tail is not None:
            counts["tail"] = min(tail.get("spread_users", 0.0), tail.get("spread_products", 0.0))
        events = counts.setdefault("events", 0.0)
        if events and self._begun_ms is None:
            self._begun_ms = end_ms
        if not self.knows_ids(end_ms, _FIRST_HOURS_MS):
            counts.pop("new_users", None)
        self.counts = counts
        capped = min(events, _EVENTS_A_USER * counts["users"] + 3) if "users" in counts else events
        self.recent.append(capped)
        self.total.read(end_ms, capped)
        for kind, measure in EVENT_TYPES.items():
            self.series[f"event_type={kind}"].read(end_ms, counts.get(measure, 0.0))
        self._note_silence(end_ms)

    def begin_quiet(self, end_ms: int) -> None:
        """Something came in the bin that ends here, and nothing is known to have come since."""
        for series in self.series.values():
            series.missed, series.missed_since_ms = 0.0, end_ms

    def _note_silence(self, end_ms: int) -> None:
        views = self.series["event_type=view"]
        if self.total.silent or views.silent:  # without views, hardly any events are left
            self._silent_since_ms = self._silent_since_ms or views.missed_since_ms
        elif self._silent_since_ms is not None:
            shortest, longest = _GRACE_MS
            self._grace_until_ms = end_ms + min(max(end_ms - self._silent_since_ms, shortest), longest)
            self._silent_since_ms = None

    @property
    def silent(self) -> bool:
        """Whether the whole site is silent."""
        return self._silent_since_ms is not None

    def recovering(self, end_ms: int) -> bool:
        """Whether a silence ended recently, so that a backlog arrives."""
        return end_ms <= self._grace_until_ms

    def knows_ids(self, end_ms: int, for_ms: int = DAY_MS) -> bool:
        """Whether ids have been remembered for so long that new ones are new."""
        return self._begun_ms is not None and end_ms - self._begun_ms >= for_ms

    def begin_sale(self, end_ms: int, before: float) -> None:
        """Note a sale if the site stays far above its former level.

        Until the level falls, shoppers' choices differ from the usual ones.
        """
        if self.total.forecast.level > _SALE * before and self._sale_level is None:
            self._sale_level, self._sale_until_ms = before, end_ms + DAY_MS

    def sale(self, end_ms: int) -> bool:
        """Whether a sale is going on."""
        if self._sale_level is not None and (
            end_ms > self._sale_until_ms or self.total.forecast.level < _SALE * self._sale_level
        ):
            self._sale_level = None
            self.unsettle(end_ms)
        return self._sale_level is not None

    def unsettle(self, end_ms: int) -> None:
        """Note that the volume is suspicious."""
        self._unsettled_until_ms = end_ms + _SETTLE_MS

    def settled(self, end_ms: int) -> bool:
        """Whether the traffic is normal, now and in the last minutes: shares can be compared, and learned from."""
        return not (
            (self.silent or self.surge or self.attack or self.recovering(end_ms) or self.sale(end_ms))
            or end_ms <= self._unsettled_until_ms
        )

    def snapshot(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "series": {
                name: [one.forecast.snapshot(), one.missed, one.missed_since_ms] for name, one in self.series.items()
            },
            "mix": [self.mix.sums, self.mix.tail_events],
            "recent": list(self.recent),
            "flags": [self.surge, self.attack],
            "times": [self._begun_ms, self._silent_since_ms, self._grace_until_ms, self._unsettled_until_ms],
            "sale": [self._sale_level, self._sale_until_ms],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a snapshot."""
        for name, one in self.series.items():
            forecast, one.missed, one.missed_since_ms = state["series"][name]
            one.forecast.restore(forecast)
        self.mix = TrafficMix(dict(state["mix"][0]), state["mix"][1])
        self.recent = deque(state["recent"], maxlen=_RECENT)
        self.surge, self.attack = state["flags"]
        self._begun_ms, self._silent_since_ms, self._grace_until_ms, self._unsettled_until_ms = state["times"]
        self._sale_level, self._sale_until_ms = state["sale"]
