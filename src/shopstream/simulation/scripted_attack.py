"""What the scenarios of attacks share: checks, chance, and attacks that are decided when they are built."""

import numpy as np
import numpy.typing as npt

from shopstream.errors import ConfigurationError
from shopstream.simulation.event_batch import Block, Ints, mix
from shopstream.simulation.injection import Overlay
from shopstream.simulation.intensity import Calendar, Span
from shopstream.simulation.target import Key

__all__ = ["MAX_FACTOR", "Scripted", "check", "check_size", "steps", "uniform", "views"]

Floats = npt.NDArray[np.float64]

MAX_FACTOR = 100
"""Memory grows with the events of one minute."""

_MAX_EVENTS = 5_000_000


def check(good: bool, kind: str, rule: str, value: object) -> None:
    """Raise unless good.

    Raises:
        ConfigurationError: expected `rule` for a `kind`, got `value`.
    """
    if not good:
        raise ConfigurationError(f"expected {rule} for a {kind}, got {value}; change it")


def check_size(kind: str, events: float) -> None:
    """Raise if a script would not fit into memory.

    Raises:
        ConfigurationError: more than five million events.
    """
    check(events <= _MAX_EVENTS, kind, f"at most {_MAX_EVENTS:,} events", f"{events:,.0f}")


class Scripted(Overlay):
    """An attack whose every event is known when it is built; about 60 bytes of memory each.

    Args:
        kind, window, actors, key: as for an overlay.
        block: its events in any order; those outside of the window are left out.
    """

    def __init__(self, kind: str, window: Span, actors: Ints, block: Block, key: Key | None = None) -> None:
        order = np.argsort(block.time, kind="stable")
        sorted_block = block.take(order)
        first, last = np.searchsorted(sorted_block.time, [window.from_ms, window.until_ms])
        self._block = sorted_block.take(slice(first, last))
        acting = np.isin(actors, self._block.user)
        super().__init__(kind, window, actors[acting], key)

    def add(self, span: Span, calendar: Calendar, rng: np.random.Generator) -> Block:
        """Its events of that stretch."""
        del calendar, rng
        first, last = np.searchsorted(self._block.time, [span.from_ms, span.until_ms])
        return self._block.take(slice(first, last))


def views(
    time: Ints, product: npt.NDArray[np.int32], user: Ints, session: Ints, kind: npt.NDArray[np.uint8] | None = None
) -> Block:
    """A block of page views (or of the given kinds); the synthesis numbers them."""
    kinds = np.zeros(len(time), np.uint8) if kind is None else kind
    return Block(time, time, kinds, product, user, session, np.zeros(len(time), np.int64))


def steps(starts: Ints, gaps: Ints, counts: Ints) -> Ints:
    """Moments of walks one after the other: each begins at its start, its later events follow by the gaps.

    Args:
        starts: per walk.
        gaps: per event; the one of a walk's first event does not count.
        counts: events per walk, 1 or more.
    """
    firsts = np.cumsum(counts) - counts
    gaps = gaps.copy()
    gaps[firsts] = 0
    elapsed = np.cumsum(gaps)
    return np.asarray(elapsed + np.repeat(starts - elapsed[firsts], counts), np.int64)


def uniform(numbers: Ints, salt: int) -> Floats:
    """A number in [0, 1) for each number, always the same."""
    return np.asarray((mix(numbers, salt) >> np.uint64(11)).astype(np.float64) / 2**53, np.float64)
