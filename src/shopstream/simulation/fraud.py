"""Bots that fill carts and buy: hoarding, scalping, card testing."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

import numpy as np

from shopstream.simulation.catalogue import Catalogue
from shopstream.simulation.event_batch import mix
from shopstream.simulation.injection import Overlay, World
from shopstream.simulation.scripted_attack import Scripted, check, check_size, steps, views
from shopstream.simulation.shoppers import CART, PURCHASE, VIEW
from shopstream.simulation.target import SITE, Key

__all__ = ["Carding", "Hoarding", "Scalping"]

_MINUTE = timedelta(minutes=1)
_JITTER = 0.5
_LOOKS_FIRST = 0.5
_CHEAP = (20_000, 200_000)  # ten-thousandths: 2 to 20, so that the holder of a stolen card does not notice


@dataclass(frozen=True, slots=True)
class Hoarding:
    """Bots put what sells best into their carts, again and again, and never buy (OWASP OAT-021, denial of inventory).

    Args:
        start, duration: of the attack.
        bots: user ids; each keeps one session.
        carts_per_minute: of each bot, on average; its gaps are even ± 50 %.
        products: how many different ones are taken.
    """

    KIND: ClassVar = "hoarding"
    HITS: ClassVar = ("actor",)

    start: datetime
    duration: timedelta
    bots: int
    carts_per_minute: float
    products: int = 5

    def check(self) -> None:
        """Whether the figures fit.

        Raises:
            ConfigurationError: one does not.
        """
        check(self.bots >= 1, "hoarding", "at least 1 bot", self.bots)
        check(0 < self.carts_per_minute <= 600, "hoarding", "0 to 600 carts a minute", self.carts_per_minute)  # noqa: PLR2004
        check(self.products >= 1, "hoarding", "at least 1 product", self.products)
        check_size("hoarding", self.bots * self._carts() * 1.5)

    def _carts(self) -> int:
        return int(1.2 * self.carts_per_minute * (self.duration / _MINUTE)) + 10

    def build(self, world: World) -> Overlay:
        """Its running part."""
        self.check()
        window = world.window("hoarding", self.start, self.duration)
        rng, actors, carts = world.rng(), world.strangers(self.bots), self._carts()
        total = self.bots * carts
        gap_ms = 60_000 / self.carts_per_minute
        gaps = np.asarray(gap_ms * (1 + _JITTER * (2 * rng.random(total) - 1)), np.int64)
        starts = window.from_ms + (rng.random(self.bots) * gap_ms).astype(np.int64)
        time = steps(starts, gaps, np.full(self.bots, carts))
        wanted = _priced(world.catalogue, rng, self.products)
        product = wanted[rng.integers(0, len(wanted), total)]
        user = np.repeat(actors, carts)
        looks = np.flatnonzero(rng.random(total) < _LOOKS_FIRST)
        before = np.asarray(
            time[looks] - np.minimum(gap_ms / 3, 3_000) * (0.2 + 0.8 * rng.random(len(looks))), np.int64
        )
        kind = np.r_[np.full(total, CART), np.full(len(looks), VIEW)].astype(np.uint8)
        user, product, time = np.r_[user, user[looks]], np.r_[product, product[looks]], np.r_[time, before]
        return Scripted("hoarding", window, actors, views(time, product, user, mix(user, 15).astype(np.int64), kind))


@dataclass(frozen=True, slots=True)
class Scalping:
    """A crowd of ids buys one product, from cart to purchase faster than a person can (OWASP OAT-005, scalping).

    Args:
        start, duration: of the rush; most come at its beginning.
        ids: each buys once, in a session of its own.
        fastest_s, slowest_s: from cart to purchase.
        key: the product.
    """

    KIND: ClassVar = "scalping"
    HITS: ClassVar = ("product",)

    start: datetime
    duration: timedelta
    ids: int
    fastest_s: float = 0.5
    slowest_s: float = 4.9
    key: Key = SITE

    def check(self) -> None:
        """Whether the figures fit.

        Raises:
            ConfigurationError: one does not.
        """
        check(self.ids >= 1, "scalping", "at least 1 id", self.ids)
        check(0 <= self.fastest_s <= self.slowest_s, "scalping", "0 s or more to the purchase", self.fastest_s)

    def build(self, world: World) -> Overlay:
        """Its running part."""
        self.check()
        check(self.key.column == "product_id", "scalping", "a product", self.key.column or "the site")
        window = world.window("scalping", self.start, self.duration)
        rng, actors = world.rng(), world.strangers(self.ids)
        length = window.until_ms - window.from_ms
        cart = window.from_ms + (rng.random(self.ids) ** 1.5 * length).astype(np.int64)
        pause = self.fastest_s + (self.slowest_s - self.fastest_s) * rng.random(self.ids)
        bought = cart + (pause * 1000).astype(np.int64)
        cart, bought = np.minimum(cart, window.until_ms - 1 - (bought - cart)), np.minimum(bought, window.until_ms - 1)
        looks = rng.random(self.ids) < _LOOKS_FIRST
        viewed = np.maximum(cart[looks] - rng.integers(300, 2_000, int(looks.sum())), window.from_ms)
        user = np.r_[actors, actors, actors[looks]]
        kind = np.r_[np.full(self.ids, CART), np.full(self.ids, PURCHASE), np.full(len(viewed), VIEW)].astype(np.uint8)
        product = np.full(len(user), self.key.place, np.int32)
        time = np.r_[cart, bought, viewed]
        block = views(time, product, user, mix(user, 15).astype(np.int64), kind)
        return Scripted("scalping", window, actors, block, self.key)


@dataclass(frozen=True, slots=True)
class Carding:
    """Small purchases without a look at anything, to see which stolen cards work (OWASP OAT-001, carding).

    Args:
        start, duration: of the test.
        ids: user ids that take turns.
        purchases_per_minute: of all ids together.
        products: how many different cheap ones are bought.
    """

    KIND: ClassVar = "carding"
    HITS: ClassVar = ("actor", "site")

    start: datetime
    duration: timedelta
    ids: int
    purchases_per_minute: float
    products: int = 3

    def check(self) -> None:
        """Whether the figures fit.

        Raises:
            ConfigurationError: one does not.
        """
        check(self.ids >= 1, "carding", "at least 1 id", self.ids)
        rate = self.purchases_per_minute
        check(0 < rate <= 6_000, "carding", "0 to 6000 purchases a minute", rate)  # noqa: PLR2004
        check(self.products >= 1, "carding", "at least 1 product", self.products)
        check_size("carding", self._purchases())

    def _purchases(self) -> int:
        return int(1.2 * self.purchases_per_minute * (self.duration / _MINUTE)) + 10

    def build(self, world: World) -> Overlay:
        """Its running part."""
        self.check()
        window = world.window("carding", self.start, self.duration)
        rng, actors, total = world.rng(), world.strangers(self.ids), self._purchases()
        gaps = 60_000 / self.purchases_per_minute * (1 + _JITTER * (2 * rng.random(total) - 1))
        time = window.from_ms + np.cumsum(gaps).astype(np.int64)
        # Each id has its turn before one comes again.
        turns = np.concatenate([rng.permutation(self.ids) for _ in range(total // self.ids + 1)])[:total]
        user = actors[turns]
        cheap = np.flatnonzero((world.catalogue.price >= _CHEAP[0]) & (world.catalogue.price <= _CHEAP[1]))
        check(len(cheap) > 0, "carding", "products from 2 to 20 in the catalogue", "none")
        product = rng.choice(cheap, self.products)[rng.integers(0, self.products, total)].astype(np.int32)
        kind = np.full(total, PURCHASE, np.uint8)
        return Scripted("carding", window, actors, views(time, product, user, mix(user, 15).astype(np.int64), kind))


def _priced(catalogue: Catalogue, rng: np.random.Generator, count: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Best sellers, by popularity; none without a price."""
    drawn = catalogue.draw(rng.random(count * 4 + 20))
    return drawn[catalogue.price[drawn] > 0][:count]
