"""Figures with their uncertainty."""

import math
from collections.abc import Sequence

__all__ = ["percentile", "rule_of_three", "wilson"]

_Z = 1.959964
"""Of the 95 % interval."""


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson's score interval, sound near 0 and 1); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = hits / trials, _Z * _Z
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


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
