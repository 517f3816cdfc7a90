"""Events as columns of numpy arrays, with integer ids instead of texts."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

KINDS = ("view", "cart", "purchase", "remove_from_cart")
"""Event types; a batch holds their index."""

Ints = npt.NDArray[np.int64]


@dataclass(slots=True, eq=False)
class EventBatch:
    """Events in any order.

    Attributes:
        arrival: int64 ms since the epoch; the order in which they are written.
        time: int64 ms; what is written is cut to seconds.
        kind: uint8, index in KINDS.
        product: int32, index in the catalogue.
        user: int64, the user id.
        session: int64, identifies the session; its text is derived from it.
        number: int64, identifies the event; exact duplicates have the same number.
    """

    arrival: Ints
    time: Ints
    kind: npt.NDArray[np.uint8]
    product: npt.NDArray[np.int32]
    user: Ints
    session: Ints
    number: Ints

    def __len__(self) -> int:
        return len(self.time)

    @classmethod
    def empty(cls) -> "EventBatch":
        """No events."""
        none = np.empty(0, np.int64)
        return cls(none, none, none.astype(np.uint8), none.astype(np.int32), none, none, none)

    @classmethod
    def concat(cls, batches: Sequence["EventBatch"]) -> "EventBatch":
        """The batches, one after the other."""
        if len(batches) == 1:
            return batches[0]
        return cls(*(np.concatenate([getattr(batch, f.name) for batch in batches]) for f in fields(cls)))

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_] | slice) -> "EventBatch":
        """Rows by index or mask."""
        return EventBatch(*(getattr(self, f.name)[rows] for f in fields(self)))

    def split(self, until_ms: int) -> tuple["EventBatch", "EventBatch"]:
        """Events that arrived before a moment, in order of arrival, and the rest."""
        due = np.flatnonzero(self.arrival < until_ms)
        if not len(due):
            return EventBatch.empty(), self
        base = int(self.arrival[due].min())
        # One integer per event makes the order total, so the fast unstable sort gives the same result on every machine.
        bits = len(due).bit_length()
        keys = (self.arrival[due] - base) << bits | np.arange(len(due))
        keys.sort()
        return self.take(due[keys & ((1 << bits) - 1)]), self.take(np.flatnonzero(self.arrival >= until_ms))


def mix(values: Ints | npt.NDArray[np.uint64], salt: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each number, by salt (the finaliser of SplitMix64)."""
    x = values.astype(np.uint64, copy=True)
    x += np.uint64((salt * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & 0xFFFFFFFFFFFFFFFF)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
