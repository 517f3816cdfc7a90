"""The heaviest keys of a stream in bounded memory.

Space-Saving: Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements in data streams",
ICDT 2005; with weights as in Anderson et al., IMC 2017.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from shopstream.errors import StateError

__all__ = ["HeavyHitter", "SpaceSaving"]


class HeavyHitter(NamedTuple):
    """A key that is kept.

    Args:
        key: the key.
        weight: never below its true weight.
        error: the true weight is at least `weight - error`.
    """

    key: str
    weight: float
    error: float


class SpaceSaving:
    """Counts at most `capacity` keys; a new one takes the place, and the count, of the lightest.

    For every key, kept or not: true weight <= `estimate(key)` <= true weight + `total` / `capacity`. So a key of more
    than that share of the total is always kept. Ties go to the key first in order: deterministic.

    Args:
        capacity: keys kept, at least 1.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.total = 0.0
        """Weight of everything offered (scaled like the counts)."""
        self._kept: dict[str, tuple[float, float]] = {}

    def __contains__(self, key: str) -> bool:
        """Whether it is kept."""
        return key in self._kept

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def offer(self, key: str, weight: float = 1.0) -> str | None:
        """Count a key.

        Returns:
            The key that had to go, if one had to.
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
        """The first `most` keys by count."""
        ordered = sorted(self._kept.items(), key=lambda item: (-item[1][0], item[0]))
        return [HeavyHitter(key, count, error) for key, (count, error) in ordered[:most]]

    def fade(self, factor: float) -> None:
        """Let the past weigh less: every count is multiplied; the bounds hold for faded weights."""
        self.total *= factor
        self._kept = {key: (count * factor, error * factor) for key, (count, error) in self._kept.items()}

    def snapshot(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"total": self.total, "kept": [[key, *value] for key, value in self._kept.items()]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a snapshot.

        Raises:
            StateError: it holds more keys than fit.
        """
        if len(state["kept"]) > self.capacity:
            raise StateError(f"expected at most {self.capacity} heavy keys, got {len(state['kept'])}; begin afresh")
        self.total = state["total"]
        self._kept = {key: (count, error) for key, count, error in state["kept"]}
