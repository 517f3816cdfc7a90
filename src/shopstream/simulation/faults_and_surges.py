"""Faults (outages, duplicate storms, failing purchases, wrong prices) and surges of genuine shoppers (flash sales)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from shopstream.clock import MINUTE_MS
from shopstream.detection.detection import Nature
from shopstream.simulation.event_batch import KINDS, EventBatch, Ints
from shopstream.simulation.injection import (
    MAX_FACTOR,
    SITE,
    GroundTruth,
    Injection,
    Target,
    TimedScenario,
    World,
    check,
    uniform,
)
from shopstream.simulation.intensity import TimeRange
from shopstream.simulation.shoppers import PURCHASE, CategoryBias

Floats = npt.NDArray[np.float64]

_RECOVERIES = ("at_once", "ramp", "rush", "backlog")
_CENT = 100  # ten-thousandths


@dataclass(frozen=True, slots=True)
class Outage(TimedScenario):
    """No events (or none of one type) are recorded for a while; shoppers go on meanwhile.

    Args:
        recovery: what follows. at_once: usual traffic. ramp: shoppers return little by little. rush: those who
            could not shop come, too. backlog: the trackers kept the events, and send them late, in a rush.
        recovery_minutes: duration of the recovery.
        rush: visits at the beginning of a rush, as a multiple of the usual number, > 1.
        target: an event type, or the site.
    """

    KIND: ClassVar = "outage"
    TARGETS: ClassVar = ("site", "event_type")

    recovery: str = "at_once"
    recovery_minutes: float = 15.0
    rush: float = 2.0
    target: Target = SITE

    def _limits(self) -> Iterator[tuple[bool, str, object]]:
        yield self.recovery in _RECOVERIES, f"a recovery of {', '.join(_RECOVERIES)}", repr(self.recovery)
        yield 0 < self.recovery_minutes <= 1_440, "a recovery of up to 1440 minutes", self.recovery_minutes  # noqa: PLR2004
        yield 1 <= self.rush <= MAX_FACTOR, f"a rush of 1 to {MAX_FACTOR}", self.rush

    def _build(self, world: World, window: TimeRange) -> Injection:
        return _Outage(self, window, world.intensity.until_ms)


class _Outage(Injection):
    nature = Nature.FAULT

    def __init__(self, outage: Outage, window: TimeRange, until_ms: int) -> None:
        super().__init__(outage.KIND, window, target=outage.target)
        self._outage = outage
        self._kind = KINDS.index(outage.target.value) if outage.target.column else None
        self._back_ms = outage.recovery_minutes * MINUTE_MS
        self._recovery = TimeRange(0, window.until_ms, min(window.until_ms + int(self._back_ms), until_ms))
        self._returned = 0

    def surge(self, minutes_ms: Ints) -> Floats:
        if self._outage.recovery != "rush":
            return super().surge(minutes_ms)
        into = (minutes_ms - self.window.until_ms) / self._back_ms
        return np.where((into >= 0) & (into < 1), 1 + (self._outage.rush - 1) * (1 - into), 1.0)

    def alter(self, batch: EventBatch, *, genuine: bool) -> EventBatch:
        del genuine
        lost = self.inside(batch.time)
        if self._kind is not None:
            lost &= batch.kind == self._kind
        self.touch(batch.time[lost])
        if self._outage.recovery == "backlog":
            late = self.window.until_ms + uniform(batch.number, 31) * self._back_ms
            batch.arrival = np.where(lost, late.astype(np.int64), batch.arrival)
            self._returned += int(lost.sum())
            return batch
        if self._outage.recovery == "ramp":
            into = (batch.time - self.window.until_ms) / self._back_ms
            lost |= (into >= 0) & (into < uniform(batch.session, 32))
        after = (batch.time >= self._recovery.from_ms) & (batch.time < self._recovery.until_ms)
        self._returned += int((after & ~lost).sum())
        return batch.take(~lost) if lost.any() else batch

    def ground_truth(self) -> tuple[GroundTruth, ...]:
        """The silence is a fault; the recovery is a surge."""
        silence = super().ground_truth()
        if self._outage.recovery == "at_once" or self._recovery.empty:
            return silence
        back = self._recovery
        return (*silence, self._ground_truth(Nature.SURGE, "recovery", back, self._returned, back.from_ms))


@dataclass(frozen=True, slots=True)
class DuplicateStorm(TimedScenario):
    """Events are sent again, exactly alike (with the same event_id), shortly after the first time.

    Args:
        share: share of the events that are repeated, 0 to 1.
        copies: number of copies of each.
        delay_s: greatest delay of a copy.
    """

    KIND: ClassVar = "duplicate_storm"
    TARGETS: ClassVar = ("site",)

    share: float
    copies: int = 1
    delay_s: float = 30.0

    def _limits(self) -> Iterator[tuple[bool, str, object]]:
        yield 0 < self.share <= 1, "a share above 0, up to 1", self.share
        yield 1 <= self.copies <= MAX_FACTOR, f"1 to {MAX_FACTOR} copies", self.copies
        yield 0 <= self.delay_s <= 3_600, "a delay of 0 to 3600 s", self.delay_s  # noqa: PLR2004

    def _build(self, world: World, window: TimeRange) -> Injection:
        del world
        return _DuplicateStorm(self, window)


class _DuplicateStorm(Injection):
    nature = Nature.FAULT

    def __init__(self, storm: DuplicateStorm, window: TimeRange) -> None:
        super().__init__(storm.KIND, window)
        self._storm = storm

    def alter(self, batch: EventBatch, *, genuine: bool) -> EventBatch:
        del genuine
        again = np.flatnonzero(self.inside(batch.time) & (uniform(batch.number, 33) < self._storm.share))
        if not len(again):
            return batch
        parts = [batch]
        for copy in range(self._storm.copies):
            repeat = batch.take(again)
            delay = uniform(repeat.number, 34 + copy) * self._storm.delay_s * 1000
            repeat.arrival = repeat.arrival + delay.astype(np.int64)
            self.touch(repeat.time)
            parts.append(repeat)
        return EventBatch.concat(parts)


@dataclass(frozen=True, slots=True)
class PurchaseCollapse(TimedScenario):
    """The checkout fails: the purchases of some sessions do not happen; all else goes on.

    Args:
        loss: share of the sessions whose purchases fail, 0 to 1.
    """

    KIND: ClassVar = "purchase_collapse"
    TARGETS: ClassVar = ("site",)

    loss: float

    def _limits(self) -> Iterator[tuple[bool, str, object]]:
        yield 0 < self.loss <= 1, "a loss above 0, up to 1", self.loss

    def _build(self, world: World, window: TimeRange) -> Injection:
        del world
        return _PurchaseCollapse(self.loss, window)


class _PurchaseCollapse(Injection):
    nature = Nature.FAULT

    def __init__(self, loss: float, window: TimeRange) -> None:
        super().__init__(PurchaseCollapse.KIND, window)
        self._loss = loss

    def alter(self, batch: EventBatch, *, genuine: bool) -> EventBatch:
        del genuine
        fails = self.inside(batch.time) & (batch.kind == PURCHASE) & (uniform(batch.session, 35) < self._loss)
        self.touch(batch.time[fails])
        return batch.take(~fails) if fails.any() else batch


@dataclass(frozen=True, slots=True)
class PriceError(TimedScenario):
    """A product is shown and sold at a wrong price.

    Args:
        factor: wrong price divided by right price.
        target: the product.
    """

    KIND: ClassVar = "price_error"
    TARGETS: ClassVar = ("product",)

    factor: float
    target: Target = SITE

    def _limits(self) -> Iterator[tuple[bool, str, object]]:
        yield 0 < self.factor <= 1_000 and self.factor != 1, "a factor of 0 to 1000, not 1", self.factor  # noqa: PLR2004

    def _build(self, world: World, window: TimeRange) -> Injection:
        check(self.target.column == "product_id", self.KIND, "a product", self.target.column or "the site")
        right = int(world.catalogue.price[self.target.place])
        wrong = max(round(right * self.factor / _CENT) * _CENT, _CENT)
        return _PriceError(window, self.target, world.reprice(self.target.place, wrong))


class _PriceError(Injection):
    nature = Nature.FAULT

    def __init__(self, window: TimeRange, target: Target, wrong: int) -> None:
        super().__init__(PriceError.KIND, window, target=target)
        self._wrong = wrong

    def alter(self, batch: EventBatch, *, genuine: bool) -> EventBatch:
        del genuine
        hit = self.inside(batch.time) & (batch.product == self.target.place)
        if hit.any():
            self.touch(batch.time[hit])
            batch.product = np.where(hit, np.int32(self._wrong), batch.product).astype(np.int32)
        return batch


@dataclass(frozen=True, slots=True)
class FlashSale(TimedScenario):
    """Many more genuine shoppers than usual, who behave as always; visits surge from the start.

    Args:
        factor: number of visits as a multiple of the usual number, > 1.
        category: code of the category that draws half of the additional visits; None (or "") keeps the usual mix.
        ramp_minutes: time until the factor is reached, as word of a sale spreads.
    """

    KIND: ClassVar = "flash_sale"
    TARGETS: ClassVar = ("site",)

    factor: float
    category: str | None = None
    ramp_minutes: float = 3.0

    def _limits(self) -> Iterator[tuple[bool, str, object]]:
        yield 1 < self.factor <= MAX_FACTOR, f"a factor above 1, at most {MAX_FACTOR},", self.factor
        yield 0 < self.ramp_minutes <= 1_440, "a ramp of up to 1440 minutes", self.ramp_minutes  # noqa: PLR2004

    def _build(self, world: World, window: TimeRange) -> Injection:
        if not self.category:
            return _FlashSale(self, window, None)
        leaders = world.catalogue.of_code(self.category)
        rule = "a category code of the shop, e.g. electronics.smartphone,"
        check(len(leaders) > 0, self.KIND, rule, self.category)
        return _FlashSale(self, window, int(leaders[0]))


class _FlashSale(Injection):
    nature = Nature.SURGE

    def __init__(self, sale: FlashSale, window: TimeRange, product: int | None) -> None:
        super().__init__(sale.KIND, window)
        self._sale, self._product = sale, product

    def surge(self, minutes_ms: Ints) -> Floats:
        ramp_ms = self._sale.ramp_minutes * MINUTE_MS
        into = np.clip((minutes_ms + MINUTE_MS // 2 - self.window.from_ms) / ramp_ms, 0, 1)
        overlap = np.minimum(minutes_ms + MINUTE_MS, self.window.until_ms) - np.maximum(minutes_ms, self.window.from_ms)
        return np.asarray(1 + (self._sale.factor - 1) * into * np.clip(overlap / MINUTE_MS, 0, 1), np.float64)

    def bias(self) -> CategoryBias | None:
        return None if self._product is None else CategoryBias(self._product, self.window.from_ms, self.window.until_ms)

    def alter(self, batch: EventBatch, *, genuine: bool) -> EventBatch:
        if genuine:
            self.touch(batch.time[self.inside(batch.time)])
        return batch
