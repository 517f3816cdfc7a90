"""Sums of evidence: how long something has to be how far off until it is no chance."""

from dataclasses import dataclass

__all__ = ["Cusum"]

_MOST = 5.0
"""One value counts at most so many standard deviations: a single odd minute is no episode."""
_HELD = 1.3


@dataclass(slots=True)
class Cusum:
    """A one-sided CUSUM over standardised values.

    Args:
        drift: what is forgiven each time.
        height: the sum at which it decides.
        total: the sum.
    """

    drift: float
    height: float
    total: float = 0.0

    def add(self, score: float) -> bool:
        """Take a value; returns whether the sum has reached its height. It is held a little above, to end soon."""
        self.total = min(max(0.0, self.total + min(score, _MOST) - self.drift), _HELD * self.height)
        return self.total >= self.height
