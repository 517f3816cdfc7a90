"""Many more genuine shoppers: flash sales, promotion days."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from shopstream.detection.detection import Nature
from shopstream.simulation.event_batch import Block, Ints
from shopstream.simulation.injection import Overlay, World
from shopstream.simulation.intensity import MINUTE_MS, Span
from shopstream.simulation.scripted_attack import MAX_FACTOR, check
from shopstream.simulation.shoppers import Lead

__all__ = ["FlashSale"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FlashSale:
    """Many more genuine shoppers than usual, who behave as always.

    Args:
        start, duration: when new visits surge.
        factor: on the number of visits, > 1.
        category: code that draws half of the additional visits; None (or "") keeps the usual mix.
        ramp_minutes: until the factor is reached; word of a sale spreads within minutes.
    """

    KIND: ClassVar = "flash_sale"
    HITS: ClassVar = ("site",)

    start: datetime
    duration: timedelta
    factor: float
    category: str | None = None
    ramp_minutes: float = 3.0

    def check(self) -> None:
        """Whether the figures fit.

        Raises:
            ConfigurationError: one does not.
        """
        check(1 < self.factor <= MAX_FACTOR, "flash sale", f"a factor above 1, at most {MAX_FACTOR},", self.factor)
        check(0 < self.ramp_minutes <= 1_440, "flash sale", "a ramp of up to 1440 minutes", self.ramp_minutes)  # noqa: PLR2004

    def build(self, world: World) -> Overlay:
        """Its running part."""
        self.check()
        window = world.window("flash sale", self.start, self.duration)
        if not self.category:
            return _FlashSale(self, window, None)
        leaders = world.catalogue.of_code(self.category)
        check(
            len(leaders) > 0, "flash sale", "a category code of the shop, e.g. electronics.smartphone,", self.category
        )
        return _FlashSale(self, window, int(leaders[0]))


class _FlashSale(Overlay):
    nature = Nature.SURGE

    def __init__(self, sale: FlashSale, window: Span, product: int | None) -> None:
        super().__init__("flash_sale", window)
        self._sale, self._product = sale, product

    def surge(self, minutes_ms: Ints) -> Floats:
        ramp_ms = self._sale.ramp_minutes * MINUTE_MS
        into = np.clip((minutes_ms + MINUTE_MS // 2 - self.window.from_ms) / ramp_ms, 0, 1)
        overlap = np.minimum(minutes_ms + MINUTE_MS, self.window.until_ms) - np.maximum(minutes_ms, self.window.from_ms)
        return np.asarray(1 + (self._sale.factor - 1) * into * np.clip(overlap / MINUTE_MS, 0, 1), np.float64)

    def leads(self) -> Lead | None:
        return None if self._product is None else _CategoryLead(self._product, self)

    def alter(self, block: Block, *, genuine: bool) -> Block:
        if genuine:
            self.touch(block.time[self.inside(block.time)])
        return block


@dataclass(frozen=True, slots=True)
class _CategoryLead:
    """Half of the additional visits begin in the category."""

    product: int
    sale: _FlashSale

    def at(self, moments_ms: Ints) -> Floats:
        return np.where(self.sale.inside(moments_ms), 0.5, 0.0)
