"""Attacks: floods of page views, bots that read the catalogue, bots that fill carts and buy."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from shopstream.clock import MINUTE_MS
from shopstream.simulation.catalogue import Catalogue
from shopstream.simulation.event_batch import EventBatch, Ints, mix
from shopstream.simulation.injection import (
    MAX_FACTOR,
    SITE,
    Injection,
    ScriptedAttack,
    Target,
    TimedScenario,
    World,
    check,
    log_normal_gaps,
    size_limit,
    steps,
    uniform,
    views,
)
from shopstream.simulation.intensity import TimeRange, TrafficIntensity
from shopstream.simulation.shoppers import CART, PURCHASE, VIEW

Floats = npt.NDArray[np.float64]

_DAY_S = 86_400
_SECOND, _MINUTE = timedelta(seconds=1), timedelta(minutes=1)
_SHAPES = ("steady", "ramp", "pulse")
_TIMINGS = ("uniform", "log_normal")
_PACE_JITTER, _GAP_JITTER = 0.1, 0.5
_VIEWS_FIRST = 0.5
_CHEAP = (20_000, 200_000)  # ten-thousandths: 2 to 20, so that the holder of a stolen card does not notice


@dataclass(frozen=True, slots=True)
class Flood(TimedScenario):
    """Page views from many ids at once, all over the target (OWASP OAT-015, denial of service).

    Args:
        factor: traffic of the target during the flood, as a multiple of its genuine traffic, > 1; a ramp reaches it at
            the end.
        ids: user ids that take part, each in one session.
        shape: steady; ramp, from 1 to the factor; pulse, on and off.
        pulse_s, every_s: length and period of pulses.
        target: what it hits.
    """

    KIND: ClassVar = "flood"
    TARGETS: ClassVar = ("site", "category", "product")

    factor: float
    ids: int
    shape: str = "steady"
    pulse_s: float = 10.0
    every_s: float = 60.0
    target: Target = SITE

    def _limits(self) -> Iterator[tuple[bool, str, object]]:
        yield 1 < self.factor <= MAX_FACTOR, f"a factor above 1, at most {MAX_FACTOR},", self.factor
        yield self.ids >= 1, "at least 1 id", self.ids
        yield self.shape in _SHAPES, f"a shape of {', '.join(_SHAPES)}", repr(self.shape)
        yield 0 < self.pulse_s <= self.every_s, "pulses of 0 s up to every_s", self.pulse_s

    def _build(self, world: World, window: TimeRange) -> Injection:
        return _Flood(self, window, world)


class _Flood(Injection):
    def __init__(self, flood: Flood, window: TimeRange, world: World) -> None:
        super().__init__(flood.KIND, window, world.extra_ids(flood.ids), flood.target)
        self._flood, self._places = flood, flood.target.places(world.catalogue)
        self._share = flood.target.share(world.catalogue)
        self._length_ms = flood.duration / timedelta(milliseconds=1)

    def add(self, span: TimeRange, intensity: TrafficIntensity, rng: np.random.Generator) -> EventBatch:
        part = span.clip(self.window.from_ms, self.window.until_ms)
        if part.empty:
            return EventBatch.empty()
        seconds = np.arange(part.from_ms, part.until_ms, 1000)
        length = np.minimum(seconds + 1000, part.until_ms) - seconds
        counts = rng.poisson(intensity.rate_at(seconds) * self._share * self._surplus(seconds) * length / 1000)
        time = np.repeat(seconds, counts) + (rng.random(counts.sum()) * np.repeat(length, counts)).astype(np.int64)
        user = self.actors[rng.integers(0, len(self.actors), len(time))]
        product = self._places[rng.integers(0, len(self._places), len(time))]
        return views(time, product, user, session=mix(user, 11).astype(np.int64))

    def _surplus(self, moments_ms: Ints) -> Floats:
        """Factor minus 1 at moments inside the window."""
        into, most = moments_ms - self.window.from_ms, self._flood.factor - 1
        if self._flood.shape == "ramp":
            return np.asarray(most * (into / self._length_ms), np.float64)
        if self._flood.shape == "pulse":
            return np.where(into % (self._flood.every_s * 1000) < self._flood.pulse_s * 1000, most, 0.0)
        return np.full(len(into), most)


@dataclass(frozen=True, slots=True)
class Scraper(TimedScenario):
    """Bots that walk the catalogue, page after page, at their pace ± 10 % (OWASP OAT-011, scraping).

    Args:
        bots: number of user ids, each in one session.
        gap_s: seconds between two pages of one bot.
    """

    KIND: ClassVar = "scraper"
    TARGETS: ClassVar = ("actor",)

    bots: int
    gap_s: float

    def _limits(self) -> Iterator[tuple[bool, str, object]]:
        yield self.bots >= 1, "at least 1 bot", self.bots
        yield 0.01 <= self.gap_s <= _DAY_S, "a gap of 0.01 to 86400 s", self.gap_s  # noqa: PLR2004

    def _build(self, world: World, window: TimeRange) -> Injection:
        return _Scraper(window, self.gap_s, world.extra_ids(self.bots), world.catalogue)


class _Scraper(Injection):
    def __init__(self, window: TimeRange, gap_s: float, actors: Ints, catalogue: Catalogue) -> None:
        super().__init__(Scraper.KIND, window, actors)
        self._gap_ms, self._catalogue = gap_s * 1000, catalogue

    def add(self, span: TimeRange, intensity: TrafficIntensity, rng: np.random.Generator) -> EventBatch:
        del intensity, rng  # page n of a bot is at the same moment in whatever range it falls
        part = span.clip(self.window.from_ms, self.window.until_ms)
        if part.empty:
            return EventBatch.empty()
        origin = self.window.from_ms
        low = max(int((part.from_ms - origin) / self._gap_ms) - 2, 0)
        page = np.arange(low, int((part.until_ms - origin) / self._gap_ms) + 2)
        bot = np.repeat(np.arange(len(self.actors)), len(page))
        page = np.tile(page, len(self.actors))
        user = self.actors[bot]
        phase = uniform(user, 12) * self._gap_ms
        wobble = (uniform(user * 1_000_003 + page, 13) - 0.5) * (2 * _PACE_JITTER * self._gap_ms)
        time = origin + (phase + page * self._gap_ms + wobble).astype(np.int64)
        here = (time >= part.from_ms) & (time < part.until_ms)
        first = mix(user, 14) % np.uint64(len(self._catalogue))
        product = ((first.astype(np.int64) + page) % len(self._catalogue)).astype(np.int32)
        return views(time[here], product[here], user[here])


@dataclass(frozen=True, slots=True)
class Crawler(TimedScenario):
    """Bots that walk the catalogue with gaps of their own (OWASP OAT-011, scraping).

    Args:
        bots: number of user ids; each starts at another product.
        gap_s: seconds between two pages of a bot: mean of uniform gaps, median of log-normal gaps.
        jitter: uniform gaps are gap_s · (1 ± jitter), 0 to 1.
        timing: uniform, or log_normal as shoppers' gaps are.
        sigma: standard deviation of ln(gap) of log-normal gaps.
        pages_per_session: mean pages of a session; 0 keeps one session.
    """

    KIND: ClassVar = "crawler"
    TARGETS: ClassVar = ("actor",)

    bots: int
    gap_s: float
    jitter: float = 0.1
    timing: str = "uniform"
    sigma: float = 0.97
    pages_per_session: int = 0

    def _limits(self) -> Iterator[tuple[bool, str, object]]:
        yield self.bots >= 1, "at least 1 bot", self.bots
        yield 0.05 <= self.gap_s <= _DAY_S, "a gap of 0.05 to 86400 s", self.gap_s  # noqa: PLR2004
        yield 0 <= self.jitter <= 1, "a jitter of 0 to 1", self.jitter
        yield self.timing in _TIMINGS, f"a timing of {', '.join(_TIMINGS)}", repr(self.timing)
        yield 0 <= self.sigma <= 3, "a sigma of 0 to 3", self.sigma  # noqa: PLR2004
        yield self.pages_per_session >= 0, "0 or more pages per session", self.pages_per_session
        yield size_limit(self.bots * self._pages())

    def _pages(self) -> int:
        """Enough for the whole duration."""
        shortest = self.gap_s * (1 if self.timing == "log_normal" else 1 - self.jitter / 2)
        return int(1.2 * self.duration / _SECOND / shortest) + 20

    def _build(self, world: World, window: TimeRange) -> Injection:
        rng, pages, actors = world.rng(), self._pages(), world.extra_ids(self.bots)
        if self.timing == "log_normal":
            gaps = log_normal_gaps(rng, self.bots * pages, self.gap_s, self.sigma)
        else:
            even = self.gap_s * (1 + self.jitter * (2 * rng.random(self.bots * pages) - 1))
            gaps = np.maximum(even * 1000, 1).astype(np.int64)
        phase = (rng.random(self.bots) * self.gap_s * 1000).astype(np.int64)
        time = steps(window.from_ms + phase, gaps, np.full(self.bots, pages))
        user, page = np.repeat(actors, pages), np.tile(np.arange(pages), self.bots)
        first = rng.integers(0, len(world.catalogue), self.bots)
        product = ((np.repeat(first, pages) + page) % len(world.catalogue)).astype(np.int32)
        visit = np.cumsum(rng.random(len(page)) < 1 / self.pages_per_session) if self.pages_per_session else 0
        session = mix(user * 1_000_003 + visit, 15).astype(np.int64)
        return ScriptedAttack(self.KIND, window, actors, views(time, product, user, session=session))


@dataclass(frozen=True, slots=True)
class Crowd(TimedScenario):
    """Very many ids, each used for a few pages anywhere in the shop, in one go (OWASP OAT-015 or -011, distributed).

    Args:
        ids: number of user ids; all are used within the duration.
        share: their events as a share of the genuine events, at the start; ids, share and events give the duration.
        least_events, most_events: events of an id.
    """

    KIND: ClassVar = "crowd"
    TARGETS: ClassVar = ("site",)

    ids: int
    share: float
    least_events: int = 1
    most_events: int = 5

    @staticmethod
    def lasts(values: dict[str, float], rate: float) -> timedelta:
        """How long ids, share and events take at a genuine rate (events per second)."""
        mean = (values.get("least_events", 1) + values.get("most_events", 5)) / 2
        return timedelta(seconds=values["ids"] * mean / (values["share"] * rate))

    def _limits(self) -> Iterator[tuple[bool, str, object]]:
        yield self.ids >= 1, "at least 1 id", self.ids
        yield 0 < self.share <= 10, "a share of 0 to 10", self.share  # noqa: PLR2004
        yield 1 <= self.least_events <= self.most_events, "1 event an id or more", self.least_events
        yield size_limit(self.ids * self.most_events)

    def _build(self, world: World, window: TimeRange) -> Injection:
        rng, actors = world.rng(), world.extra_ids(self.ids)
        counts = rng.integers(self.least_events, self.most_events + 1, self.ids)
        total = int(counts.sum())
        starts = window.from_ms + (rng.random(self.ids) * (window.until_ms - window.from_ms)).astype(np.int64)
        time = steps(starts, log_normal_gaps(rng, total, 10.0, 0.8), counts)
        product = rng.integers(0, len(world.catalogue), total, dtype=np.int32)
        return ScriptedAttack(self.KIND, window, actors, views(time, product, np.repeat(actors, counts)))


@dataclass(frozen=True, slots=True)
class Rotation(TimedScenario):
    """One walk over the catalogue at shoppers' pace, cut into visits of ever new ids (OWASP OAT-011, scraping).

    Args:
        share: share of the genuine traffic, at any moment.
        least_events, most_events: events of an id.
        gap_s, sigma: median of the log-normal gaps of an id, and standard deviation of ln(gap).
    """

    KIND: ClassVar = "rotation"
    TARGETS: ClassVar = ("site",)

    share: float
    least_events: int = 5
    most_events: int = 20
    gap_s: float = 33.0
    sigma: float = 0.97

    def _limits(self) -> Iterator[tuple[bool, str, object]]:
        yield 0 < self.share <= 1, "a share of 0 to 1", self.share
        yield 1 <= self.least_events <= self.most_events, "1 event an id or more", self.least_events
        yield 0.05 <= self.gap_s <= _DAY_S, "a gap of 0.05 to 86400 s", self.gap_s  # noqa: PLR2004
        yield 0 <= self.sigma <= 3, "a sigma of 0 to 3", self.sigma  # noqa: PLR2004

    def _build(self, world: World, window: TimeRange) -> Injection:
        rng = world.rng()
        # No id is active at the beginning: the traffic reaches the share when the first ids are done.
        minutes = np.arange(window.from_ms, window.until_ms, MINUTE_MS)
        mean = (self.least_events + self.most_events) / 2
        expected = world.intensity.rate_at(minutes) * 60 * self.share / mean
        good, rule, events = size_limit(float(expected.sum()) * self.most_events)
        check(good, self.KIND, rule, events)
        begun = rng.poisson(expected)
        ids = max(int(begun.sum()), 1)
        starts = np.repeat(minutes, begun) if begun.sum() else minutes[:1]
        starts = starts + (rng.random(ids) * MINUTE_MS).astype(np.int64)
        counts = rng.integers(self.least_events, self.most_events + 1, ids)
        time = steps(starts, log_normal_gaps(rng, int(counts.sum()), self.gap_s, self.sigma), counts)
        actors = world.extra_ids(ids)
        place = np.empty(len(time), np.int64)  # all ids together read each page once, in order
        place[np.argsort(time, kind="stable")] = np.arange(len(time))
        product = ((int(rng.integers(len(world.catalogue))) + place) % len(world.catalogue)).astype(np.int32)
        return ScriptedAttack(self.KIND, window, actors, views(time, product, np.repeat(actors, counts)))


@dataclass(frozen=True, slots=True)
class Hoarding(TimedScenario):
    """Bots that put best sellers into their carts, again and again, and never buy (OWASP OAT-021, denial of inventory).

    Args:
        bots: number of user ids, each in one session.
        carts_per_minute: mean rate of each bot; its gaps are uniform ± 50 %.
        products: number of different products.
    """

    KIND: ClassVar = "hoarding"
    TARGETS: ClassVar = ("actor",)

    bots: int
    carts_per_minute: float
    products: int = 5

    def _limits(self) -> Iterator[tuple[bool, str, object]]:
        yield self.bots >= 1, "at least 1 bot", self.bots
        yield 0 < self.carts_per_minute <= 600, "0 to 600 carts a minute", self.carts_per_minute  # noqa: PLR2004
        yield self.products >= 1, "at least 1 product", self.products
        yield size_limit(self.bots * self._carts() * 1.5)

    def _carts(self) -> int:
        return int(1.2 * self.carts_per_minute * (self.duration / _MINUTE)) + 10

    def _build(self, world: World, window: TimeRange) -> Injection:
        rng, actors, carts = world.rng(), world.extra_ids(self.bots), self._carts()
        total = self.bots * carts
        gap_ms = 60_000 / self.carts_per_minute
        gaps = np.asarray(gap_ms * (1 + _GAP_JITTER * (2 * rng.random(total) - 1)), np.int64)
        starts = window.from_ms + (rng.random(self.bots) * gap_ms).astype(np.int64)
        time = steps(starts, gaps, np.full(self.bots, carts))
        drawn = world.catalogue.draw(rng.random(self.products * 4 + 20))  # best sellers by popularity
        wanted = drawn[world.catalogue.price[drawn] > 0][: self.products]
        product = wanted[rng.integers(0, len(wanted), total)]
        user = np.repeat(actors, carts)
        views_at = np.flatnonzero(rng.random(total) < _VIEWS_FIRST)
        before = np.asarray(
            time[views_at] - np.minimum(gap_ms / 3, 3_000) * (0.2 + 0.8 * rng.random(len(views_at))), np.int64
        )
        kind = np.r_[np.full(total, CART), np.full(len(views_at), VIEW)].astype(np.uint8)
        user, product, time = np.r_[user, user[views_at]], np.r_[product, product[views_at]], np.r_[time, before]
        return ScriptedAttack(self.KIND, window, actors, views(time, product, user, kind))


@dataclass(frozen=True, slots=True)
class Scalping(TimedScenario):
    """A crowd of ids buys one product, from cart to purchase faster than a person can (OWASP OAT-005, scalping).

    Args:
        ids: number of user ids; each buys once, in a session of its own, most of them at the beginning.
        fastest_s, slowest_s: seconds from cart to purchase.
        target: the product.
    """

    KIND: ClassVar = "scalping"
    TARGETS: ClassVar = ("product",)

    ids: int
    fastest_s: float = 0.5
    slowest_s: float = 4.9
    target: Target = SITE

    def _limits(self) -> Iterator[tuple[bool, str, object]]:
        yield self.ids >= 1, "at least 1 id", self.ids
        yield 0 <= self.fastest_s <= self.slowest_s, "0 s or more to the purchase", self.fastest_s

    def _build(self, world: World, window: TimeRange) -> Injection:
        check(self.target.column == "product_id", self.KIND, "a product", self.target.column or "the site")
        rng, actors = world.rng(), world.extra_ids(self.ids)
        length = window.until_ms - window.from_ms
        cart = window.from_ms + (rng.random(self.ids) ** 1.5 * length).astype(np.int64)
        pause = self.fastest_s + (self.slowest_s - self.fastest_s) * rng.random(self.ids)
        bought = cart + (pause * 1000).astype(np.int64)
        cart, bought = np.minimum(cart, window.until_ms - 1 - (bought - cart)), np.minimum(bought, window.until_ms - 1)
        views_first = rng.random(self.ids) < _VIEWS_FIRST
        viewed = np.maximum(cart[views_first] - rng.integers(300, 2_000, int(views_first.sum())), window.from_ms)
        user = np.r_[actors, actors, actors[views_first]]
        kind = np.r_[np.full(self.ids, CART), np.full(self.ids, PURCHASE), np.full(len(viewed), VIEW)].astype(np.uint8)
        product = np.full(len(user), self.target.place, np.int32)
        batch = views(np.r_[cart, bought, viewed], product, user, kind)
        return ScriptedAttack(self.KIND, window, actors, batch, self.target)


@dataclass(frozen=True, slots=True)
class Carding(TimedScenario):
    """Small purchases without a view, to see which stolen cards work (OWASP OAT-001, carding).

    Args:
        ids: user ids that take turns.
        purchases_per_minute: rate of all ids together.
        products: number of different cheap products.
    """

    KIND: ClassVar = "carding"
    TARGETS: ClassVar = ("actor", "site")

    ids: int
    purchases_per_minute: float
    products: int = 3

    def _limits(self) -> Iterator[tuple[bool, str, object]]:
        rate = self.purchases_per_minute
        yield self.ids >= 1, "at least 1 id", self.ids
        yield 0 < rate <= 6_000, "0 to 6000 purchases a minute", rate  # noqa: PLR2004
        yield self.products >= 1, "at least 1 product", self.products
        yield size_limit(self._purchases())

    def _purchases(self) -> int:
        return int(1.2 * self.purchases_per_minute * (self.duration / _MINUTE)) + 10

    def _build(self, world: World, window: TimeRange) -> Injection:
        rng, actors, total = world.rng(), world.extra_ids(self.ids), self._purchases()
        gaps = 60_000 / self.purchases_per_minute * (1 + _GAP_JITTER * (2 * rng.random(total) - 1))
        time = window.from_ms + np.cumsum(gaps).astype(np.int64)
        # Each id has its turn before one comes again.
        turns = np.concatenate([rng.permutation(self.ids) for _ in range(total // self.ids + 1)])[:total]
        cheap = np.flatnonzero((world.catalogue.price >= _CHEAP[0]) & (world.catalogue.price <= _CHEAP[1]))
        check(len(cheap) > 0, self.KIND, "products from 2 to 20 in the catalogue", "none")
        product = rng.choice(cheap, self.products)[rng.integers(0, self.products, total)].astype(np.int32)
        batch = views(time, product, actors[turns], np.full(total, PURCHASE, np.uint8))
        return ScriptedAttack(self.KIND, window, actors, batch)
