"""Figures with their uncertainty."""

import math
from collections.abc import Sequence

__all__ = ["percentile", "rule_of_three"]

_Z = 1.959964
"""Of the 95 % interval."""


def percentile(values: Sequence[float], share: float) -> float | None:
    """Linear between the two neighbours (as numpy does it); None without values."""
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def rule_of_three(found: int, trials: float) -> float:
    """Upper bound (about 95 %) of a rate per trial: 3/N when nothing was found, else of a Poisson count."""
    if trials <= 0:
        return math.inf
    return 3 / trials if found == 0 else (found + _Z * math.sqrt(found) + _Z * _Z / 2) / trials
