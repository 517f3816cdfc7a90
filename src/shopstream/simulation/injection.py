"""What is injected into genuine traffic: attacks, faults and surges, what they hit, and the truth about them.

A scenario is a frozen declaration; its `build` gives an `Injection`, which may scale the number of visits (`surge`),
add events of its own (`add`), and change or drop events (`alter`). Genuine events are the same with and without an
attack, and actors of attacks are never genuine users, so a user id tells which events belong to an attack.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from shopstream.clock import from_ms, to_ms
from shopstream.detection.detection import Nature
from shopstream.errors import ConfigurationError
from shopstream.simulation import calibration as real
from shopstream.simulation.catalogue import Catalogue
from shopstream.simulation.event_batch import EventBatch, Ints, mix
from shopstream.simulation.intensity import TimeRange, TrafficIntensity
from shopstream.simulation.shoppers import HEAVY_USER_IDS, CategoryBias, Population

Floats = npt.NDArray[np.float64]

MAX_FACTOR = 100
"""Memory grows with the events of one minute."""

_MAX_EVENTS = 5_000_000
_TYPE_SHARES = {"view": 0.93694, "cart": 0.04643, "purchase": 0.01663}
"""Share of the events (October 2019 to April 2020, full)."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a scenario hits: the site, an event type, a category or a product.

    Args:
        column: `category_id`, `product_id` or `event_type`; empty for the site.
        value: value of that column, as text.
        place: index of the product, or of one of the category's products, in the catalogue.
    """

    column: str = ""
    value: str = ""
    place: int = -1

    def key(self) -> Mapping[str, str]:
        """Column → value, as in the key of a detection; {} for the site."""
        return {self.column: self.value} if self.column else {}

    def share(self, catalogue: Catalogue) -> float:
        """Expected share of the genuine events."""
        if self.column == "event_type":
            return _TYPE_SHARES.get(self.value, 0.0)
        if self.column == "product_id":
            return float(catalogue.weights()[self.place])
        if self.column == "category_id":
            return float(catalogue.category_until[self.place] - catalogue.category_from[self.place])
        return 1.0

    def places(self, catalogue: Catalogue) -> npt.NDArray[np.int32]:
        """Catalogue indexes of its products."""
        if self.column == "product_id":
            return np.array([self.place], np.int32)
        if self.column == "category_id":
            return np.flatnonzero(catalogue.category_id == catalogue.category_id[self.place]).astype(np.int32)
        return np.arange(len(catalogue), dtype=np.int32)


def busy_targets(catalogue: Catalogue, kind: str, share: float) -> list[Target]:
    """Targets of a kind (see `TARGETS`) that get at least that share of the genuine events."""
    if kind == "site":
        return [SITE]
    if kind == "event_type":
        return [Target(kind, value) for value, part in _TYPE_SHARES.items() if part >= share]
    if kind == "product":
        good = np.flatnonzero((catalogue.weights() >= share) & (catalogue.price > 0))
        return [Target("product_id", str(catalogue.product_id[place]), int(place)) for place in good]
    leaders = _leaders(catalogue)
    shares = catalogue.category_until[leaders] - catalogue.category_from[leaders]
    return [
        Target("category_id", str(catalogue.category_id[place]), int(place))
        for place in leaders[shares >= share].tolist()
    ]


SITE = Target()
"""The whole site."""


@lru_cache(maxsize=4)
def _leaders(catalogue: Catalogue) -> npt.NDArray[np.int64]:
    """First product of each category."""
    ids = catalogue.category_id
    return np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])


@dataclass(slots=True)
class World:
    """The shop that scenarios are built into.

    Args:
        intensity: genuine traffic, before any surge.
        catalogue: the products.
        population: the genuine users.
        seed: seed of the whole synthesis.
    """

    intensity: TrafficIntensity
    catalogue: Catalogue
    population: Population
    seed: int
    reprices: list[tuple[int, int]] = field(default_factory=list, init=False)
    _extra_ids: int = field(default=HEAVY_USER_IDS, init=False)
    _scripts: int = field(default=0, init=False)

    def extra_ids(self, count: int) -> Ints:
        """User ids that nobody else has."""
        ids = self.population.extra_ids(self._extra_ids, count)
        self._extra_ids += count
        return ids

    def rng(self) -> np.random.Generator:
        """Random numbers for one scripted attack."""
        self._scripts += 1
        return np.random.default_rng([self.seed, 0x5C12, self._scripts])

    def reprice(self, product: int, price: int) -> int:
        """A further catalogue index for a product at another price (in ten-thousandths)."""
        self.reprices.append((product, price))
        return len(self.catalogue) + len(self.reprices) - 1

    def rate(self, target: Target, at_ms: int) -> float:
        """Expected genuine events per second of a target."""
        return float(self.intensity.rate_at(np.array([at_ms]))[0]) * target.share(self.catalogue)

    def window(self, kind: str, start: datetime, duration: timedelta) -> TimeRange:
        """The time range of a scenario, cut at the end of the period.

        Raises:
            ConfigurationError: the start is outside of the period or without time zone, or the duration is not above 0.
        """
        if start.tzinfo is None:
            raise ConfigurationError(f"expected the start of a {kind} with a time zone, got {start}; attach UTC")
        begin, intensity = to_ms(start), self.intensity
        if duration <= timedelta(0):
            raise ConfigurationError(f"expected a {kind} to last longer than 0 s, got {duration}; change its duration")
        if not intensity.from_ms <= begin < intensity.until_ms:
            raise ConfigurationError(
                f"expected the {kind} to begin inside the period {intensity.describe()}, got {start:%Y-%m-%d %H:%M:%S};"
                " change its start, or --from and --days"
            )
        return TimeRange(0, begin, min(begin + duration // timedelta(milliseconds=1), intensity.until_ms))


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """What is true of one injection.

    Args:
        kind: kind of the scenario.
        nature: attack; fault: must be detected, too, but has no attacker; surge: must be called neither.
        from_time, until_time: [from, until), UTC.
        actors: user ids that occur in this injection only.
        events: number of events that it added or affected (events during a flash sale, events lost in an outage).
        key: see `Target.key`.
        first_time: time of its first event; None without events.
        scenario: id of the scenario file, if any.
        parameters: values that were drawn from that file, JSON-ready.
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
        """Whether it is an attack."""
        return self.nature is Nature.ATTACK


class Injection:
    """The running part of a scenario; the base class changes nothing.

    Args:
        kind: name in the ground truth.
        window: its time range.
        actors: user ids that act in it only.
        target: what it hits.
    """

    nature = Nature.ATTACK

    def __init__(self, kind: str, window: TimeRange, actors: Ints | None = None, target: Target = SITE) -> None:
        self.kind, self.window, self.target = kind, window, target
        self.actors = np.empty(0, np.int64) if actors is None else actors
        self.scenario: str | None = None
        self.parameters: Mapping[str, object] = {}
        self.events = 0
        self.first_ms: int | None = None

    def surge(self, minutes_ms: Ints) -> Floats:
        """Factor on the visits that begin in each minute, 1 or more."""
        return np.ones(len(minutes_ms))

    def bias(self) -> CategoryBias | None:
        """Category that the additional shoppers of a surge prefer, if any."""
        return None

    def add(self, span: TimeRange, intensity: TrafficIntensity, rng: np.random.Generator) -> EventBatch:
        """Events that it adds in a time range; over adjacent ranges, each event comes once.

        Args:
            span: a whole minute or more, not cut to the window.
            intensity: genuine traffic, surges included.
            rng: random numbers for this injection and range only.
        """
        del span, intensity, rng
        return EventBatch.empty()

    def alter(self, batch: EventBatch, *, genuine: bool) -> EventBatch:
        """Changes, drops or repeats events, its own and others'; called once for each event."""
        del genuine
        return batch

    def touch(self, times_ms: Ints) -> None:
        """Count events that it added or affected."""
        if len(times_ms):
            self.events += len(times_ms)
            first = int(times_ms.min())
            self.first_ms = first if self.first_ms is None else min(first, self.first_ms)

    def clients(self, users: Ints) -> Ints:
        """IPv4 address as number · 256 + index of the user agent, for each of its actors."""
        nets = mix(users, 7) % np.uint64(4)  # four rented networks in 198.18.0.0/15, which is reserved for tests
        address = np.uint64(0xC6120001) + (nets << np.uint64(8)) + mix(users, 8) % np.uint64(254)
        return (address << np.uint64(8)).astype(np.int64)  # user agent 0, a headless browser

    def inside(self, moments_ms: Ints) -> npt.NDArray[np.bool_]:
        """Mask of the moments inside the window."""
        return (moments_ms >= self.window.from_ms) & (moments_ms < self.window.until_ms)

    def ground_truth(self) -> tuple[GroundTruth, ...]:
        """What is true of it; complete after the last event."""
        return (self._ground_truth(self.nature, self.kind, self.window, self.events, self.first_ms),)

    def _ground_truth(
        self, nature: Nature, kind: str, window: TimeRange, events: int, first_ms: int | None
    ) -> GroundTruth:
        return GroundTruth(
            kind=kind,
            nature=nature,
            from_time=from_ms(window.from_ms),
            until_time=from_ms(window.until_ms),
            actors=tuple(self.actors.tolist()),
            events=events,
            key=self.target.key(),
            first_time=None if first_ms is None else from_ms(first_ms),
            scenario=self.scenario,
            parameters=self.parameters,
        )


class Scenario(Protocol):
    """A declaration of something to inject."""

    def build(self, world: World) -> Injection:
        """Its running part.

        Raises:
            ConfigurationError: a parameter is out of range.
        """
        ...


@dataclass(frozen=True, slots=True)
class TimedScenario:
    """What all kinds of scenarios have.

    Args:
        start, duration: when it happens.

    Attributes:
        KIND: its name in scenario files.
        TARGETS: what it can hit: site, event_type, category, product or actor.
    """

    KIND: ClassVar[str]
    TARGETS: ClassVar[tuple[str, ...]]

    start: datetime
    duration: timedelta

    def _limits(self) -> Iterator[tuple[bool, str, object]]:
        """(whether a parameter is in range, the range in words, its value)."""
        raise NotImplementedError

    def _build(self, world: World, window: TimeRange) -> Injection:
        raise NotImplementedError

    def check(self) -> None:
        """Check the parameters.

        Raises:
            ConfigurationError: a parameter is out of range.
        """
        for good, rule, value in self._limits():
            check(good, self.KIND, rule, value)

    def build(self, world: World) -> Injection:
        """Its running part; see `Scenario`."""
        self.check()
        return self._build(world, world.window(self.KIND.replace("_", " "), self.start, self.duration))


def check(good: bool, kind: str, rule: str, value: object) -> None:
    """Raise unless good.

    Raises:
        ConfigurationError: expected `rule` for a `kind`, got `value`.
    """
    if not good:
        raise ConfigurationError(f"expected {rule} for a {kind.replace('_', ' ')}, got {value}; change it")


def size_limit(events: float) -> tuple[bool, str, object]:
    """The limit of a scripted attack, so that it fits into memory; see `TimedScenario`."""
    return events <= _MAX_EVENTS, f"at most {_MAX_EVENTS:,} events", f"{events:,.0f}"


class ScriptedAttack(Injection):
    """An attack whose events are all computed when it is built; an event takes about 60 bytes.

    Args:
        kind, window, actors, target: as for an injection.
        batch: its events in any order; those outside of the window are left out.
    """

    def __init__(self, kind: str, window: TimeRange, actors: Ints, batch: EventBatch, target: Target = SITE) -> None:
        order = np.argsort(batch.time, kind="stable")
        ordered = batch.take(order)
        first, last = np.searchsorted(ordered.time, [window.from_ms, window.until_ms])
        self._batch = ordered.take(slice(first, last))
        acting = np.isin(actors, self._batch.user)
        super().__init__(kind, window, actors[acting], target)

    def add(self, span: TimeRange, intensity: TrafficIntensity, rng: np.random.Generator) -> EventBatch:
        """Its events in that time range."""
        del intensity, rng
        first, last = np.searchsorted(self._batch.time, [span.from_ms, span.until_ms])
        return self._batch.take(slice(first, last))


def views(
    time: Ints,
    product: npt.NDArray[np.int32],
    user: Ints,
    kind: npt.NDArray[np.uint8] | None = None,
    session: Ints | None = None,
) -> EventBatch:
    """A batch of page views (or of the given kinds), by default with one session per user."""
    kinds = np.zeros(len(time), np.uint8) if kind is None else kind
    sessions = mix(user, 15).astype(np.int64) if session is None else session
    return EventBatch(time, time, kinds, product, user, sessions, np.zeros(len(time), np.int64))


def steps(starts: Ints, gaps: Ints, counts: Ints) -> Ints:
    """Times of walks one after the other: each walk begins at its start, later events follow at the gaps.

    Args:
        starts: per walk.
        gaps: per event; the gap of a walk's first event is ignored.
        counts: events per walk, 1 or more.
    """
    firsts = np.cumsum(counts) - counts
    gaps = gaps.copy()
    gaps[firsts] = 0
    elapsed = np.cumsum(gaps)
    return np.asarray(elapsed + np.repeat(starts - elapsed[firsts], counts), np.int64)


def uniform(numbers: Ints, salt: int) -> Floats:
    """A hash in [0, 1) of each number."""
    return np.asarray((mix(numbers, salt) >> np.uint64(11)).astype(np.float64) / 2**53, np.float64)


def log_normal_gaps(rng: np.random.Generator, count: int, median_s: float, sigma: float) -> Ints:
    """Gaps like shoppers' in ms, shorter than the pause that ends a session."""
    gaps = median_s * np.exp(rng.normal(0, sigma, count))
    return np.asarray(np.minimum(gaps, real.GAP_MAX_S) * 1000, np.int64)
