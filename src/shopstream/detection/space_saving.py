"""The most frequent keys of a stream, in bounded memory.

Space-Saving: Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements in data streams",
ICDT 2005; with weights as in Anderson et al., IMC 2017.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from shopstream.errors import StateError

__all__ = ["HeavyHitter", "SpaceSaving"]


class HeavyHitter(NamedTuple):
    """A kept key.

    Args:
        key: the key.
        weight: an upper bound of its true weight.
        error: the true weight is at least `weight - error`.
    """

    key: str
    weight: float
    error: float


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
        self._kept: dict[str, tuple[float, float]] = {}

    def __contains__(self, key: str) -> bool:
        """Whether the key is kept."""
        return key in self._kept

    def __len__(self) -> int:
        """Number of kept keys."""
        return len(self._kept)

    def offer(self, key: str, weight: float = 1.0) -> str | None:
        """Count a key.

        Returns:
            The key that was evicted, if any.
        """
        self.total += weight
        if key in self._kept:
            count, error = self._kept[key]
            self._kept[key] = count + weight, error
            return None
        if len(self._kept) < self.capacity:
            self._kept[key] = weight, 0.0
            return None
        lightest = min(self._kept, key=lambda kept: (self._kept[kept][0], kept))
        least, _ = self._kept.pop(lightest)
        self._kept[key] = least + weight, least
        return lightest

    def estimate(self, key: str) -> float:
        """Upper bound of the key's weight."""
        if key in self._kept:
            return self._kept[key][0]
        return min((count for count, _ in self._kept.values()), default=0.0) if self._full else 0.0

    @property
    def _full(self) -> bool:
        return len(self._kept) >= self.capacity

    def heaviest(self, most: int) -> list[HeavyHitter]:
        """The `most` keys with the highest counts."""
        ordered = sorted(self._kept.items(), key=lambda item: (-item[1][0], item[0]))
        return [HeavyHitter(key, count, error) for key, (count, error) in ordered[:most]]

    def fade(self, factor: float) -> None:
        """Reduce the weight of the past: multiply all counts. The bounds hold for faded weights."""
        self.total *= factor
        self._kept = {key: (count * factor, error * factor) for key, (count, error) in self._kept.items()}

    def snapshot(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"total": self.total, "kept": [[key, *value] for key, value in self._kept.items()]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a snapshot.

        Raises:
            StateError: it holds more keys than fit.
        """
        if len(state["kept"]) > self.capacity:
            raise StateError(f"expected at most {self.capacity} heavy keys, got {len(state['kept'])}; drop the state")
        self.total = state["total"]
        self._kept = {key: (count, error) for key, count, error in state["kept"]}
