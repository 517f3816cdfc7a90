"""Traffic intensity: the expected number of genuine events in each minute."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from shopstream.clock import MINUTE_MS, from_ms, to_ms
from shopstream.simulation import calibration as real

_DAY = 1_440  # minutes
_WARM_UP = real.VISIT_MAX_MINUTES  # before the start, so that sessions are already under way at the start
_SLICE_EVENTS = 150_000  # expected; bounds memory, together with _SLICE_MINUTES
_SLICE_MINUTES = 60

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TimeRange:
    """[from_ms, until_ms) in milliseconds since the epoch; `number` counts the slices of one synthesis."""

    number: int
    from_ms: int
    until_ms: int

    def clip(self, from_ms: int, until_ms: int) -> "TimeRange":
        """The overlap with another range; empty where there is none."""
        return TimeRange(self.number, max(self.from_ms, from_ms), min(self.until_ms, until_ms))

    def minutes(self) -> Iterator["TimeRange"]:
        """The same range minute by minute."""
        for begin in range(self.from_ms, self.until_ms, MINUTE_MS):
            yield TimeRange(self.number, begin, min(begin + MINUTE_MS, self.until_ms))

    @property
    def empty(self) -> bool:
        """Whether it contains no moment."""
        return self.until_ms <= self.from_ms


@lru_cache(maxsize=1)
def _day_profile() -> Floats:
    """Share of a day's sessions per minute: a smooth curve with the measured share of each hour."""
    shares = np.array(real.HOUR_SHARES)
    minute = np.arange(_DAY) + 0.5
    nodes = shares.copy()
    centres = np.arange(-1, 25) * 60.0 + 30
    for _ in range(30):
        curve = np.exp(np.interp(minute, centres, np.log(np.r_[nodes[-1], nodes, nodes[0]])))
        sums = curve.reshape(24, 60).sum(axis=1)
        nodes *= shares / sums
    curve = np.exp(np.interp(minute, centres, np.log(np.r_[nodes[-1], nodes, nodes[0]])))
    return np.asarray(curve / curve.sum(), np.float64)


class TrafficIntensity:
    """Expected genuine events per minute of a period, and its slices of bounded size.

    Args:
        start: a midnight, UTC.
        days: length of the period.
        events: expected in the whole period, before surges and outages.
        seed: seed of the daily noise; a day has the same noise in every period.
    """

    def __init__(self, start: datetime, days: int, events: int, seed: int) -> None:
        self.from_ms = to_ms(start)
        self.until_ms = to_ms(start + timedelta(days=days))
        self._zero_ms = self.from_ms - _WARM_UP * MINUTE_MS
        dates = [start + timedelta(days=day) for day in range(-1, days)]
        volume = np.concatenate([_day_profile() * _day_factor(date, seed) for date in dates])[_DAY - _WARM_UP :]
        volume *= _wander(dates, seed)[_DAY - _WARM_UP :]
        self._events = volume * (events / volume[_WARM_UP:].sum())

    @property
    def minutes_ms(self) -> npt.NDArray[np.int64]:
        """Start of each minute, warm-up included."""
        return self._zero_ms + np.arange(len(self._events), dtype=np.int64) * MINUTE_MS

    def scale(self, factors: Floats) -> "TrafficIntensity":
        """The same period with the events of each minute multiplied."""
        scaled = object.__new__(TrafficIntensity)
        scaled.__dict__.update(self.__dict__)
        scaled._events = self._events * factors
        return scaled

    def slices(self) -> Sequence[TimeRange]:
        """The period (warm-up included) in whole minutes: at most an hour and _SLICE_EVENTS events per slice."""
        spans: list[TimeRange] = []
        first, events = 0, 0.0
        for minute, expected in enumerate(self._events):
            if minute > first and (events + expected > _SLICE_EVENTS or minute - first == _SLICE_MINUTES):
                spans.append(self._span(len(spans), first, minute))
                first, events = minute, 0.0
            events += expected
        spans.append(self._span(len(spans), first, len(self._events)))
        return spans

    def _span(self, number: int, first: int, last: int) -> TimeRange:
        return TimeRange(number, self._zero_ms + first * MINUTE_MS, self._zero_ms + last * MINUTE_MS)

    def expected(self, span: TimeRange) -> Floats:
        """Expected events of each minute of a range of whole minutes."""
        first = (span.from_ms - self._zero_ms) // MINUTE_MS
        return np.asarray(self._events[first : (span.until_ms - self._zero_ms) // MINUTE_MS], np.float64)

    def before(self, span: TimeRange) -> float:
        """Expected events before a range, warm-up included."""
        return float(self._events[: (span.from_ms - self._zero_ms) // MINUTE_MS].sum())

    def rate_at(self, moments_ms: npt.NDArray[np.int64]) -> Floats:
        """Expected events per second at moments inside the period."""
        return np.asarray(self._events[(moments_ms - self._zero_ms) // MINUTE_MS] / 60, np.float64)

    def total(self) -> float:
        """Expected events of the whole period, without the warm-up."""
        return float(self._events[_WARM_UP:].sum())

    def describe(self) -> str:
        """The period as text."""
        return f"{from_ms(self.from_ms):%Y-%m-%d %H:%M} to {from_ms(self.until_ms):%Y-%m-%d %H:%M} UTC"


def _wander(dates: Sequence[datetime], seed: int) -> Floats:
    """Factor per minute around the day's profile; the same for a day in every period, and smooth over midnight."""
    factor = np.zeros(len(dates) * _DAY)
    minute = np.arange(len(factor))
    for place, (step, sd) in enumerate(real.WANDER):
        per_day = _DAY // step
        knots = [
            np.random.default_rng([seed, 0x3A2D, place, _day_number(date) % 2**32]).normal(0, sd, per_day)
            for date in (*dates, dates[-1] + timedelta(days=1))
        ]
        values = np.concatenate(knots)
        # Between two knots the weights lie on a circle, so that the spread is the same at every minute.
        knot, angle = minute // step, (minute % step) / step * (np.pi / 2)
        factor += np.cos(angle) * values[knot] + np.sin(angle) * values[knot + 1]
    return np.exp(factor)


def _day_number(date: datetime) -> int:
    return (date - datetime(1970, 1, 1, tzinfo=UTC)).days


def _day_factor(date: datetime, seed: int) -> float:
    noise = np.random.default_rng([seed, 0xDA7E, _day_number(date) % 2**32]).normal(0, real.DAY_NOISE_SD)
    return float(real.WEEKDAY_FACTORS[date.weekday()] * np.exp(noise))
