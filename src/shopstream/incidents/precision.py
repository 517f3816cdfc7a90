"""Precision of rules: how often people found their incidents right."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shopstream.incidents.incident import Incident, TriageStatus

__all__ = ["RulePrecision", "read_precision", "wilson"]

_Z: Final = 1.96
"""Of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class RulePrecision:
    """Of one rule's incidents.

    Args:
        incidents: that the rule contributed to.
        right: those that a person resolved.
        wrong: those that a person called a false positive.
    """

    rule: str
    incidents: int
    right: int
    wrong: int

    @property
    def precision(self) -> float | None:
        """Share of the judged ones that were right; None before the first judgement."""
        judged = self.right + self.wrong
        return self.right / judged if judged else None

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true precision lies with 95 % (Wilson's score interval); 0 to 1 before the first judgement."""
        return wilson(self.right, self.right + self.wrong)


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson's score interval, sound near 0 and 1); 0 to 1 without trials."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = hits / trials, _Z * _Z
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    # at the ends rounding would leave the share itself just outside
    return max(0.0, middle - half) if hits else 0.0, min(1.0, middle + half) if hits < trials else 1.0


def read_precision(incidents: Iterable[Incident]) -> list[RulePrecision]:
    """Every rule that has incidents, in order of id.

    An incident of several rules counts for each. What is open, closed or only acknowledged is not judged.
    """
    counts: dict[str, list[int]] = {}
    for incident in incidents:
        for rule in incident.rules:
            count = counts.setdefault(rule, [0, 0, 0])
            count[0] += 1
            count[1] += incident.status is TriageStatus.RESOLVED
            count[2] += incident.status is TriageStatus.FALSE_POSITIVE
    return [RulePrecision(rule, *count) for rule, count in sorted(counts.items())]
