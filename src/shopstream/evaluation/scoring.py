"""Figures with their uncertainty.

Which incidents an attack explains, and whether it was found. Incidents are counted, windows never; nothing is
point-adjusted.

A run with an attack starts from the state of the same shop's genuine run and differs from it by the attack alone. So
incidents that the genuine run has too are not the attack's, and are counted once, there. Of the others:

- *true*: about somebody most of whose events are the attack's; or about what is hit, the site or a part of it; or about
  another part, of whose events at least a tenth are the attack's.
- An incident of several parts is true, too, if one of its parts says what is hit.
- *surge*: the product itself says that it sees many genuine shoppers. Never the detection of an attack.
- *false*: all others.

An attack is found by a true incident about what is hit: the site, the category or product hit, a group of its actors,
or its only actor; or when half of its actors are found one by one. Where actors are counted, an actor is found by a
true incident about it alone or about a group that it is in.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from shopstream.detection.detection import Nature
from shopstream.evaluation.results import Found, Truth
from shopstream.evaluation.run_events import Claim, Traffic

__all__ = ["GRACE_MS", "ActorScore", "DetectionResult", "Role", "Score", "Unit", "percentile", "rule_of_three", "score"]

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


GRACE_MS = 5 * 60_000
"""Incidents may begin this long after the attack's end and still be its."""

_MAJORITY = 0.5
_PART = 0.1
_GROUP = 2
_SITE_COLUMNS = frozenset({"event_type"})


class Unit(StrEnum):
    """What recall is counted over."""

    ATTACK = "attacks"
    ACTOR = "actors"


class Role(StrEnum):
    """What an incident is, given the truth."""

    TRUE = "true"
    SURGE = "surge"
    FALSE = "false"


@dataclass(frozen=True, slots=True)
class DetectionResult:
    """An incident of a run and what it is.

    Args:
        hit: it says what is hit, so that the attack counts as found.
        users: the attack's users it is about.
    """

    found: Found
    role: Role
    hit: bool
    users: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ActorScore:
    """One actor; `detected_ms` is None when it was missed."""

    first_ms: int
    detected_ms: int | None
    events_until: int | None


@dataclass(frozen=True, slots=True)
class Score:
    """One attack.

    Args:
        first_ms: its first event, or its start where it adds none.
        detected_ms: None when it was missed.
        actors: each of them, where actors are counted; else empty.
        judged: incidents that the genuine run has not, oldest first.
    """

    first_ms: int
    detected_ms: int | None
    judged: tuple[DetectionResult, ...]
    actors: tuple[ActorScore, ...] = field(default=())

    def top(self, role: Role) -> list[Found]:
        """Incidents of that role that people see."""
        return [one.found for one in self.judged if one.role is role and one.found.top]


def score(
    truth: Truth,
    unit: Unit,
    found: Sequence[Found],
    genuine: Sequence[Found],
    traffic: Traffic,
    *,
    grace_ms: int,
    faults: Sequence[Truth] = (),
) -> Score:
    """Score one run.

    Args:
        truth: the attack.
        unit: whether attacks or their actors are counted.
        found: incidents of the run with the attack.
        genuine: incidents of the same shop without.
        traffic: events of the run.
        grace_ms: see GRACE_MS.
        faults: what else was wrong at the time; incidents about that are true, and no detection of this.
    """
    until_ms = truth.until_ms + grace_ms
    fresh = [
        one
        for one in found
        if one.detected_ms >= truth.from_ms
        and one.first_ms <= until_ms
        and not any(one.same_as(other) for other in genuine)
    ]
    judged = [_judge(truth, one, claim) for one, claim in zip(fresh, traffic.claims(fresh, 0), strict=True)]
    judged = [_excused(one, faults) for one in judged]
    told = {one.found.parent for one in judged if one.hit}
    judged = [replace(one, role=Role.TRUE) if one.found.whole and one.found.id in told else one for one in judged]
    firsts = traffic.firsts()
    by_actor = _by_actor(judged)
    moments = [one.found.group_ms or one.found.detected_ms for one in judged if one.hit]
    half = -(-len(truth.actors) // 2)
    if truth.actors and len(by_actor) >= half:
        moments.append(sorted(by_actor.values())[half - 1])
    return Score(
        first_ms=truth.first_ms,
        detected_ms=min(moments, default=None),
        judged=tuple(judged),
        actors=_actor_scores(firsts, by_actor, traffic) if unit is Unit.ACTOR else (),
    )


def _judge(truth: Truth, found: Found, claim: Claim) -> DetectionResult:
    events, hits, users = claim
    if found.nature == Nature.SURGE:
        return DetectionResult(found, Role.SURGE, hit=False)
    if truth.nature is Nature.SURGE:
        return DetectionResult(found, Role.FALSE, hit=False)
    if found.about_actors:
        guilty = truth.actors & found.members if found.members else users
        if found.members:
            good = len(guilty) >= _MAJORITY * len(found.members)
        else:
            good = events > 0 and hits >= _MAJORITY * events
        group = len(guilty) >= _GROUP or len(truth.actors) == 1
        hit = good and group and (bool(found.members) or not found.whole)
        return DetectionResult(found, Role.TRUE if good else Role.FALSE, hit, guilty if good else frozenset())
    if any(found.key.get(column, value) != value for column, value in truth.key.items()):
        return DetectionResult(found, Role.FALSE, hit=False)
    says = _says_what_is_hit(truth, found)
    caused = not truth.actors or (hits > 0 and (says or hits >= _PART * events))
    return DetectionResult(found, Role.TRUE if caused else Role.FALSE, hit=caused and says and not found.whole)


def _excused(judged: DetectionResult, faults: Sequence[Truth]) -> DetectionResult:
    """An incident about the site that began in a fault is the fault's."""
    found = judged.found
    if found.about_actors or judged.hit:
        return judged
    during = any(truth.from_ms <= found.detected_ms <= truth.until_ms + GRACE_MS for truth in faults)
    return replace(judged, role=Role.TRUE) if during and found.nature == Nature.FAULT else judged


def _says_what_is_hit(truth: Truth, found: Found) -> bool:
    if truth.key:
        return all(found.key.get(column) == value for column, value in truth.key.items())
    return _SITE_COLUMNS.issuperset(found.key)


def _by_actor(judged: Sequence[DetectionResult]) -> dict[int, int]:
    """Actor → when it was found."""
    moments: dict[int, int] = {}
    for one in judged:
        if one.role is Role.TRUE and not one.found.whole:
            for user in one.users:
                moments[user] = min(one.found.detected_ms, moments.get(user, one.found.detected_ms))
    return moments


def _actor_scores(firsts: Mapping[int, int], by_actor: Mapping[int, int], traffic: Traffic) -> tuple[ActorScore, ...]:
    events = traffic.counts_until(by_actor)
    return tuple(
        ActorScore(first_ms, by_actor.get(user), events.get(user) if user in by_actor else None)
        for user, first_ms in sorted(firsts.items())
    )
