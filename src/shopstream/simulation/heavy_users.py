"""Those few who do more than shoppers do: resident robots, and wholesalers.

Real history holds robots that nobody labelled. Of 89.7 M sessions 374 have more than 500 events (297 users); half of
those that end within a day run at 8 events a minute or less, the pace of shoppers; four of five only view, one in 25
buys. They are part of the genuine traffic here, too, and the truth names them, so that finding one is no false alarm,
and not finding it no miss. Wholesalers are people: they buy many products in one visit and are no robots.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from shopstream.simulation import calibration as real
from shopstream.simulation.catalogue import Catalogue
from shopstream.simulation.event_batch import Block, Ints
from shopstream.simulation.intensity import Calendar, Span
from shopstream.simulation.shoppers import CART, PURCHASE, VIEW, Population

__all__ = ["RESIDENT_IDS", "HeavyUsers"]

RESIDENT_IDS = 400
"""Ids kept for them, the first behind those of shoppers; the last tenth are wholesalers'."""

_ROBOTS = RESIDENT_IDS * 9 // 10
_DAY_MS = 86_400_000
_LOOK_BACK_DAYS = 3
_MIN_GAP_MS = 50

Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class HeavyUsers:
    """Visits of heavy users, a day of beginnings at a time; the same in every period that holds the day.

    Args:
        calendar: how busy the shop is.
        catalogue: what they look at.
        population: gives their ids.
        seed: of the whole synthesis.
    """

    calendar: Calendar
    catalogue: Catalogue
    population: Population
    seed: int
    _days: dict[int, Block] = field(default_factory=dict, init=False)
    _seen: set[int] = field(default_factory=set, init=False)

    def events(self, span: Span) -> Block:
        """Their events in a stretch of time."""
        last = (span.until_ms - 1) // _DAY_MS
        days = range(span.from_ms // _DAY_MS - _LOOK_BACK_DAYS, last + 1)
        for day in [known for known in self._days if known not in days]:
            del self._days[day]
        parts: list[Block] = []
        for day in days:
            if day not in self._days:
                self._days[day] = self._day(day)
            block = self._days[day]
            parts.append(block.take((block.time >= span.from_ms) & (block.time < span.until_ms)))
        return Block.concat(parts)

    def note(self, block: Block) -> None:
        """Remember which robots were seen in genuine traffic."""
        self._seen.update(np.intersect1d(block.user, self._ids()[:_ROBOTS]).tolist())

    def residents(self) -> tuple[int, ...]:
        """Ids of the robots that were seen so far."""
        return tuple(sorted(self._seen))

    def _ids(self) -> Ints:
        return self.population.strangers(0, RESIDENT_IDS)

    def _day(self, day: int) -> Block:
        """All events of the visits that begin on a day (number since the epoch)."""
        rng = np.random.default_rng([self.seed, 0x4E57, day % 2**32])
        days = max((self.calendar.until_ms - self.calendar.from_ms) // _DAY_MS, 1)
        volume = self.calendar.total() / days
        walks = [self._robot(rng, day) for _ in range(rng.poisson(volume * real.ROBOT_VISITS_PER_EVENT))]
        walks += [self._wholesaler(rng, day) for _ in range(rng.poisson(volume * real.WHOLESALE_VISITS_PER_EVENT))]
        if rng.random() < real.ROTATOR_DAYS * min(volume / real.DAILY_EVENTS, 1.0):
            walks.append(self._rotator(rng, day))
        block = Block.concat([Block.empty(), *walks])
        block.key = (3 << 54) + (day << 28) + np.arange(len(block))
        return block

    def _robot(self, rng: np.random.Generator, day: int) -> Block:
        wanted = int(_quantile(real.ROBOT_EVENTS, rng.random()))
        per_minute = _quantile(real.ROBOT_PACES, rng.random())
        stays_ms = wanted / per_minute * 60_000
        if rng.random() < real.ROBOT_DAYS_SHARE:  # a third of them stay for more than a day
            stays_ms = _DAY_MS * (1 + rng.random() * (_LOOK_BACK_DAYS - 1))
        stays_ms = min(stays_ms, (_LOOK_BACK_DAYS - 1) * _DAY_MS)
        gaps = np.exp(rng.normal(0, 0.3 + 0.7 * rng.random(), wanted))
        gaps = np.maximum(gaps * (stays_ms / gaps.sum()), _MIN_GAP_MS).astype(np.int64)
        gaps[0] = 0
        time = _begin(rng, day) + np.cumsum(gaps)
        time = time[time < (day + _LOOK_BACK_DAYS) * _DAY_MS]
        distinct = max(int(len(time) * _quantile(real.ROBOT_DISTINCT, rng.random())), 1)
        first = int(rng.integers(len(self.catalogue)))
        place = rng.integers(0, distinct, len(time)) if distinct < len(time) else np.arange(len(time))
        product = ((first + place) % len(self.catalogue)).astype(np.int32)
        kind = np.zeros(len(time), np.uint8)
        if rng.random() >= real.ROBOT_VIEW_ONLY:
            kind[rng.random(len(time)) < 0.02] = CART  # noqa: PLR2004
            if rng.random() < real.ROBOT_BUYS / (1 - real.ROBOT_VIEW_ONLY):
                kind[-1] = PURCHASE
        kind[self.catalogue.price[product] == 0] = VIEW
        user = self._ids()[int(_ROBOTS * rng.random() ** 3)]
        return _walk(time, kind, product, int(user), np.full(len(time), rng.integers(2**62)))

    def _rotator(self, rng: np.random.Generator, day: int) -> Block:
        """Always the same one: a new session about every two minutes, all day."""
        begin = rng.integers(60_000, 180_000)
        time = day * _DAY_MS + np.cumsum(
            np.r_[begin, (real.ROTATOR_GAP_S * 1000 * rng.gamma(4, 0.25, 750)).astype(int)]
        )
        time = time[time < (day + 1) * _DAY_MS]
        product = self.catalogue.draw(rng.random(len(time)))
        kind = np.zeros(len(time), np.uint8)
        return _walk(time, kind, product, int(self._ids()[0]), rng.integers(0, 2**62, len(time)))

    def _wholesaler(self, rng: np.random.Generator, day: int) -> Block:
        """Many products of a category or two, looked at, put into the cart and bought, one after the other."""
        bought = int(rng.integers(4, 16))
        opener = self.catalogue.draw(rng.random(1)).repeat(bought)
        product = np.repeat(self.catalogue.draw_alike(opener, rng.random(bought)), 3)
        kind = np.tile(np.array([VIEW, CART, PURCHASE], np.uint8), bought)
        gaps = np.exp(rng.normal(real.GAP_MU - 0.3, 0.6, len(kind))) * 1000
        gaps[0] = 0
        time = _begin(rng, day) + np.cumsum(gaps.astype(np.int64))
        kind[self.catalogue.price[product] == 0] = VIEW
        user = self._ids()[_ROBOTS + int(rng.integers(RESIDENT_IDS - _ROBOTS))]
        return _walk(time, kind, product, int(user), np.full(len(time), rng.integers(2**62)))


def _walk(time: Ints, kind: npt.NDArray[np.uint8], product: npt.NDArray[np.int32], user: int, session: Ints) -> Block:
    return Block(time, time, kind, product, np.full(len(time), user), session, np.zeros(len(time), np.int64))


def _begin(rng: np.random.Generator, day: int) -> int:
    """A moment of a day, at hours at which people come."""
    hour = int(rng.choice(24, p=np.array(real.HOUR_SHARES) / sum(real.HOUR_SHARES)))
    return day * _DAY_MS + int((hour + rng.random()) * (timedelta(hours=1) / timedelta(milliseconds=1)))


def _quantile(table: Sequence[tuple[float, float]], uniform: float) -> float:
    """The value at a place of a distribution, log-linear between the known ones."""
    at, value = np.array(table).T
    return float(np.exp(np.interp(uniform, at, np.log(value))))
