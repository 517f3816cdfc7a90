"""What goes wrong without anybody's doing: outages, duplicate storms, purchases that fail, wrong prices."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from shopstream.detection.detection import Nature
from shopstream.simulation.event_batch import KINDS, Block, Ints
from shopstream.simulation.injection import Episode, Overlay, World
from shopstream.simulation.intensity import MINUTE_MS, Span
from shopstream.simulation.scripted_attack import MAX_FACTOR, check, uniform
from shopstream.simulation.shoppers import PURCHASE
from shopstream.simulation.target import SITE, Key

__all__ = ["DuplicateStorm", "Outage", "PriceError", "PurchaseCollapse"]

Floats = npt.NDArray[np.float64]

_RECOVERIES = ("at_once", "ramp", "rush", "backlog")
_CENT = 100  # ten-thousandths
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Outage:
    """Nothing (or nothing of one type) is recorded for a while; shoppers go on meanwhile.

    Args:
        start, duration: of the silence.
        recovery: what comes after it. at_once: all as usual. ramp: shoppers return little by little. rush: those who
            could not shop come, too. backlog: the trackers kept what happened, and send it late, in a rush.
        recovery_minutes: how long that takes.
        rush: of a rush, visits against the usual number at its beginning, > 1.
        key: an event type, or the site.
    """

    KIND: ClassVar = "outage"
    HITS: ClassVar = ("site", "event_type")

    start: datetime
    duration: timedelta
    recovery: str = "at_once"
    recovery_minutes: float = 15.0
    rush: float = 2.0
    key: Key = SITE

    def check(self) -> None:
        """Whether the figures fit.

        Raises:
            ConfigurationError: one does not.
        """
        check(self.recovery in _RECOVERIES, "outage", f"a recovery of {', '.join(_RECOVERIES)}", repr(self.recovery))
        check(0 < self.recovery_minutes <= 1_440, "outage", "a recovery of up to 1440 minutes", self.recovery_minutes)  # noqa: PLR2004
        check(1 <= self.rush <= MAX_FACTOR, "outage", f"a rush of 1 to {MAX_FACTOR}", self.rush)

    def build(self, world: World) -> Overlay:
        """Its running part."""
        self.check()
        window = world.window("outage", self.start, self.duration)
        return _Outage(self, window, world.calendar.until_ms)


class _Outage(Overlay):
    nature = Nature.FAULT

    def __init__(self, outage: Outage, window: Span, until_ms: int) -> None:
        super().__init__("outage", window, key=outage.key)
        self._outage = outage
        self._kind = KINDS.index(outage.key.value) if outage.key.column else None
        self._back_ms = outage.recovery_minutes * MINUTE_MS
        self._recovery = Span(0, window.until_ms, min(window.until_ms + int(self._back_ms), until_ms))
        self._returned = 0

    def surge(self, minutes_ms: Ints) -> Floats:
        if self._outage.recovery != "rush":
            return super().surge(minutes_ms)
        into = (minutes_ms - self.window.until_ms) / self._back_ms
        return np.where((into >= 0) & (into < 1), 1 + (self._outage.rush - 1) * (1 - into), 1.0)

    def alter(self, block: Block, *, genuine: bool) -> Block:
        del genuine
        lost = self.inside(block.time)
        if self._kind is not None:
            lost &= block.kind == self._kind
        self.touch(block.time[lost])
        if self._outage.recovery == "backlog":
            late = self.window.until_ms + uniform(block.key, 31) * self._back_ms
            block.arrival = np.where(lost, late.astype(np.int64), block.arrival)
            self._returned += int(lost.sum())
            return block
        if self._outage.recovery == "ramp":
            into = (block.time - self.window.until_ms) / self._back_ms
            away = (into >= 0) & (into < uniform(block.session, 32))
            lost |= away
        after = (block.time >= self._recovery.from_ms) & (block.time < self._recovery.until_ms)
        self._returned += int((after & ~lost).sum())
        return block.take(~lost) if lost.any() else block

    def episodes(self) -> tuple[Episode, ...]:
        """The silence; and what comes after it, which is none."""
        silence = super().episodes()
        if self._outage.recovery == "at_once" or self._recovery.empty:
            return silence
        back = self._recovery
        return (*silence, self._episode(Nature.SURGE, "recovery", back, self._returned, back.from_ms))


@dataclass(frozen=True, slots=True)
class DuplicateStorm:
    """Events are sent again, exactly alike (the tracker's too: the same event_id), shortly after the first time.

    Args:
        start, duration: of the events that are repeated.
        share: of the events inside, 0 to 1.
        copies: how often each is sent again.
        delay_s: the copies arrive up to so much later.
    """

    KIND: ClassVar = "duplicate_storm"
    HITS: ClassVar = ("site",)

    start: datetime
    duration: timedelta
    share: float
    copies: int = 1
    delay_s: float = 30.0

    def check(self) -> None:
        """Whether the figures fit.

        Raises:
            ConfigurationError: one does not.
        """
        check(0 < self.share <= 1, "duplicate storm", "a share above 0, up to 1", self.share)
        check(1 <= self.copies <= MAX_FACTOR, "duplicate storm", f"1 to {MAX_FACTOR} copies", self.copies)
        check(0 <= self.delay_s <= 3_600, "duplicate storm", "a delay of 0 to 3600 s", self.delay_s)  # noqa: PLR2004

    def build(self, world: World) -> Overlay:
        """Its running part."""
        self.check()
        return _DuplicateStorm(self, world.window("duplicate storm", self.start, self.duration))


class _DuplicateStorm(Overlay):
    nature = Nature.FAULT

    def __init__(self, storm: DuplicateStorm, window: Span) -> None:
        super().__init__("duplicate_storm", window)
        self._storm = storm

    def alter(self, block: Block, *, genuine: bool) -> Block:
        del genuine
        again = np.flatnonzero(self.inside(block.time) & (uniform(block.key, 33) < self._storm.share))
        if not len(again):
            return block
        parts = [block]
        for copy in range(self._storm.copies):
            repeat = block.take(again)
            delay = uniform(repeat.key, 34 + copy) * self._storm.delay_s * 1000
            repeat.arrival = repeat.arrival + delay.astype(np.int64)
            self.touch(repeat.time)
            parts.append(repeat)
        return Block.concat(parts)


@dataclass(frozen=True, slots=True)
class PurchaseCollapse:
    """The checkout fails: some sessions' purchases do not happen; all else goes on.

    Args:
        start, duration: of the failure.
        loss: share of the sessions whose purchases fail, 0 to 1.
    """

    KIND: ClassVar = "purchase_collapse"
    HITS: ClassVar = ("site",)

    start: datetime
    duration: timedelta
    loss: float

    def check(self) -> None:
        """Whether the figures fit.

        Raises:
            ConfigurationError: one does not.
        """
        check(0 < self.loss <= 1, "purchase collapse", "a loss above 0, up to 1", self.loss)

    def build(self, world: World) -> Overlay:
        """Its running part."""
        self.check()
        return _PurchaseCollapse(self.loss, world.window("purchase collapse", self.start, self.duration))


class _PurchaseCollapse(Overlay):
    nature = Nature.FAULT

    def __init__(self, loss: float, window: Span) -> None:
        super().__init__("purchase_collapse", window)
        self._loss = loss

    def alter(self, block: Block, *, genuine: bool) -> Block:
        del genuine
        fails = self.inside(block.time) & (block.kind == PURCHASE) & (uniform(block.session, 35) < self._loss)
        self.touch(block.time[fails])
        return block.take(~fails) if fails.any() else block


@dataclass(frozen=True, slots=True)
class PriceError:
    """A product is shown and sold at a wrong price.

    Args:
        start, duration: of the error.
        factor: wrong against right price.
        key: the product.
    """

    KIND: ClassVar = "price_error"
    HITS: ClassVar = ("product",)

    start: datetime
    duration: timedelta
    factor: float
    key: Key = SITE

    def check(self) -> None:
        """Whether the figures fit.

        Raises:
            ConfigurationError: one does not.
        """
        good = 0 < self.factor <= 1_000 and self.factor != 1  # noqa: PLR2004
        check(good, "price error", "a factor of 0 to 1000, not 1", self.factor)

    def build(self, world: World) -> Overlay:
        """Its running part."""
        self.check()
        check(self.key.column == "product_id", "price error", "a product", self.key.column or "the site")
        window = world.window("price error", self.start, self.duration)
        right = int(world.catalogue.price[self.key.place])
        wrong = max(round(right * self.factor / _CENT) * _CENT, _CENT)
        return _PriceError(window, self.key, world.reprice(self.key.place, wrong))


class _PriceError(Overlay):
    nature = Nature.FAULT

    def __init__(self, window: Span, key: Key, wrong: int) -> None:
        super().__init__("price_error", window, key=key)
        self._wrong = wrong

    def alter(self, block: Block, *, genuine: bool) -> Block:
        del genuine
        hit = self.inside(block.time) & (block.product == self.key.place)
        if hit.any():
            self.touch(block.time[hit])
            block.product = np.where(hit, np.int32(self._wrong), block.product).astype(np.int32)
        return block
