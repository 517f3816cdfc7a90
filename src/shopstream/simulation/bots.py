"""Bots that read pages: scrapers at a pace, crawlers with any timing, crowds of ids that are hardly used."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from shopstream.simulation import calibration as real
from shopstream.simulation.catalogue import Catalogue
from shopstream.simulation.event_batch import Block, Ints, mix
from shopstream.simulation.injection import Overlay, World
from shopstream.simulation.intensity import MINUTE_MS, Calendar, Span
from shopstream.simulation.scripted_attack import Scripted, check, check_size, steps, uniform, views

__all__ = ["Crawler", "Crowd", "Rotation", "Scraper"]

_DAY_S = 86_400
_SECOND = timedelta(seconds=1)
_TIMINGS = ("uniform", "log_normal")


@dataclass(frozen=True, slots=True)
class Scraper:
    """Bots that walk the catalogue, page after page, at their pace ± 10 % (OWASP OAT-011, scraping).

    Args:
        start, duration: of the visit.
        bots: user ids; each keeps one session.
        gap_s: seconds between two pages of one bot.
    """

    KIND: ClassVar = "scraper"
    HITS: ClassVar = ("actor",)

    start: datetime
    duration: timedelta
    bots: int
    gap_s: float

    def check(self) -> None:
        """Whether the figures fit.

        Raises:
            ConfigurationError: one does not.
        """
        check(self.bots >= 1, "scraper", "at least 1 bot", self.bots)
        check(0.01 <= self.gap_s <= _DAY_S, "scraper", "a gap of 0.01 to 86400 s", self.gap_s)  # noqa: PLR2004

    def build(self, world: World) -> Overlay:
        """Its running part."""
        self.check()
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
        phase = uniform(user, 12) * self._gap_ms
        wobble = (uniform(user * 1_000_003 + page, 13) - 0.5) * (2 * self._JITTER * self._gap_ms)
        time = origin + (phase + page * self._gap_ms + wobble).astype(np.int64)
        here = (time >= part.from_ms) & (time < part.until_ms)
        first = mix(user, 14) % np.uint64(len(self._catalogue))
        product = ((first.astype(np.int64) + page) % len(self._catalogue)).astype(np.int32)
        return views(time[here], product[here], user[here], session=mix(user[here], 15).astype(np.int64))


@dataclass(frozen=True, slots=True)
class Crawler:
    """Bots that walk the catalogue with gaps of their own (OWASP OAT-011, scraping).

    Args:
        start, duration: of the visit.
        bots: user ids; each walks from another product.
        gap_s: seconds between two pages of a bot: the mean of even gaps, the median of log-normal ones.
        jitter: even gaps are gap_s · (1 ± jitter), 0 to 1.
        timing: uniform, as above; log_normal, as shoppers' gaps.
        sigma: spread of ln(gap) of log-normal ones.
        pages_per_session: after so many pages, about, a new session; 0 keeps one.
    """

    KIND: ClassVar = "crawler"
    HITS: ClassVar = ("actor",)

    start: datetime
    duration: timedelta
    bots: int
    gap_s: float
    jitter: float = 0.1
    timing: str = "uniform"
    sigma: float = 0.97
    pages_per_session: int = 0

    def check(self) -> None:
        """Whether the figures fit.

        Raises:
            ConfigurationError: one does not.
        """
        check(self.bots >= 1, "crawler", "at least 1 bot", self.bots)
        check(0.05 <= self.gap_s <= _DAY_S, "crawler", "a gap of 0.05 to 86400 s", self.gap_s)  # noqa: PLR2004
        check(0 <= self.jitter <= 1, "crawler", "a jitter of 0 to 1", self.jitter)
        check(self.timing in _TIMINGS, "crawler", f"a timing of {', '.join(_TIMINGS)}", repr(self.timing))
        check(0 <= self.sigma <= 3, "crawler", "a sigma of 0 to 3", self.sigma)  # noqa: PLR2004
        check(self.pages_per_session >= 0, "crawler", "0 or more pages per session", self.pages_per_session)
        check_size("crawler", self.bots * self._pages())

    def _pages(self) -> int:
        """Enough for the whole visit."""
        shortest = self.gap_s * (1 if self.timing == "log_normal" else 1 - self.jitter / 2)
        return int(1.2 * self.duration / _SECOND / shortest) + 20

    def build(self, world: World) -> Overlay:
        """Its running part."""
        self.check()
        window = world.window("crawler", self.start, self.duration)
        rng, pages, actors = world.rng(), self._pages(), world.strangers(self.bots)
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
        return Scripted("crawler", window, actors, views(time, product, user, session))


@dataclass(frozen=True, slots=True)
class Crowd:
    """Very many ids, each used for a few pages anywhere in the shop, in one go (OWASP OAT-015 or -011, distributed).

    Args:
        start: of the attack.
        duration: how long it takes until every id was used.
        ids: how many.
        share: their events against the genuine ones, at the start; with ids and events it gives the duration.
        least_events, most_events: of an id.
    """

    KIND: ClassVar = "crowd"
    HITS: ClassVar = ("site",)

    start: datetime
    duration: timedelta
    ids: int
    share: float
    least_events: int = 1
    most_events: int = 5

    @staticmethod
    def lasts(values: dict[str, float], rate: float) -> timedelta:
        """How long ids, share and events take at a genuine rate (events per second)."""
        mean = (values.get("least_events", 1) + values.get("most_events", 5)) / 2
        return timedelta(seconds=values["ids"] * mean / (values["share"] * rate))

    def check(self) -> None:
        """Whether the figures fit.

        Raises:
            ConfigurationError: one does not.
        """
        check(self.ids >= 1, "crowd", "at least 1 id", self.ids)
        check(0 < self.share <= 10, "crowd", "a share of 0 to 10", self.share)  # noqa: PLR2004
        check(1 <= self.least_events <= self.most_events, "crowd", "1 event an id or more", self.least_events)
        check_size("crowd", self.ids * self.most_events)

    def build(self, world: World) -> Overlay:
        """Its running part."""
        self.check()
        window = world.window("crowd", self.start, self.duration)
        rng, actors = world.rng(), world.strangers(self.ids)
        counts = rng.integers(self.least_events, self.most_events + 1, self.ids)
        total = int(counts.sum())
        starts = window.from_ms + (rng.random(self.ids) * (window.until_ms - window.from_ms)).astype(np.int64)
        gaps = log_normal_gaps(rng, total, 10.0, 0.8)
        time = steps(starts, gaps, counts)
        product = rng.integers(0, len(world.catalogue), total, dtype=np.int32)
        user = np.repeat(actors, counts)
        return Scripted("crowd", window, actors, views(time, product, user, mix(user, 15).astype(np.int64)))


@dataclass(frozen=True, slots=True)
class Rotation:
    """One walk over the catalogue at shoppers' pace, cut into visits of ever new ids (OWASP OAT-011, scraping).

    Args:
        start, duration: of the walk.
        share: of the genuine traffic, at any moment.
        least_events, most_events: of an id.
        gap_s, sigma: median of the log-normal gaps of an id, and spread of ln(gap).
    """

    KIND: ClassVar = "rotation"
    HITS: ClassVar = ("site",)

    start: datetime
    duration: timedelta
    share: float
    least_events: int = 5
    most_events: int = 20
    gap_s: float = 33.0
    sigma: float = 0.97

    def check(self) -> None:
        """Whether the figures fit.

        Raises:
            ConfigurationError: one does not.
        """
        check(0 < self.share <= 1, "rotation", "a share of 0 to 1", self.share)
        check(1 <= self.least_events <= self.most_events, "rotation", "1 event an id or more", self.least_events)
        check(0.05 <= self.gap_s <= _DAY_S, "rotation", "a gap of 0.05 to 86400 s", self.gap_s)  # noqa: PLR2004
        check(0 <= self.sigma <= 3, "rotation", "a sigma of 0 to 3", self.sigma)  # noqa: PLR2004

    def build(self, world: World) -> Overlay:
        """Its running part."""
        self.check()
        window = world.window("rotation", self.start, self.duration)
        rng = world.rng()
        # No id is under way at the beginning: the share is reached when the first ids have had their turn.
        minutes = np.arange(window.from_ms, window.until_ms, MINUTE_MS)
        mean = (self.least_events + self.most_events) / 2
        expected = world.calendar.rate_at(minutes) * 60 * self.share / mean
        check_size("rotation", float(expected.sum()) * self.most_events)
        begun = rng.poisson(expected)
        ids = max(int(begun.sum()), 1)
        starts = np.repeat(minutes, begun) if begun.sum() else minutes[:1]
        starts = starts + (rng.random(ids) * MINUTE_MS).astype(np.int64)
        counts = rng.integers(self.least_events, self.most_events + 1, ids)
        time = steps(starts, log_normal_gaps(rng, int(counts.sum()), self.gap_s, self.sigma), counts)
        actors = world.strangers(ids)
        user = np.repeat(actors, counts)
        place = np.empty(len(time), np.int64)  # all ids together read each page once, in order
        place[np.argsort(time, kind="stable")] = np.arange(len(time))
        product = ((int(rng.integers(len(world.catalogue))) + place) % len(world.catalogue)).astype(np.int32)
        return Scripted("rotation", window, actors, views(time, product, user, mix(user, 15).astype(np.int64)))


def log_normal_gaps(rng: np.random.Generator, count: int, median_s: float, sigma: float) -> npt.NDArray[np.int64]:
    """Gaps like shoppers' in ms, never as long as the pause that ends a session."""
    gaps = median_s * np.exp(rng.normal(0, sigma, count))
    return np.asarray(np.minimum(gaps, real.GAP_MAX_S) * 1000, np.int64)
