"""The most frequent keys of a stream, in bounded memory.

Space-Saving: Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements in data streams",
ICDT 2005; with weights as in Anderson et al., IMC 2017.
"""

from collections.abc import Mapping
from typing import Any

from shopstream.errors import StateError

__all__ = ["SpaceSaving"]


class SpaceSaving:
    """Counts at most `capacity` keys; a new key takes the place, and the count, of the lightest.

    For every key, kept or not: true weight <= `estimate(key)` <= true weight + `total` / `capacity`. So a key with more
    than that share of the total is always kept. Of equally light keys, the first in order goes: deterministic.

    Args:
        capacity: keys kept, at least 1.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.total = 0.0
        """Weight of all offered keys, faded like the counts."""
        self._counts: dict[str, float] = {}

    def __contains__(self, key: str) -> bool:
        """Whether the key is kept."""
        return key in self._counts

    def __len__(self) -> int:
        """Number of kept keys."""
        return len(self._counts)

    def offer(self, key: str, weight: float = 1.0) -> str | None:
        """Count a key.

        Returns:
            The key that was evicted, if any.
        """
        self.total += weight
        if key in self._counts or len(self._counts) < self.capacity:
            self._counts[key] = self._counts.get(key, 0.0) + weight
            return None
        lightest = min(self._counts, key=lambda kept: (self._counts[kept], kept))
        self._counts[key] = self._counts.pop(lightest) + weight
        return lightest

    def estimate(self, key: str) -> float:
        """Upper bound of the key's weight."""
        if key in self._counts or len(self._counts) < self.capacity:
            return self._counts.get(key, 0.0)
        return min(self._counts.values())

    def fade(self, factor: float) -> None:
        """Reduce the weight of the past: multiply all counts. The bounds hold for faded weights."""
        self.total *= factor
        self._counts = {key: count * factor for key, count in self._counts.items()}

    def snapshot(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"total": self.total, "counts": dict(self._counts)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a snapshot.

        Raises:
            StateError: it holds more keys than fit.
        """
        if len(state["counts"]) > self.capacity:
            raise StateError(f"expected at most {self.capacity} keys, got {len(state['counts'])}; drop the state")
        self.total = state["total"]
        self._counts = dict(state["counts"])
