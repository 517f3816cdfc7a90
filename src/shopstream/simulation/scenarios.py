"""The scenarios there are: flash sale, outage, site flood, scraper."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from shopstream.errors import ConfigurationError
from shopstream.simulation.block import Block, Ints, mix
from shopstream.simulation.calendar import MINUTE_MS, Calendar, Span
from shopstream.simulation.catalogue import Catalogue
from shopstream.simulation.overlay import Overlay, World
from shopstream.simulation.shoppers import Lead

__all__ = ["FlashSale", "Flood", "Outage", "Scraper"]

Floats = npt.NDArray[np.float64]
_MAX_FACTOR = 100  # memory grows with the events of one minute
_RAMP_MS = 3 * MINUTE_MS  # word of a sale spreads within minutes


def _check(good: bool, kind: str, rule: str, value: object) -> None:
    if not good:
        raise ConfigurationError(f"expected {rule} for a {kind}, got {value}; change it")


@dataclass(frozen=True, slots=True)
class FlashSale:
    """Many more genuine shoppers than usual, who behave as always.

    Args:
        start, duration: when new visits surge.
        factor: on the number of visits, > 1.
        category: code that draws half of the additional visits; None keeps the usual mix.
    """

    start: datetime
    duration: timedelta
    factor: float
    category: str | None = None

    def build(self, world: World) -> Overlay:
        """Its running part."""
        _check(1 < self.factor <= _MAX_FACTOR, "flash sale", f"a factor above 1, at most {_MAX_FACTOR},", self.factor)
        window = world.window("flash sale", self.start, self.duration)
        if self.category is None:
            return _FlashSale(window, self.factor, None)
        leaders = world.catalogue.of_code(self.category)
        _check(
            len(leaders) > 0, "flash sale", "a category code of the shop, e.g. electronics.smartphone,", self.category
        )
        return _FlashSale(window, self.factor, int(leaders[0]))


class _FlashSale(Overlay):
    hostile = False

    def __init__(self, window: Span, factor: float, product: int | None) -> None:
        super().__init__("flash_sale", window)
        self._factor, self._product = factor, product

    def surge(self, minutes_ms: Ints) -> Floats:
        into = np.clip((minutes_ms + MINUTE_MS // 2 - self.window.from_ms) / _RAMP_MS, 0, 1)
        overlap = np.minimum(minutes_ms + MINUTE_MS, self.window.until_ms) - np.maximum(minutes_ms, self.window.from_ms)
        return np.asarray(1 + (self._factor - 1) * into * np.clip(overlap / MINUTE_MS, 0, 1), np.float64)

    def leads(self) -> Lead | None:
        return None if self._product is None else _CategoryLead(self._product, self)

    def alter(self, block: Block, *, genuine: bool) -> Block:
        if genuine:
            self.events += int(self.inside(block.time).sum())
        return block


@dataclass(frozen=True, slots=True)
class _CategoryLead:
    product: int
    sale: _FlashSale

    def at(self, moments_ms: Ints) -> Floats:
        factors = self.sale.surge(moments_ms // MINUTE_MS * MINUTE_MS)
        return np.asarray((factors - 1) / factors / 2, np.float64)


@dataclass(frozen=True, slots=True)
class Outage:
    """Nothing is recorded for a while; shoppers go on meanwhile.

    Args:
        start, duration: of the silence.
    """

    start: datetime
    duration: timedelta

    def build(self, world: World) -> Overlay:
        """Its running part."""
        return _Outage("outage", world.window("outage", self.start, self.duration))


class _Outage(Overlay):
    hostile = False

    def alter(self, block: Block, *, genuine: bool) -> Block:
        del genuine
        lost = self.inside(block.time)
        self.events += int(lost.sum())
        return block.take(~lost) if lost.any() else block


@dataclass(frozen=True, slots=True)
class Flood:
    """Page views from many ids at once, all over the catalogue (OWASP OAT-015, denial of service).

    Args:
        start, duration: of the flood.
        factor: of all traffic during the flood against the genuine, > 1.
        ids: user ids that take part; each keeps one session.
    """

    start: datetime
    duration: timedelta
    factor: float
    ids: int

    def build(self, world: World) -> Overlay:
        """Its running part."""
        _check(1 < self.factor <= _MAX_FACTOR, "flood", f"a factor above 1, at most {_MAX_FACTOR},", self.factor)
        _check(self.ids >= 1, "flood", "at least 1 id", self.ids)
        window = world.window("flood", self.start, self.duration)
        return _Flood(window, self.factor, world.strangers(self.ids), world.catalogue)


class _Flood(Overlay):
    def __init__(self, window: Span, factor: float, actors: Ints, catalogue: Catalogue) -> None:
        super().__init__("flood", window, actors)
        self._factor, self._catalogue = factor, catalogue

    def add(self, span: Span, calendar: Calendar, rng: np.random.Generator) -> Block:
        part = span.clip(self.window.from_ms, self.window.until_ms)
        if part.empty:
            return Block.empty()
        seconds = np.arange(part.from_ms, part.until_ms, 1000)
        length = np.minimum(seconds + 1000, part.until_ms) - seconds
        counts = rng.poisson(calendar.rate_at(seconds) * (self._factor - 1) * length / 1000)
        time = np.repeat(seconds, counts) + (rng.random(counts.sum()) * np.repeat(length, counts)).astype(np.int64)
        user = self.actors[rng.integers(0, len(self.actors), len(time))]
        product = rng.integers(0, len(self._catalogue), len(time), dtype=np.int32)
        return views(time, product, user, session=mix(user, 11).astype(np.int64))


@dataclass(frozen=True, slots=True)
class Scraper:
    """Bots that walk the catalogue, page after page, at their pace ± 10 % (OWASP OAT-011, scraping).

    Args:
        start, duration: of the visit.
        bots: user ids; each keeps one session.
        gap_s: seconds between two pages of one bot.
    """

    start: datetime
    duration: timedelta
    bots: int
    gap_s: float

    def build(self, world: World) -> Overlay:
        """Its running part."""
        _check(self.bots >= 1, "scraper", "at least 1 bot", self.bots)
        _check(0.01 <= self.gap_s <= 86_400, "scraper", "a gap of 0.01 to 86400 s", self.gap_s)  # noqa: PLR2004
        window = world.window("scraper", self.start, self.duration)
        return _Scraper(window, self.gap_s, world.strangers(self.bots), world.catalogue)


class _Scraper(Overlay):
    _JITTER = 0.1

    def __init__(self, window: Span, gap_s: float, actors: Ints, catalogue: Catalogue) -> None:
        super().__init__("scraper", window, actors)
        self._gap_ms, self._catalogue = gap_s * 1000, catalogue

    def add(self, span: Span, calendar: Calendar, rng: np.random.Generator) -> Block:
        del calendar, rng  # page n of a bot is at the same moment in whatever slice it falls
        part = span.clip(self.window.from_ms, self.window.until_ms)
        if part.empty:
            return Block.empty()
        origin = self.window.from_ms
        low = max(int((part.from_ms - origin) / self._gap_ms) - 2, 0)
        page = np.arange(low, int((part.until_ms - origin) / self._gap_ms) + 2)
        bot = np.repeat(np.arange(len(self.actors)), len(page))
        page = np.tile(page, len(self.actors))
        user = self.actors[bot]
        phase = _uniform(user, 12) * self._gap_ms
        wobble = (_uniform(user * 1_000_003 + page, 13) - 0.5) * (2 * self._JITTER * self._gap_ms)
        time = origin + (phase + page * self._gap_ms + wobble).astype(np.int64)
        here = (time >= part.from_ms) & (time < part.until_ms)
        first = mix(user, 14) % np.uint64(len(self._catalogue))
        product = ((first.astype(np.int64) + page) % len(self._catalogue)).astype(np.int32)
        return views(time[here], product[here], user[here], session=mix(user[here], 15).astype(np.int64))


def views(time: Ints, product: npt.NDArray[np.int32], user: Ints, session: Ints) -> Block:
    """A block of page views; the synthesis numbers them."""
    return Block(time, time, np.zeros(len(time), np.uint8), product, user, session, np.zeros(len(time), np.int64))


def _uniform(numbers: Ints, salt: int) -> Floats:
    """A number in [0, 1) for each number, always the same."""
    return np.asarray((mix(numbers, salt) >> np.uint64(11)).astype(np.float64) / 2**53, np.float64)
