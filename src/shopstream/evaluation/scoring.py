"""Scores a run: which incidents an attack explains, and whether it was found. Incidents count, not windows.

A run with an attack starts from the state of the same shop's baseline run and differs from it by the attack only, so
incidents that the baseline run has, too, are not the attack's, and are counted once, there. The others are:

- *true*: about actors, and most of their events are the attack's; or about the target; or about another part of the
  shop, and at least a tenth of its events are the attack's; or an incident of several episodes, one of which names the
  target.
- *surge*: the product says that it sees many genuine shoppers. That never counts as the detection of an attack.
- *false*: all others.

An attack is found by a true incident about its target (the site, a category or product, a group of its actors, or its
only actor), or when half of its actors are found one by one. If recall counts actors, an actor is found by a true
incident about this actor only, or about a group with this actor.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from shopstream.clock import MINUTE_MS
from shopstream.detection.detection import Nature
from shopstream.evaluation.results import FoundIncident, Truth
from shopstream.evaluation.run_events import Claim, RunEvents

_Z = 1.959964
"""Quantile of the 95 % interval."""

GRACE_MS = 5 * MINUTE_MS
"""Incidents may begin this long after the end of the attack."""

_MAJORITY = 0.5
_PART = 0.1
_GROUP = 2
_SITE_COLUMNS = frozenset({"event_type"})


class Unit(StrEnum):
    """What recall counts."""

    ATTACK = "attacks"
    ACTOR = "actors"


class TimeUnit(StrEnum):
    """Unit of the time to detection."""

    SECONDS = "s"
    EVENTS = "events"
    FACTOR = "factor"


class IncidentRole(StrEnum):
    """What an incident is, given the ground truth."""

    TRUE = "true"
    SURGE = "surge"
    FALSE = "false"


def percentile(values: Sequence[float], share: float) -> float | None:
    """Linear between neighbours; None without values."""
    return float(np.quantile(values, share)) if values else None


def rule_of_three(found: int, trials: float) -> float:
    """Upper bound (about 95 %) of a rate per trial: 3/N for a count of 0, else of a Poisson count."""
    if trials <= 0:
        return math.inf
    return 3 / trials if found == 0 else (found + _Z * math.sqrt(found) + _Z * _Z / 2) / trials


@dataclass(frozen=True, slots=True)
class ScoredIncident:
    """An incident and its role.

    Args:
        hit: it names the target, so the attack counts as found.
        users: actors of the attack that it names.
    """

    found: FoundIncident
    role: IncidentRole
    hit: bool
    users: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ActorScore:
    """One actor; `detected_ms` is None if it was missed."""

    first_ms: int
    detected_ms: int | None
    events_until: int | None


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one attack.

    Args:
        first_ms: time of its first event, or its start if it adds none.
        detected_ms: None if it was missed.
        incidents: incidents that the baseline run does not have, by time.
        actors: each actor, if recall counts actors; else empty.
    """

    first_ms: int
    detected_ms: int | None
    incidents: tuple[ScoredIncident, ...]
    actors: tuple[ActorScore, ...] = field(default=())

    def top(self, role: IncidentRole) -> list[FoundIncident]:
        """Listed incidents of a role."""
        return [one.found for one in self.incidents if one.role is role and one.found.top]


def score(
    truth: Truth,
    unit: Unit,
    found: Sequence[FoundIncident],
    baseline: Sequence[FoundIncident],
    traffic: RunEvents,
    *,
    faults: Sequence[Truth] = (),
) -> Score:
    """Score one run.

    Args:
        truth: the attack.
        unit: what recall counts.
        found: incidents of the run with the attack.
        baseline: incidents of the baseline run.
        traffic: events of the run.
        faults: other faults at the time; incidents about them are true, but do not detect this attack.
    """
    until_ms = truth.until_ms + GRACE_MS
    fresh = [
        one
        for one in found
        if one.detected_ms >= truth.from_ms
        and one.first_ms <= until_ms
        and not any(one.same_as(other) for other in baseline)
    ]
    scored = [_score_incident(truth, one, claim) for one, claim in zip(fresh, traffic.claims(fresh), strict=True)]
    scored = [_excused(one, faults) for one in scored]
    parents = {one.found.parent for one in scored if one.hit}
    scored = [
        replace(one, role=IncidentRole.TRUE) if one.found.whole and one.found.id in parents else one for one in scored
    ]
    firsts = traffic.firsts()
    by_actor = _by_actor(scored)
    moments = [one.found.group_ms or one.found.detected_ms for one in scored if one.hit]
    half = -(-len(truth.actors) // 2)
    if truth.actors and len(by_actor) >= half:
        moments.append(sorted(by_actor.values())[half - 1])
    return Score(
        first_ms=truth.first_ms,
        detected_ms=min(moments, default=None),
        incidents=tuple(scored),
        actors=_actor_scores(firsts, by_actor, traffic) if unit is Unit.ACTOR else (),
    )


def _score_incident(truth: Truth, found: FoundIncident, claim: Claim) -> ScoredIncident:
    events, hits, users = claim
    if found.nature == Nature.SURGE:
        return ScoredIncident(found, IncidentRole.SURGE, hit=False)
    if truth.nature is Nature.SURGE:
        return ScoredIncident(found, IncidentRole.FALSE, hit=False)
    if found.about_actors:
        guilty = truth.actors & found.members if found.members else users
        if found.members:
            good = len(guilty) >= _MAJORITY * len(found.members)
        else:
            good = events > 0 and hits >= _MAJORITY * events
        group = len(guilty) >= _GROUP or len(truth.actors) == 1
        hit = good and group and (bool(found.members) or not found.whole)
        return ScoredIncident(
            found, IncidentRole.TRUE if good else IncidentRole.FALSE, hit, guilty if good else frozenset()
        )
    if any(found.key.get(column, value) != value for column, value in truth.key.items()):
        return ScoredIncident(found, IncidentRole.FALSE, hit=False)
    says = _names_target(truth, found)
    caused = not truth.actors or (hits > 0 and (says or hits >= _PART * events))
    return ScoredIncident(
        found, IncidentRole.TRUE if caused else IncidentRole.FALSE, hit=caused and says and not found.whole
    )


def _excused(scored: ScoredIncident, faults: Sequence[Truth]) -> ScoredIncident:
    """An incident about the site during another fault belongs to that fault."""
    found = scored.found
    if found.about_actors or scored.hit:
        return scored
    during = any(truth.from_ms <= found.detected_ms <= truth.until_ms + GRACE_MS for truth in faults)
    return replace(scored, role=IncidentRole.TRUE) if during and found.nature == Nature.FAULT else scored


def _names_target(truth: Truth, found: FoundIncident) -> bool:
    if truth.key:
        return all(found.key.get(column) == value for column, value in truth.key.items())
    return _SITE_COLUMNS.issuperset(found.key)


def _by_actor(scored: Sequence[ScoredIncident]) -> dict[int, int]:
    """Actor → time of the detection."""
    moments: dict[int, int] = {}
    for one in scored:
        if one.role is IncidentRole.TRUE and not one.found.whole:
            for user in one.users:
                moments[user] = min(one.found.detected_ms, moments.get(user, one.found.detected_ms))
    return moments


def _actor_scores(firsts: Mapping[int, int], by_actor: Mapping[int, int], traffic: RunEvents) -> tuple[ActorScore, ...]:
    events = traffic.counts_until(by_actor)
    return tuple(
        ActorScore(first_ms, by_actor.get(user), events.get(user) if user in by_actor else None)
        for user, first_ms in sorted(firsts.items())
    )
