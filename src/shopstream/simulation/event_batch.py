"""Events as the synthesis handles them: one numpy array per column, ids instead of texts."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

__all__ = ["KINDS", "Block", "mix"]

KINDS = ("view", "cart", "purchase", "remove_from_cart")
"""Event types by the number a block holds."""

Ints = npt.NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Block:
    """Events in any order.

    Attributes:
        arrival: int64 ms since the epoch; the order in which they are written.
        time: int64 ms; what is written is cut to seconds.
        kind: uint8, a place in KINDS.
        product: int32, a place in the catalogue.
        user: int64, the user id.
        session: int64, any number that stands for the session; its text is derived from it.
        key: int64, any number that stands for the event; an exact duplicate has the same.
    """

    arrival: Ints
    time: Ints
    kind: npt.NDArray[np.uint8]
    product: npt.NDArray[np.int32]
    user: Ints
    session: Ints
    key: Ints

    def __len__(self) -> int:
        return len(self.time)

    @classmethod
    def empty(cls) -> "Block":
        """No events."""
        none = np.empty(0, np.int64)
        return cls(none, none, none.astype(np.uint8), none.astype(np.int32), none, none, none)

    @classmethod
    def concat(cls, blocks: Sequence["Block"]) -> "Block":
        """One after the other."""
        if len(blocks) == 1:
            return blocks[0]
        return cls(*(np.concatenate([getattr(block, f.name) for block in blocks]) for f in fields(cls)))

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_] | slice) -> "Block":
        """Rows by place or mask."""
        return Block(*(getattr(self, f.name)[rows] for f in fields(self)))

    def split(self, until_ms: int) -> tuple["Block", "Block"]:
        """(What arrived before that moment, in order of arrival; the rest)."""
        due = np.flatnonzero(self.arrival < until_ms)
        if not len(due):
            return Block.empty(), self
        base = int(self.arrival[due].min())
        # One integer per event, so that the order is total and the fast unstable sort gives the same on every machine.
        bits = len(due).bit_length()
        keys = (self.arrival[due] - base) << bits | np.arange(len(due))
        keys.sort()
        return self.take(due[keys & ((1 << bits) - 1)]), self.take(np.flatnonzero(self.arrival >= until_ms))


def mix(values: Ints | npt.NDArray[np.uint64], salt: int) -> npt.NDArray[np.uint64]:
    """A well-scattered number for each number and salt (the finaliser of SplitMix64)."""
    x = values.astype(np.uint64, copy=True)
    x += np.uint64((salt * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & 0xFFFFFFFFFFFFFFFF)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
