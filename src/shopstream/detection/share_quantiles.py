"""Quantiles of the share of traffic that a key had over the last days, in little memory."""

import math
from collections.abc import Mapping
from typing import Any, Final

from shopstream.detection.baseline import DAY_MS

__all__ = ["ShareQuantiles"]

_DAYS: Final = 7
_PER_OCTAVE: Final = 4


class ShareQuantiles:
    """Shares of many keys, at most seven days back.

    Shares are counted in geometric steps (four per octave), so a quantile is up to 19 % too high, never too low. A time
    without a share of a key counts as zero.
    """

    def __init__(self) -> None:
        self._times: dict[int, int] = {}  # day → times learned from
        self._steps: dict[str, dict[int, dict[int, int]]] = {}  # key → day → step → times

    @property
    def times(self) -> int:
        """Number of times learned from."""
        return sum(self._times.values())

    def learn(self, at_ms: int, shares: Mapping[str, float]) -> None:
        """Learn from a normal time: the share, above zero, of every key that occurred."""
        day = at_ms // DAY_MS
        if day not in self._times:
            self._forget(day - _DAYS)
        self._times[day] = self._times.get(day, 0) + 1
        for key, share in shares.items():
            steps = self._steps.setdefault(key, {}).setdefault(day, {})
            step = math.ceil(_PER_OCTAVE * math.log2(share))
            steps[step] = steps.get(step, 0) + 1

    def _forget(self, day: int) -> None:
        self._times = {kept: count for kept, count in self._times.items() if kept > day}
        for key in list(self._steps):
            days = {kept: steps for kept, steps in self._steps[key].items() if kept > day}
            if days:
                self._steps[key] = days
            else:
                del self._steps[key]

    def quantile(self, key: str, part: float) -> float:
        """The share that the key exceeded in at most `1 - part` of the times."""
        above = self.times * (1 - part)
        counts: dict[int, int] = {}
        for steps in self._steps.get(key, {}).values():
            for step, count in steps.items():
                counts[step] = counts.get(step, 0) + count
        seen = 0
        for step in sorted(counts, reverse=True):
            seen += counts[step]
            if seen > above:
                return min(1.0, math.exp2(step / _PER_OCTAVE))
        return 0.0

    def drop(self, key: str) -> None:
        """Forget a key."""
        self._steps.pop(key, None)

    def __len__(self) -> int:
        """Number of keys."""
        return len(self._steps)

    def snapshot(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "times": sorted(self._times.items()),
            "keys": [
                [key, [[day, sorted(steps.items())] for day, steps in sorted(days.items())]]
                for key, days in self._steps.items()
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a snapshot."""
        self._times = dict(map(tuple, state["times"]))
        self._steps = {key: {day: dict(map(tuple, steps)) for day, steps in days} for key, days in state["keys"]}
