"""Genuine traffic: shoppers with visits, sessions and a funnel, and the few heavy users.

Heavy users are resident robots and wholesalers. Of 89.7 M real sessions 374 have more than 500 events (297 users); half
of those that end within a day run at 8 events a minute or less, the pace of shoppers; four of five only view, one in 25
buys. Robots are part of the genuine traffic here, too, and the ground truth names them: detecting one is no false
alarm, missing one is no miss. Wholesalers are people who buy many products in one visit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from shopstream.clock import DAY_MS, MINUTE_MS
from shopstream.errors import ConfigurationError
from shopstream.simulation import calibration as real
from shopstream.simulation.catalogue import Catalogue
from shopstream.simulation.event_batch import EventBatch, Ints
from shopstream.simulation.intensity import TimeRange, TrafficIntensity

VIEW, CART, PURCHASE = 0, 1, 2  # indexes in KINDS
_SHORT, _LONG = 2, 6  # session lengths: too short for a cart before the purchase; long enough for two carts
_FIRST_USER_ID = 512_000_000
_USER_IDS = 67_999_979  # prime, so that multiplying modulo it scatters ids without a collision
_SCATTER = 41_234_567
_GOLDEN = 0.6180339887498949  # its multiples modulo 1 are evenly spread
_REGULARS = (3.0, 0.115)  # how unevenly sessions fall on users: exponent, and the share that flattens the very top

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CategoryBias:
    """Half of the additional visits of a surge begin in one category.

    Args:
        product: index of a product of that category.
        from_ms, until_ms: when, [from, until).
    """

    product: int
    from_ms: int
    until_ms: int

    def at(self, moments_ms: Ints) -> Floats:
        """Share of the additional visits beginning at each moment."""
        return np.where((moments_ms >= self.from_ms) & (moments_ms < self.until_ms), 0.5, 0.0)


@dataclass(frozen=True, slots=True)
class Population:
    """User ids, in the range of the real shop.

    Args:
        users: number of genuine users.
    """

    users: int

    def __post_init__(self) -> None:
        if not 1 <= self.users <= _USER_IDS // 2:
            raise ConfigurationError(f"expected 1 to {_USER_IDS // 2:,} users, got {self.users:,}; change --users")

    def draw(self, uniform: Floats) -> Ints:
        """Ids of genuine users; some come often."""
        exponent, flat = _REGULARS
        return self._ids((self.users * (flat + (1 - flat) * uniform) ** exponent).astype(np.int64))

    def extra_ids(self, first: int, count: int) -> Ints:
        """Ids that no shopper has: numbers `first` to `first + count`."""
        if self.users + first + count > _USER_IDS:
            raise ConfigurationError(
                f"expected at most {_USER_IDS - self.users - first:,} further ids, got {count:,}; ask for fewer"
            )
        return self._ids(self.users + first + np.arange(count, dtype=np.int64))

    @staticmethod
    def _ids(numbers: Ints) -> Ints:
        return _FIRST_USER_ID + numbers * _SCATTER % _USER_IDS


def _by_length(steps: tuple[tuple[int, float], ...]) -> Floats:
    """Value per session length from (length from, value) steps."""
    values = np.zeros(real.LENGTH_MAX + 1)
    for length, value in steps:
        values[length:] = value
    return values


def _length_table() -> npt.NDArray[np.int64]:
    """Session lengths at 2¹⁶ evenly spaced points of their distribution."""
    at, share = (np.array(column, np.float64) for column in zip(*real.LENGTH_CCDF, strict=True))
    lengths = np.arange(1, real.LENGTH_MAX + 1)
    ccdf = np.exp(np.interp(np.log(lengths), np.log(at), np.log(share)))
    tail = lengths > at[-1]
    ccdf[tail] = share[-1] * (lengths[tail] / at[-1]) ** -real.LENGTH_TAIL_EXPONENT
    uniform = (np.arange(2**16) + 0.5) / 2**16
    return np.searchsorted(-ccdf, -uniform, side="right").clip(1)


_LENGTHS = _length_table()
_MEAN_LENGTH = float(_LENGTHS.mean())
_DUPLICATION = 1.0031  # events that the duplicate shares add, at the usual mix
_BUYS, _CARTS_ONLY = _by_length(real.PURCHASE_BY_LENGTH), _by_length(real.CART_ONLY_BY_LENGTH)
_SENT_TWICE = np.array([share / (1 - share) for share in real.DUPLICATE_SHARES], np.float32)
_BY_HOUR = np.array(real.CART_PURCHASE_FACTOR_BY_HOUR)


class Shoppers:
    """The visits of shoppers.

    Args:
        intensity: expected events per minute.
        catalogue: the products.
        population: the users.
    """

    def __init__(self, intensity: TrafficIntensity, catalogue: Catalogue, population: Population) -> None:
        self._intensity, self._catalogue, self._population = intensity, catalogue, population

    def events(
        self, span: TimeRange, rng: np.random.Generator, biases: Sequence[CategoryBias] = (), guest: int | None = None
    ) -> EventBatch:
        """All events of the visits that begin in a time range, also those after its end.

        Args:
            span: whole minutes.
            rng: random numbers.
            biases: categories that shoppers prefer.
            guest: number of the first visit, for visits beside the usual ones, so that calls share the users out;
                None draws users for this range only.
        """
        visits = self._visits(span, rng)
        if not len(visits.start):
            return EventBatch.empty()
        time = visits.times(rng)
        product = self._products(rng, visits, biases)
        kind = self._funnel(rng, visits, time, product)
        count = len(visits.start)
        people = _spread(rng, count) if guest is None else np.mod((guest + np.arange(count)) * _GOLDEN, 1.0)
        user = self._population.draw(people)[visits.visit]
        session = rng.integers(0, 2**63, len(visits.visit))
        batch = EventBatch(
            arrival=time,
            time=time,
            kind=kind,
            product=product,
            user=np.repeat(user, visits.lengths),
            session=np.repeat(session, visits.lengths),
            number=np.arange(visits.total) + (span.number << 32),  # the synthesis renumbers surplus visits
        )
        twice = np.flatnonzero(rng.random(visits.total, np.float32) < _SENT_TWICE[kind])
        whole = EventBatch.concat([batch, batch.take(twice)])
        ends = np.repeat((visits.start + real.VISIT_MAX_MINUTES * MINUTE_MS)[visits.visit], visits.lengths)
        here = whole.time < np.r_[ends, ends[twice]]
        return whole if here.all() else whole.take(here)

    def _visits(self, span: TimeRange, rng: np.random.Generator) -> "_Visits":
        expected = self._intensity.expected(span) / (_MEAN_LENGTH * _DUPLICATION) * (1 - real.RETURN_SHARE)
        minute = np.repeat(np.arange(len(expected)), rng.poisson(expected))
        start = span.from_ms + minute * MINUTE_MS + (rng.random(len(minute)) * MINUTE_MS).astype(np.int64)
        sessions = rng.geometric(1 - real.RETURN_SHARE, len(start))
        visit = np.repeat(np.arange(len(start)), sessions)
        lengths = _LENGTHS[rng.integers(0, 2**16, len(visit), dtype=np.uint16)]
        return _Visits(start, np.cumsum(sessions) - sessions, visit, np.cumsum(lengths) - lengths, lengths)

    def _products(
        self, rng: np.random.Generator, visits: "_Visits", biases: Sequence[CategoryBias]
    ) -> npt.NDArray[np.int32]:
        """The first product by popularity; then a revisit, a product of the same category, or any product."""
        first, lengths, total = visits.first, visits.lengths, visits.total
        opener = self._catalogue.draw(rng.random(len(first)))
        for bias in biases:
            led = np.flatnonzero(rng.random(len(first)) < bias.at(visits.start)[visits.visit])
            opener[led] = self._catalogue.draw_alike(np.full(len(led), bias.product), rng.random(len(led)))
        dice = rng.random(total, np.float32)
        dice[first] = 2.0  # the first product is neither a revisit nor drawn again
        again = np.flatnonzero(dice < real.REVISIT_SHARE)
        switch = real.REVISIT_SHARE + (1 - real.REVISIT_SHARE) * real.SWITCH_CATEGORY_SHARE
        product = np.repeat(opener, lengths)
        alike = np.flatnonzero((dice >= switch) & (dice < 1.0))
        product[alike] = self._catalogue.draw_alike(product[alike], rng.random(len(alike)))
        other = np.flatnonzero((dice >= real.REVISIT_SHARE) & (dice < switch))
        product[other] = self._catalogue.draw(rng.random(len(other)))
        start = np.repeat(first, lengths)[again]
        seen = start + (dice[again] / real.REVISIT_SHARE * (again - start)).astype(np.int64)
        source = np.arange(total)
        source[again] = np.minimum(seen, again - 1)
        while True:  # follow revisits of revisits to the first view of the product
            further = source[source[again]]
            if np.array_equal(further, source[again]):
                break
            source[again] = further
        product[again] = product[source[again]]
        return product

    def _funnel(
        self, rng: np.random.Generator, visits: "_Visits", time: Ints, product: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.uint8]:
        """Event types; carts and purchases take the product of the view before, which changes `product`."""
        first, lengths = visits.first, visits.lengths
        kind = np.zeros(len(time), np.uint8)
        hour = time[first] // (60 * MINUTE_MS) % 24
        appeal = self._catalogue.appeal[product[first]] * _BY_HOUR[hour]
        dice = rng.random(len(first))
        buys = dice < _BUYS[lengths] * appeal
        carts = ~buys & (dice < (_BUYS[lengths] + _CARTS_ONLY[lengths]) * appeal)
        alone = np.flatnonzero(buys & (lengths == 1))
        kind[first[alone]] = PURCHASE
        pair = np.flatnonzero(buys & (lengths == _SHORT))
        _follow(kind, product, first[pair] + 1, PURCHASE)
        active = np.flatnonzero((buys & (lengths > _SHORT)) | carts)
        base, length, pays = first[active], lengths[active], buys[active]
        twice = (length >= _LONG) & (rng.random(len(active)) < real.SECOND_CYCLE_SHARES[0])
        half = np.where(twice, length // 2, 0)
        _fill_cart(rng, kind, product, runs=(base + half, length - half), pays=pays)
        pays_early = pays[twice] & (rng.random(twice.sum()) < real.SECOND_CYCLE_SHARES[1])
        _fill_cart(rng, kind, product, runs=(base[twice], half[twice]), pays=pays_early)
        kind[self._catalogue.price[product] == 0] = VIEW
        return kind


@dataclass(frozen=True, slots=True, eq=False)
class _Visits:
    """Visits, their sessions in order, and the events of the sessions in order.

    Args:
        start: per visit, ms.
        opening: per visit, index of its first session.
        visit: per session, index of its visit.
        first: per session, index of its first event.
        lengths: per session, number of events.
    """

    start: Ints
    opening: Ints
    visit: Ints
    first: Ints
    lengths: Ints

    @property
    def total(self) -> int:
        """Number of events."""
        return int(self.lengths.sum())

    def times(self, rng: np.random.Generator) -> Ints:
        """Time of each event, ms: log-normal gaps in sessions, longer breaks between the sessions of a visit."""
        pace = rng.normal(real.GAP_MU, real.GAP_BETWEEN_SIGMA, len(self.start)).astype(np.float32)[self.visit]
        gap = rng.standard_normal(self.total, np.float32)
        straight, bent = (np.float32(share * real.GAP_WITHIN_SIGMA) for share in real.GAP_TAILS)
        gap *= straight + bent * np.square(gap)
        gap += np.repeat(pace, self.lengths)
        np.exp(gap, out=gap)
        np.minimum(gap, real.GAP_MAX_S, out=gap)
        gap_ms = (gap * 1000).astype(np.int64)
        breaks = np.exp(rng.normal(real.BREAK_MU, real.BREAK_SIGMA, len(self.first))) * 1000
        gap_ms[self.first] = breaks.astype(np.int64) + MINUTE_MS
        self._hurry(rng, gap_ms)
        opens = self.first[self.opening]
        gap_ms[opens] = 0
        elapsed = np.cumsum(gap_ms)
        return elapsed + np.repeat((self.start - elapsed[opens])[self.visit], self.lengths)

    def _hurry(self, rng: np.random.Generator, gap_ms: Ints) -> None:
        """Short pauses in a row for the few who click through a list."""
        pauses, shortest, longest = real.HASTY_RUN
        hasty = np.flatnonzero((rng.random(len(self.first)) < real.HASTY_SHARE) & (self.lengths > pauses))
        at = (self.first[hasty, None] + 1 + np.arange(pauses)).ravel()
        gap_ms[at] = ((shortest + (longest - shortest) * rng.random(len(at))) * 1000).astype(np.int64)


def _spread(rng: np.random.Generator, count: int) -> Floats:
    """Stratified uniform numbers in random order, so that nobody comes twice at once in a surge."""
    return (rng.permutation(count) + rng.random(count)) / count


def _fill_cart(
    rng: np.random.Generator,
    kind: npt.NDArray[np.uint8],
    product: npt.NDArray[np.int32],
    *,
    runs: tuple[Ints, Ints],
    pays: npt.NDArray[np.bool_],
) -> None:
    """One cart per run (first event, number of events), and its purchase for those who pay."""
    base, length = runs
    room = length - 1 - pays
    cart = base + 1 + (rng.random(len(base)) * room).astype(np.int64)
    _follow(kind, product, cart, CART)
    end = base + length
    # Some add more pieces of the same product.
    more = (rng.random(len(base)) < real.MORE_PIECES_SHARE) & (cart + 1 + pays < end)
    _follow(kind, product, cart[more] + 1, CART)
    look = (rng.random(len(base)) < real.LOOK_AGAIN_SHARE) & (cart + 1 + more + pays < end)
    paid = np.flatnonzero(pays)
    purchase = (cart + 1 + more + look)[paid]
    kind[purchase] = PURCHASE
    product[purchase] = product[cart[paid]]


def _follow(kind: npt.NDArray[np.uint8], product: npt.NDArray[np.int32], at: Ints, what: int) -> None:
    """Set the kind of events, and give them the product of the event before."""
    kind[at] = what
    product[at] = product[at - 1]


HEAVY_USER_IDS = 400
"""Number of user ids for heavy users, the first after those of shoppers; the last tenth are wholesalers."""

_ROBOTS = HEAVY_USER_IDS * 9 // 10
_LOOK_BACK_DAYS = 3
_MIN_GAP_MS = 50


@dataclass(slots=True)
class HeavyUsers:
    """Visits of heavy users, generated by the day on which they begin; a day is the same in every period.

    Args:
        intensity: expected events per minute.
        catalogue: the products.
        population: gives their ids.
        seed: seed of the whole synthesis.
    """

    intensity: TrafficIntensity
    catalogue: Catalogue
    population: Population
    seed: int
    _days: dict[int, EventBatch] = field(default_factory=dict, init=False)
    _seen: set[int] = field(default_factory=set, init=False)

    def events(self, span: TimeRange) -> EventBatch:
        """Their events in a time range."""
        last = (span.until_ms - 1) // DAY_MS
        days = range(span.from_ms // DAY_MS - _LOOK_BACK_DAYS, last + 1)
        for day in [known for known in self._days if known not in days]:
            del self._days[day]
        parts: list[EventBatch] = []
        for day in days:
            if day not in self._days:
                self._days[day] = self._day(day)
            batch = self._days[day]
            parts.append(batch.take((batch.time >= span.from_ms) & (batch.time < span.until_ms)))
        return EventBatch.concat(parts)

    def note(self, batch: EventBatch) -> None:
        """Remember the robots among these events."""
        self._seen.update(np.intersect1d(batch.user, self._ids()[:_ROBOTS]).tolist())

    def residents(self) -> tuple[int, ...]:
        """Ids of the robots in the events so far."""
        return tuple(sorted(self._seen))

    def _ids(self) -> Ints:
        return self.population.extra_ids(0, HEAVY_USER_IDS)

    def _day(self, day: int) -> EventBatch:
        """All events of the visits that begin on a day (days since the epoch)."""
        rng = np.random.default_rng([self.seed, 0x4E57, day % 2**32])
        days = max((self.intensity.until_ms - self.intensity.from_ms) // DAY_MS, 1)
        volume = self.intensity.total() / days
        walks = [self._robot(rng, day) for _ in range(rng.poisson(volume * real.ROBOT_VISITS_PER_EVENT))]
        walks += [self._wholesaler(rng, day) for _ in range(rng.poisson(volume * real.WHOLESALE_VISITS_PER_EVENT))]
        if rng.random() < real.ROTATOR_DAYS * min(volume / real.DAILY_EVENTS, 1.0):
            walks.append(self._rotator(rng, day))
        batch = EventBatch.concat([EventBatch.empty(), *walks])
        batch.number = (3 << 54) + (day << 28) + np.arange(len(batch))
        return batch

    def _robot(self, rng: np.random.Generator, day: int) -> EventBatch:
        wanted = int(_quantile(real.ROBOT_EVENTS, rng.random()))
        per_minute = _quantile(real.ROBOT_PACES, rng.random())
        stays_ms = wanted / per_minute * 60_000
        if rng.random() < real.ROBOT_DAYS_SHARE:  # a third of them stay longer than a day
            stays_ms = DAY_MS * (1 + rng.random() * (_LOOK_BACK_DAYS - 1))
        stays_ms = min(stays_ms, (_LOOK_BACK_DAYS - 1) * DAY_MS)
        gaps = np.exp(rng.normal(0, 0.3 + 0.7 * rng.random(), wanted))
        gaps = np.maximum(gaps * (stays_ms / gaps.sum()), _MIN_GAP_MS).astype(np.int64)
        gaps[0] = 0
        time = _begin(rng, day) + np.cumsum(gaps)
        time = time[time < (day + _LOOK_BACK_DAYS) * DAY_MS]
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

    def _rotator(self, rng: np.random.Generator, day: int) -> EventBatch:
        """One user with a new session about every two minutes, all day."""
        begin = rng.integers(60_000, 180_000)
        time = day * DAY_MS + np.cumsum(np.r_[begin, (real.ROTATOR_GAP_S * 1000 * rng.gamma(4, 0.25, 750)).astype(int)])
        time = time[time < (day + 1) * DAY_MS]
        product = self.catalogue.draw(rng.random(len(time)))
        kind = np.zeros(len(time), np.uint8)
        return _walk(time, kind, product, int(self._ids()[0]), rng.integers(0, 2**62, len(time)))

    def _wholesaler(self, rng: np.random.Generator, day: int) -> EventBatch:
        """View, cart and purchase of many products of a category or two."""
        bought = int(rng.integers(4, 16))
        opener = self.catalogue.draw(rng.random(1)).repeat(bought)
        product = np.repeat(self.catalogue.draw_alike(opener, rng.random(bought)), 3)
        kind = np.tile(np.array([VIEW, CART, PURCHASE], np.uint8), bought)
        gaps = np.exp(rng.normal(real.GAP_MU - 0.3, 0.6, len(kind))) * 1000
        gaps[0] = 0
        time = _begin(rng, day) + np.cumsum(gaps.astype(np.int64))
        kind[self.catalogue.price[product] == 0] = VIEW
        user = self._ids()[_ROBOTS + int(rng.integers(HEAVY_USER_IDS - _ROBOTS))]
        return _walk(time, kind, product, int(user), np.full(len(time), rng.integers(2**62)))


def _walk(
    time: Ints, kind: npt.NDArray[np.uint8], product: npt.NDArray[np.int32], user: int, session: Ints
) -> EventBatch:
    return EventBatch(time, time, kind, product, np.full(len(time), user), session, np.zeros(len(time), np.int64))


def _begin(rng: np.random.Generator, day: int) -> int:
    """A random moment of a day, by the share of each hour."""
    hour = int(rng.choice(24, p=np.array(real.HOUR_SHARES) / sum(real.HOUR_SHARES)))
    return day * DAY_MS + int((hour + rng.random()) * (timedelta(hours=1) / timedelta(milliseconds=1)))


def _quantile(table: Sequence[tuple[float, float]], uniform: float) -> float:
    """Quantile of a distribution, log-linear between the known values."""
    at, value = np.array(table).T
    return float(np.exp(np.interp(uniform, at, np.log(value))))
