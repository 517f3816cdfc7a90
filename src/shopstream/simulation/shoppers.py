"""Genuine shoppers: visits, sessions, gaps, products looked at, funnel; a slice of start times at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shopstream.errors import ConfigurationError
from shopstream.simulation import calibration as real
from shopstream.simulation.catalogue import Catalogue
from shopstream.simulation.event_batch import Block
from shopstream.simulation.intensity import MINUTE_MS, Calendar, Span

__all__ = ["CART", "PURCHASE", "VIEW", "Lead", "Population", "Shoppers"]

VIEW, CART, PURCHASE = 0, 1, 2  # places in KINDS
_SHORT, _LONG = 2, 6  # events of a session: no room for a cart before the purchase; room for two carts
_FIRST_USER_ID = 512_000_000
_USER_IDS = 67_999_979  # prime, so that multiplying modulo it scatters ids without a collision
_SCATTER = 41_234_567
_GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, lie apart evenly however many there are
_REGULARS = (3.0, 0.115)  # how unevenly sessions fall on users: exponent, and the share that flattens the very top

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Lead(Protocol):
    """Something that makes visits begin in the category of one product."""

    @property
    def product(self) -> int:
        """A product of that category, by its place in the catalogue."""
        ...

    def at(self, moments_ms: Ints) -> Floats:
        """Share of the additional visits beginning at each moment that it draws to the category."""
        ...


@dataclass(frozen=True, slots=True)
class Population:
    """Everybody who may come; ids lie in the range of the real shop, strangers (see `Overlay`) among them.

    Args:
        users: genuine ones.
    """

    users: int

    def __post_init__(self) -> None:
        if not 1 <= self.users <= _USER_IDS // 2:
            raise ConfigurationError(f"expected 1 to {_USER_IDS // 2:,} users, got {self.users:,}; change --users")

    def draw(self, uniform: Floats) -> Ints:
        """Ids of genuine users, some of them regulars."""
        exponent, flat = _REGULARS
        return self._ids((self.users * (flat + (1 - flat) * uniform) ** exponent).astype(np.int64))

    def strangers(self, first: int, count: int) -> Ints:
        """Ids that no genuine user has: numbers `first` to `first + count`."""
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
    """The genuine traffic.

    Args:
        calendar: how many come when.
        catalogue: what they look at.
        population: who comes.
    """

    def __init__(self, calendar: Calendar, catalogue: Catalogue, population: Population) -> None:
        self._calendar, self._catalogue, self._population = calendar, catalogue, population

    def events(
        self, span: Span, rng: np.random.Generator, leads: Sequence[Lead] = (), guest: int | None = None
    ) -> Block:
        """All events of the visits that begin in a slice; many of them lie behind its end, none by more than a visit.

        Args:
            span: whole minutes.
            rng: all chance comes from here.
            leads: what draws shoppers to one category.
            guest: of visits that come beside others', the number of the first, so that calls share out the people;
                None draws them for this slice alone.
        """
        visits = self._visits(span, rng)
        if not len(visits.start):
            return Block.empty()
        time = visits.times(rng)
        product = self._products(rng, visits, leads)
        kind = self._funnel(rng, visits, time, product)
        count = len(visits.start)
        people = _spread(rng, count) if guest is None else np.mod((guest + np.arange(count)) * _GOLDEN, 1.0)
        user = self._population.draw(people)[visits.visit]
        session = rng.integers(0, 2**63, len(visits.visit))
        block = Block(
            arrival=time,
            time=time,
            kind=kind,
            product=product,
            user=np.repeat(user, visits.lengths),
            session=np.repeat(session, visits.lengths),
            key=np.arange(visits.total) + (span.number << 32),  # of surplus visits, the synthesis says it
        )
        twice = np.flatnonzero(rng.random(visits.total, np.float32) < _SENT_TWICE[kind])
        whole = Block.concat([block, block.take(twice)])
        ends = np.repeat((visits.start + real.VISIT_MAX_MINUTES * MINUTE_MS)[visits.visit], visits.lengths)
        here = whole.time < np.r_[ends, ends[twice]]
        return whole if here.all() else whole.take(here)

    def _visits(self, span: Span, rng: np.random.Generator) -> "_Visits":
        expected = self._calendar.expected(span) / (_MEAN_LENGTH * _DUPLICATION) * (1 - real.RETURN_SHARE)
        minute = np.repeat(np.arange(len(expected)), rng.poisson(expected))
        start = span.from_ms + minute * MINUTE_MS + (rng.random(len(minute)) * MINUTE_MS).astype(np.int64)
        sessions = rng.geometric(1 - real.RETURN_SHARE, len(start))
        visit = np.repeat(np.arange(len(start)), sessions)
        lengths = _LENGTHS[rng.integers(0, 2**16, len(visit), dtype=np.uint16)]
        return _Visits(start, np.cumsum(sessions) - sessions, visit, np.cumsum(lengths) - lengths, lengths)

    def _products(self, rng: np.random.Generator, visits: "_Visits", leads: Sequence[Lead]) -> npt.NDArray[np.int32]:
        """A first product by popularity; then one seen before, one of the same category, or any."""
        first, lengths, total = visits.first, visits.lengths, visits.total
        opener = self._catalogue.draw(rng.random(len(first)))
        for lead in leads:
            led = np.flatnonzero(rng.random(len(first)) < lead.at(visits.start)[visits.visit])
            opener[led] = self._catalogue.draw_alike(np.full(len(led), lead.product), rng.random(len(led)))
        dice = rng.random(total, np.float32)
        dice[first] = 2.0  # neither a revisit nor drawn again below
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
        while True:  # a revisit of a revisit: follow to the event that first showed the product
            further = source[source[again]]
            if np.array_equal(further, source[again]):
                break
            source[again] = further
        product[again] = product[source[again]]
        return product

    def _funnel(
        self, rng: np.random.Generator, visits: "_Visits", time: Ints, product: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.uint8]:
        """Turns views into carts and purchases of the product just viewed; writes the products of those, too."""
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
        _fill_cart(rng, kind, product, stretches=(base + half, length - half), pays=pays)
        pays_early = pays[twice] & (rng.random(twice.sum()) < real.SECOND_CYCLE_SHARES[1])
        _fill_cart(rng, kind, product, stretches=(base[twice], half[twice]), pays=pays_early)
        kind[self._catalogue.price[product] == 0] = VIEW
        return kind


@dataclass(frozen=True, slots=True, eq=False)
class _Visits:
    """Visits of a slice, their sessions in order, the events of those in order.

    Args:
        start: per visit, ms.
        opening: per visit, the place of its first session.
        visit: per session, the place of its visit.
        first: per session, the place of its first event.
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
        """Per event, ms: log-normal gaps inside sessions, longer breaks between the sessions of a visit."""
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
        """A few click through a list: a run of short pauses."""
        pauses, shortest, longest = real.HASTY_RUN
        hasty = np.flatnonzero((rng.random(len(self.first)) < real.HASTY_SHARE) & (self.lengths > pauses))
        at = (self.first[hasty, None] + 1 + np.arange(pauses)).ravel()
        gap_ms[at] = ((shortest + (longest - shortest) * rng.random(len(at))) * 1000).astype(np.int64)


def _spread(rng: np.random.Generator, count: int) -> Floats:
    """Uniform numbers in random order, one in each of so many equal steps: nobody comes twice at once in a surge."""
    return (rng.permutation(count) + rng.random(count)) / count


def _fill_cart(
    rng: np.random.Generator,
    kind: npt.NDArray[np.uint8],
    product: npt.NDArray[np.int32],
    *,
    stretches: tuple[Ints, Ints],
    pays: npt.NDArray[np.bool_],
) -> None:
    """One product into the cart per stretch (first event, number of events), and its purchase where somebody pays."""
    base, length = stretches
    room = length - 1 - pays
    cart = base + 1 + (rng.random(len(base)) * room).astype(np.int64)
    _follow(kind, product, cart, CART)
    end = base + length
    # Some press the button again: the same product, more pieces.
    more = (rng.random(len(base)) < real.MORE_PIECES_SHARE) & (cart + 1 + pays < end)
    _follow(kind, product, cart[more] + 1, CART)
    look = (rng.random(len(base)) < real.LOOK_AGAIN_SHARE) & (cart + 1 + more + pays < end)
    paid = np.flatnonzero(pays)
    purchase = (cart + 1 + more + look)[paid]
    kind[purchase] = PURCHASE
    product[purchase] = product[cart[paid]]


def _follow(kind: npt.NDArray[np.uint8], product: npt.NDArray[np.int32], at: Ints, what: int) -> None:
    """Events at these places are of that kind and concern the product of the event before."""
    kind[at] = what
    product[at] = product[at - 1]
