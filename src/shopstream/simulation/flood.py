"""Floods of page views: on the site, a category or a product; steady, rising, or in pulses."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from shopstream.simulation.event_batch import Block, Ints, mix
from shopstream.simulation.injection import Overlay, World
from shopstream.simulation.intensity import Calendar, Span
from shopstream.simulation.scripted_attack import MAX_FACTOR, check, views
from shopstream.simulation.target import SITE, Key

__all__ = ["Flood"]

Floats = npt.NDArray[np.float64]

_SHAPES = ("steady", "ramp", "pulse")


@dataclass(frozen=True, slots=True)
class Flood:
    """Page views from many ids at once, all over what it hits (OWASP OAT-015, denial of service).

    Args:
        start, duration: of the flood.
        factor: of all traffic during the flood against the genuine, > 1; a ramp reaches it at the end.
        ids: user ids that take part; each keeps one session.
        shape: steady; ramp, from 1 to the factor; pulse, on and off.
        pulse_s, every_s: of pulses, how long and how often.
        key: what it hits; the factor is on the genuine traffic of that.
    """

    KIND: ClassVar = "flood"
    HITS: ClassVar = ("site", "category", "product")

    start: datetime
    duration: timedelta
    factor: float
    ids: int
    shape: str = "steady"
    pulse_s: float = 10.0
    every_s: float = 60.0
    key: Key = SITE

    def check(self) -> None:
        """Whether the figures fit.

        Raises:
            ConfigurationError: one does not.
        """
        check(1 < self.factor <= MAX_FACTOR, "flood", f"a factor above 1, at most {MAX_FACTOR},", self.factor)
        check(self.ids >= 1, "flood", "at least 1 id", self.ids)
        check(self.shape in _SHAPES, "flood", f"a shape of {', '.join(_SHAPES)}", repr(self.shape))
        check(0 < self.pulse_s <= self.every_s, "flood", "pulses of 0 s up to every_s", self.pulse_s)

    def build(self, world: World) -> Overlay:
        """Its running part."""
        self.check()
        window = world.window("flood", self.start, self.duration)
        return _Flood(self, window, world)


class _Flood(Overlay):
    def __init__(self, flood: Flood, window: Span, world: World) -> None:
        super().__init__("flood", window, world.strangers(flood.ids), flood.key)
        self._flood, self._places = flood, flood.key.places(world.catalogue)
        self._share = flood.key.share(world.catalogue)
        self._length_ms = flood.duration / timedelta(milliseconds=1)

    def add(self, span: Span, calendar: Calendar, rng: np.random.Generator) -> Block:
        part = span.clip(self.window.from_ms, self.window.until_ms)
        if part.empty:
            return Block.empty()
        seconds = np.arange(part.from_ms, part.until_ms, 1000)
        length = np.minimum(seconds + 1000, part.until_ms) - seconds
        counts = rng.poisson(calendar.rate_at(seconds) * self._share * self._surplus(seconds) * length / 1000)
        time = np.repeat(seconds, counts) + (rng.random(counts.sum()) * np.repeat(length, counts)).astype(np.int64)
        user = self.actors[rng.integers(0, len(self.actors), len(time))]
        product = self._places[rng.integers(0, len(self._places), len(time))]
        return views(time, product, user, session=mix(user, 11).astype(np.int64))

    def _surplus(self, moments_ms: Ints) -> Floats:
        """Factor less 1 at moments inside the window."""
        into, most = moments_ms - self.window.from_ms, self._flood.factor - 1
        if self._flood.shape == "ramp":
            return np.asarray(most * (into / self._length_ms), np.float64)
        if self._flood.shape == "pulse":
            return np.where(into % (self._flood.every_s * 1000) < self._flood.pulse_s * 1000, most, 0.0)
        return np.full(len(into), most)
