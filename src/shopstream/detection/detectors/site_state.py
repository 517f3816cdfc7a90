"""What the site does right now: forecasts of its series, and whether it is calm. The volume detector keeps it up to
date; detectors that come after it read it.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shopstream.detection.baseline import Baselines
from shopstream.detection.detectors.surge_classifier import TrafficMix
from shopstream.detection.forecast import SeriesForecast
from shopstream.detection.windows import EVENT_TYPES, SITE_10S, TAIL_10S
from shopstream.engine.signals import Signal

__all__ = ["SILENCE_ODDS", "SITE", "SeriesState", "SiteState", "numbers"]

SITE: Final = "site"
SILENCE_ODDS: Final = -math.log(1e-9)
"""So many events expected and none seen: the odds of that are 1e-9."""

_EVENTS_A_USER: Final = 1.15
"""Events of a bin count up to this many per id on average: one robot is no flood of the site. People have 1.03."""
_RECENT: Final = 30
_DAY_MS: Final = 86_400_000
_FIRST_HOURS_MS: Final = 2 * 3_600_000
"""After so long most shoppers on the site are known, and an excess that is all new ids stands out."""
_SALE: Final = 1.4
_SETTLE_MS: Final = 180_000
_GRACE_MS: Final = (300_000, 3_600_000)


def numbers(signal: Signal) -> dict[str, float]:
    """A signal's measures as numbers."""
    return {name: float(value) for name, value in signal.measures.items() if isinstance(value, int | float)}


class SeriesState:
    """One series: this bin's count, what was expected, and for how much nothing came.

    Args:
        forecast: of it.
    """

    def __init__(self, forecast: SeriesForecast) -> None:
        self.forecast = forecast
        self.count = 0.0
        self.expected = 0.0
        self.missed = 0.0
        self.missed_since_ms = 0

    def read(self, end_ms: int, count: float) -> None:
        """Take a bin."""
        self.count = count
        self.expected = self.forecast.expected(end_ms)
        if count:
            self.missed = 0.0
            self.missed_since_ms = end_ms
        elif self.forecast.warm:
            self.missed += self.expected * max(0.1, 1 - 3 * self.forecast.error)

    @property
    def variance(self) -> float:
        """Of the count of a bin: chance and forecast error."""
        return self.expected + (self.forecast.error * self.expected) ** 2 + 1

    @property
    def score(self) -> float:
        """How many standard deviations above what was expected."""
        return (self.count - self.expected) / math.sqrt(self.variance)

    @property
    def silent(self) -> bool:
        """Nothing came for longer than chance explains."""
        return self.missed >= SILENCE_ODDS


class SiteState:
    """The site's state.

    Args:
        baselines: what is normal; None learns it.
    """

    def __init__(self, baselines: Baselines | None = None) -> None:
        known = baselines.series if baselines else {}
        self.series = {
            name: SeriesState(SeriesForecast(known.get(name)))
            for name in (SITE, *(f"event_type={k}" for k in EVENT_TYPES))
        }
        self.until_ms = baselines.until_ms if baselines else None
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
        """All events."""
        return self.series[SITE]

    def age_ms(self, at_ms: int) -> int | None:
        """Of the baselines."""
        return None if self.until_ms is None else max(0, at_ms - self.until_ms)

    def read(self, end_ms: int, signals: Sequence[Signal]) -> None:
        """Take a bin's signals."""
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
        if self.total.silent or views.silent:  # hardly anything is left without views
            self._silent_since_ms = self._silent_since_ms or views.missed_since_ms
        elif self._silent_since_ms is not None:
            shortest, longest = _GRACE_MS
            self._grace_until_ms = end_ms + min(max(end_ms - self._silent_since_ms, shortest), longest)
            self._silent_since_ms = None

    @property
    def silent(self) -> bool:
        """The whole site is."""
        return self._silent_since_ms is not None

    def recovering(self, end_ms: int) -> bool:
        """A silence ended not long ago: what was held back arrives."""
        return end_ms <= self._grace_until_ms

    def knows_ids(self, end_ms: int, for_ms: int = _DAY_MS) -> bool:
        """Ids have been remembered for 24 hours (or so long), so that new ones are new."""
        return self._begun_ms is not None and end_ms - self._begun_ms >= for_ms

    def begin_sale(self, end_ms: int, before: float) -> None:
        """The site keeps a level far above the one before: shoppers want other things, until it falls again."""
        if self.total.forecast.level > _SALE * before and self._sale_level is None:
            self._sale_level, self._sale_until_ms = before, end_ms + _DAY_MS

    def sale(self, end_ms: int) -> bool:
        """Whether that is so."""
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
        """Nothing unusual now, nor in the last minutes: shares and ratios can be compared, and learned from."""
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
        """Go on from a snapshot.

        Raises:
            StateError: it is of another version.
        """
        for name, one in self.series.items():
            forecast, one.missed, one.missed_since_ms = state["series"][name]
            one.forecast.restore(forecast)
        self.mix = TrafficMix(dict(state["mix"][0]), state["mix"][1])
        self.recent = deque(state["recent"], maxlen=_RECENT)
        self.surge, self.attack = state["flags"]
        self._begun_ms, self._silent_since_ms, self._grace_until_ms, self._unsettled_until_ms = state["times"]
        self._sale_level, self._sale_until_ms = state["sale"]
