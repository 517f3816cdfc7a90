"""What is laid over the genuine traffic: attacks, faults, surges.

A scenario is a frozen declaration (`Scenario`) whose `build` gives its running part (`Overlay`). An overlay may scale
the number of visits (`surge`), add events of its own (`add`), and change or drop events (`alter`); the synthesis merges
all by time. Genuine events are the same with and without an attack, and actors of attacks are no genuine users, so the
truth about each event is known from its user id.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shopstream.clock import from_ms, to_ms
from shopstream.detection.detection import Nature
from shopstream.errors import ConfigurationError
from shopstream.simulation.catalogue import Catalogue
from shopstream.simulation.event_batch import Block, Ints, mix
from shopstream.simulation.heavy_users import RESIDENT_IDS
from shopstream.simulation.intensity import Calendar, Span
from shopstream.simulation.shoppers import Lead, Population
from shopstream.simulation.target import SITE, Key

__all__ = ["Episode", "Label", "Overlay", "Scenario", "World"]

Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class World:
    """What a scenario is built into.

    Args:
        calendar: before any surge.
        catalogue: the products.
        population: the genuine users.
        seed: of the whole synthesis.
    """

    calendar: Calendar
    catalogue: Catalogue
    population: Population
    seed: int
    reprices: list[tuple[int, int]] = field(default_factory=list, init=False)
    _strangers: int = field(default=RESIDENT_IDS, init=False)
    _scripts: int = field(default=0, init=False)

    def strangers(self, count: int) -> Ints:
        """Ids that nobody else has."""
        ids = self.population.strangers(self._strangers, count)
        self._strangers += count
        return ids

    def rng(self) -> np.random.Generator:
        """Chance for one scenario that decides all when it is built."""
        self._scripts += 1
        return np.random.default_rng([self.seed, 0x5C12, self._scripts])

    def reprice(self, product: int, price: int) -> int:
        """A further place, behind the catalogue's, for a product at another price (ten-thousandths)."""
        self.reprices.append((product, price))
        return len(self.catalogue) + len(self.reprices) - 1

    def rate(self, key: Key, at_ms: int) -> float:
        """Expected genuine events per second of a key."""
        return float(self.calendar.rate_at(np.array([at_ms]))[0]) * key.share(self.catalogue)

    def window(self, kind: str, start: datetime, duration: timedelta) -> Span:
        """The scenario's time, cut at the end of the period.

        Raises:
            ConfigurationError: it begins outside of the period or has no time zone, or lasts no time.
        """
        if start.tzinfo is None:
            raise ConfigurationError(f"expected the start of a {kind} with a time zone, got {start}; attach UTC")
        begin, calendar = to_ms(start), self.calendar
        if duration <= timedelta(0):
            raise ConfigurationError(f"expected a {kind} to last longer than 0 s, got {duration}; change its duration")
        if not calendar.from_ms <= begin < calendar.until_ms:
            raise ConfigurationError(
                f"expected the {kind} to begin inside the period {calendar.describe()}, got {start:%Y-%m-%d %H:%M:%S}; "
                "change its start, or --from and --days"
            )
        return Span(0, begin, min(begin + duration // timedelta(milliseconds=1), calendar.until_ms))


@dataclass(frozen=True, slots=True)
class Label:
    """Where an overlay comes from, for the truth.

    Args:
        scenario: id of the scenario file.
        parameters: what was drawn, JSON-ready.
    """

    scenario: str
    parameters: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Episode:
    """Ground truth about one scenario.

    Args:
        kind: the overlay's name.
        nature: attack; fault: to be found, too, but nobody's doing; surge: must be called neither.
        from_time, until_time: UTC; until is exclusive.
        actors: user ids that act in it and nowhere else.
        events: how many it added (or concerns: written during a flash sale, missing from an outage).
        key: what it hits: {} for the site, or `category_id`, `product_id` or `event_type` → value as text.
        first_time: of its first event; None if there was none.
        scenario: id of the scenario file; None if it was laid by hand.
        parameters: what was drawn from that file, JSON-ready.
    """

    kind: str
    nature: Nature
    from_time: datetime
    until_time: datetime
    actors: tuple[int, ...]
    events: int
    key: Mapping[str, str] = field(default_factory=dict)
    first_time: datetime | None = None
    scenario: str | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)

    @property
    def hostile(self) -> bool:
        """An attack."""
        return self.nature is Nature.ATTACK


class Overlay:
    """The running part of a scenario; the base changes nothing.

    Args:
        kind: its name in the truth.
        window: from when until when.
        actors: user ids of its own.
        key: what it hits.
    """

    nature = Nature.ATTACK

    def __init__(self, kind: str, window: Span, actors: Ints | None = None, key: Key | None = None) -> None:
        self.kind, self.window, self.key = kind, window, key or SITE
        self.actors = np.empty(0, np.int64) if actors is None else actors
        self.label: Label | None = None
        self.events = 0
        self.first_ms: int | None = None

    def surge(self, minutes_ms: Ints) -> Floats:
        """Factor on the visits that begin in each minute, 1 or more."""
        return np.ones(len(minutes_ms))

    def leads(self) -> Lead | None:
        """What draws the additional shoppers of a surge to a category, if anything."""
        return None

    def add(self, span: Span, calendar: Calendar, rng: np.random.Generator) -> Block:
        """Events of its own in a stretch of time, each once over all stretches.

        Args:
            span: a whole minute or more, not cut to the window.
            calendar: genuine traffic, surges included.
            rng: a generator for this overlay and stretch alone.
        """
        del span, calendar, rng
        return Block.empty()

    def alter(self, block: Block, *, genuine: bool) -> Block:
        """Changes, drops or repeats events, its own and others'; sees each event once."""
        del genuine
        return block

    def touch(self, times_ms: Ints) -> None:
        """Count events that it added or concerns."""
        if len(times_ms):
            self.events += len(times_ms)
            first = int(times_ms.min())
            self.first_ms = first if self.first_ms is None else min(first, self.first_ms)

    def clients(self, users: Ints) -> Ints:
        """Address (IPv4 as number) · 256 + place of the user agent, for each of its actors."""
        nets = mix(users, 7) % np.uint64(4)  # it rented four networks; 198.18.0.0/15 belongs to nobody on the internet
        address = np.uint64(0xC6120001) + (nets << np.uint64(8)) + mix(users, 8) % np.uint64(254)
        return (address << np.uint64(8)).astype(np.int64)  # user agent 0, a headless browser

    def inside(self, moments_ms: Ints) -> npt.NDArray[np.bool_]:
        """Which moments lie in the window."""
        return (moments_ms >= self.window.from_ms) & (moments_ms < self.window.until_ms)

    def episodes(self) -> tuple[Episode, ...]:
        """What is true of it, complete when the last event is written."""
        return (self._episode(self.nature, self.kind, self.window, self.events, self.first_ms),)

    def _episode(self, nature: Nature, kind: str, window: Span, events: int, first_ms: int | None) -> Episode:
        return Episode(
            kind=kind,
            nature=nature,
            from_time=from_ms(window.from_ms),
            until_time=from_ms(window.until_ms),
            actors=tuple(self.actors.tolist()),
            events=events,
            key=self.key.text(),
            first_time=None if first_ms is None else from_ms(first_ms),
            scenario=self.label.scenario if self.label else None,
            parameters=self.label.parameters if self.label else {},
        )


class Scenario(Protocol):
    """A declaration of something to lay over the genuine traffic."""

    def build(self, world: World) -> Overlay:
        """Its running part.

        Raises:
            ConfigurationError: a figure does not fit; the message says which.
        """
        ...
