"""Genuine traffic and what is laid over it, merged by time, a slice at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shopstream.errors import ConfigurationError
from shopstream.simulation import calibration as real
from shopstream.simulation.event_batch import Block
from shopstream.simulation.heavy_users import HeavyUsers
from shopstream.simulation.injection import Overlay, World
from shopstream.simulation.intensity import MINUTE_MS, Span
from shopstream.simulation.shoppers import Shoppers

__all__ = ["OutOfOrder", "Traffic"]

_REACH_MS = real.VISIT_MAX_MINUTES * MINUTE_MS
_SURPLUS, _HEAVY, _DISORDER = 2_000_000, 3_000_000, 1_000_000  # sources of events, and of chance, beside the overlays
_SURPLUS_KEYS = 1 << 55


@dataclass(frozen=True, slots=True)
class OutOfOrder:
    """Some events arrive later than others that happened after them.

    Args:
        share: of the events, 0 to 1.
        max_seconds: their delay is even between 0 and this.
    """

    share: float
    max_seconds: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigurationError(f"expected an out-of-order share of 0 to 1, got {self.share}; e.g. 0.05")
        if not 0 < self.max_seconds <= 86_400:  # noqa: PLR2004  a day
            raise ConfigurationError(f"expected an out-of-order delay of 0 to 86400 s, got {self.max_seconds}; e.g. 30")


class Traffic:
    """The events of one synthesis.

    Args:
        world: genuine shoppers, and the period.
        overlays: what is laid over them.
        out_of_order: arrival that differs from event time.
        stretch: only events that happen there; all others are as if they had been made, too.
    """

    def __init__(
        self, world: World, overlays: Sequence[Overlay], out_of_order: OutOfOrder | None, stretch: Span | None
    ) -> None:
        self._seed, self._overlays, self._disorder = world.seed, overlays, out_of_order
        self._base = calendar = world.calendar
        self._stretch = stretch or Span(0, calendar.from_ms, calendar.until_ms)
        factor = np.ones(len(calendar.minutes_ms))
        for overlay in overlays:
            factor *= overlay.surge(calendar.minutes_ms)
        # Those who come anyway are the same with and without a surge; the others are drawn beside them.
        self.calendar = calendar.scale(factor)
        self._surplus = calendar.scale(factor - 1)
        self._surges = bool((factor > 1).any())
        self._shoppers = Shoppers(calendar, world.catalogue, world.population)
        self._guests = Shoppers(self._surplus, world.catalogue, world.population)
        self._leads = [lead for lead in (overlay.leads() for overlay in overlays) if lead is not None]
        self._heavy = HeavyUsers(calendar, world.catalogue, world.population, world.seed)
        self.genuine = 0

    def residents(self) -> tuple[int, ...]:
        """User ids of the robots in the genuine traffic so far."""
        return self._heavy.residents()

    def blocks(self) -> Iterator[tuple[Block, float]]:
        """Events in order of arrival, with the share of the work done."""
        pending = Block.empty()
        reach = self._stretch.from_ms - _REACH_MS
        slices = [
            span for span in self._base.slices() if span.until_ms > reach and span.from_ms < self._stretch.until_ms
        ]
        for number, span in enumerate(slices, 1):
            visits = self._shoppers.events(span, np.random.default_rng([self._seed, 0, span.number]))
            regulars = self._admit(self._heavy.events(span), _HEAVY, span)
            self._heavy.note(regulars)
            pending = Block.concat([pending, self._admit(visits, 0, span), regulars])
            for part in self._parts(span):
                pending = Block.concat([pending, *self._guest_visits(part), *self._attacks(part)])
                due, pending = pending.split(part.until_ms)
                if len(due):
                    yield due, number / len(slices)
        # Nothing happens after the end of the period, but what happened before may arrive late.
        late, _ = pending.split(np.iinfo(np.int64).max)
        yield late, 1.0

    def _parts(self, span: Span) -> Iterator[Span]:
        """The slice as one, or by minutes where something adds to it: a flood of any size fits into memory."""
        adding = (overlay.window for overlay in self._overlays if len(overlay.actors))
        surges = self._surges and self._surplus.expected(span).any()
        if not surges and all(span.clip(window.from_ms, window.until_ms).empty for window in adding):
            yield span
        else:
            yield from span.minutes()

    def _guest_visits(self, part: Span) -> Iterator[Block]:
        if self._surges and self._surplus.expected(part).any():
            minute = part.from_ms // MINUTE_MS
            rng = np.random.default_rng([self._seed, _SURPLUS, minute])
            # Visits have more than four events on average: so many numbers, and some for chance, are enough.
            guest = int(self._surplus.before(part) / 4) + 32 * (minute - self._base.from_ms // MINUTE_MS)
            block = self._guests.events(part, rng, self._leads, max(guest, 0))
            block.key += _SURPLUS_KEYS + (minute << 28)
            yield self._admit(block, _SURPLUS, part)

    def _attacks(self, part: Span) -> Iterator[Block]:
        if part.clip(self._stretch.from_ms, self._stretch.until_ms).empty:
            return
        minute = part.from_ms // MINUTE_MS
        for place, overlay in enumerate(self._overlays, 1):
            rng = np.random.default_rng([self._seed, place, minute])
            block = overlay.add(part, self.calendar, rng)
            block.key = (place << 56) + (minute << 28) + np.arange(len(block))
            yield self._admit(block, place, part)

    def _admit(self, block: Block, source: int, part: Span) -> Block:
        """What lies inside the stretch, as the overlays leave it, with its arrival; source is an overlay's place."""
        genuine = source == 0 or source >= _DISORDER
        first, last = self._base.from_ms, self._base.until_ms
        kept = _within(block, first, last)
        if self._disorder is not None and len(kept):
            rng = np.random.default_rng([self._seed, _DISORDER + source, part.from_ms // MINUTE_MS])
            delay = rng.random(len(kept)) * self._disorder.max_seconds * 1000
            kept.arrival = kept.time + np.where(rng.random(len(kept)) < self._disorder.share, delay, 0).astype(np.int64)
        kept = _within(kept, self._stretch.from_ms, self._stretch.until_ms)
        for overlay in self._overlays:
            kept = overlay.alter(kept, genuine=genuine)
        if genuine:
            self.genuine += len(kept)
        else:
            self._overlays[source - 1].touch(kept.time)
        return kept


def _within(block: Block, from_ms: int, until_ms: int) -> Block:
    inside = (block.time >= from_ms) & (block.time < until_ms)
    return block if inside.all() else block.take(inside)
