"""What a person looks at: one incident per episode, not one alarm per window."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from shopstream.detection.detection import Nature, Severity
from shopstream.incidents.event_query import actors_condition, events_condition, events_query, query_command

__all__ = [
    "ACTOR_KINDS",
    "Actor",
    "Change",
    "Incident",
    "IncidentChange",
    "Role",
    "State",
    "TriageStatus",
    "incident_id",
    "split_id",
    "state_of",
]


ACTOR_KINDS = ("user_id", "user_session", "ip", "ip_net", "agent_hash", "user_agent")
"""Key columns that name somebody who acts; the first of them in a key names the actor."""


_NAMED = 20
"""A command that names more actors than this is nobody's to read."""


class State(StrEnum):
    """An incident in one word: what a person did comes before what the traffic does."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    CLOSED = "closed"
    RESOLVED = "resolved"
    FALSE_POSITIVE = "false_positive"


class TriageStatus(StrEnum):
    """What a person did about it."""

    NONE = "none"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"
    FALSE_POSITIVE = "false_positive"


class Role(StrEnum):
    """What an episode is in the incident that people see."""

    HEAD = "head"
    """It gives the incident its id, words and peak."""
    RULE = "rule"
    """Another rule on the same key at the same time."""
    CHILD = "child"
    """A category, product or event type inside of what the head covers; or the recovery after a silence."""
    ACTOR = "actor"
    """One of a campaign's actors, or an actor inside of what the head covers."""


class Change(StrEnum):
    """What happened to an incident."""

    OPENED = "opened"
    UPDATED = "updated"
    RAISED = "raised"
    ABSORBED = "absorbed"
    CLOSED = "closed"


class Actor(NamedTuple):
    """Somebody who acts: a kind of key such as `user_id`, and its value."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class Incident:
    """What a person looks at: episodes (detections of one rule and key, close in time) that have one cause.

    The head is the episode that gives the others their place, the widest and then the earliest; id, rule, words, key
    and peak are the head's. Severity, times, rules, actors and confidence are of all episodes together. An episode that
    is part of another incident can be read as an incident of its own, with `parent` set.

    Args:
        id: the head's: names rule, key and the ordinal of the episode; see `incident_id`.
        keys: key column → value as text; empty for the site.
        ongoing: more may come; False once the quiet time of the rule is over.
        status, status_at, owner, comment: what a person did, when, who looks after it, and why; `ongoing` stays.
        first_event_time, last_event_time: span of the events in the windows.
        detected_at_event_time: end of the first window that met the condition, which the final detections alone decide
            as soon as there is one: the moment in event time by which anybody could have known. A condition that only
            grows is seen earlier than that inside its window, by at most the window's slide.
        windows: how many windows met the condition.
        peak_start, peak_end, peak: the strongest window and its measures.
        threshold: the rule's condition.
        nature: attack, fault or surge; a surge is informational, whatever the rule's level.
        role: what it is in its parent; HEAD for what people see.
        parent, parent_status: id of the incident that it is part of, None for what people see; and what people did
            about that one, where it was asked for.
        rules: all that contributed, the head's first.
        episodes: how many detections' chains there are in it, itself included.
        actors: everyone it is about, in order of kind and value: all of a campaign, those under a site's incident too.
        campaign: many actors with one signature.
        verdict: bot, human, unknown or None, by the rules, of the actor.
        confidence: 0 to 1 that it is what the rule says; independent rules add up.
        contributions: rule → its own confidence.
        evidence: what the detector knew of the peak, see `detection.Detection`.
        context: what the recent events said when it opened, see `engine.recent`; None where nobody asked.
        notifications: number of sent and pending notifications; several addresses count once.
    """

    id: str
    rule: str
    rule_version: str
    title: str
    severity: Severity
    tags: tuple[str, ...]
    key_kind: str
    keys: Mapping[str, str]
    ongoing: bool
    status: TriageStatus
    status_at: datetime | None
    owner: str
    comment: str
    first_event_time: datetime
    last_event_time: datetime
    detected_at_event_time: datetime
    windows: int
    peak_start: datetime
    peak_end: datetime
    peak: Mapping[str, object]
    threshold: str
    nature: Nature = Nature.ATTACK
    role: Role = Role.HEAD
    parent: str | None = None
    parent_status: TriageStatus = TriageStatus.NONE
    rules: tuple[str, ...] = ()
    episodes: int = 1
    actors: tuple[Actor, ...] = ()
    campaign: bool = False
    verdict: str | None = None
    confidence: float = 0.0
    contributions: Mapping[str, float] = field(default_factory=dict)
    evidence: Mapping[str, object] = field(default_factory=dict)
    context: Mapping[str, object] | None = field(default=None, compare=False)
    notifications: int = 0

    @property
    def state(self) -> State:
        """See `state_of`."""
        return state_of(self.status, closed=not self.ongoing)

    @property
    def false_positive(self) -> bool:
        """Whether people called it a false positive, or the incident that it is part of."""
        return TriageStatus.FALSE_POSITIVE in {self.status, self.parent_status}

    @property
    def short_id(self) -> str:
        """Begins like the id; enough to name it among a few hundred million."""
        scope, _, ordinal = self.id.partition("-")
        return f"{scope[:8]}-{ordinal}"

    @property
    def duration(self) -> timedelta:
        """From its first to its last event."""
        return self.last_event_time - self.first_event_time

    @property
    def events_sql(self) -> str:
        """The condition that the incident's events meet, over the columns of `events`."""
        if self.campaign:
            return actors_condition(self.actors, self.first_event_time, self.last_event_time)
        return events_condition(self.keys, self.first_event_time, self.last_event_time)

    @property
    def evidence_sql(self) -> str:
        """The query that shows the events, at most a thousand."""
        return events_query(self.events_sql)

    @property
    def evidence_command(self) -> str:
        """The one command that shows the events, safe to paste into a shell."""
        if len(self.actors) > _NAMED:
            return f"shopstream incidents events {self.id}"
        return query_command(self.events_sql)


@dataclass(frozen=True, slots=True)
class IncidentChange:
    """What one call did to one episode.

    Args:
        into: the episode that an absorbed one is now part of.
        root: the incident that people see it in; its own id for a head.
        key, from_ms, to_ms: whose events it is about, and when they were.
        peak: the first measure of its strongest window; 0 where it is no number.
    """

    change: Change
    incident_id: str
    rule: str
    severity: Severity
    into: str | None = None
    root: str | None = None
    key: Mapping[str, str] = field(default_factory=dict)
    from_ms: int = 0
    to_ms: int = 0
    peak: float = 0.0


def state_of(status: TriageStatus, *, closed: bool) -> State:
    """One word: what a person found, else closed once it is over, else acknowledged, else open."""
    if status in {TriageStatus.RESOLVED, TriageStatus.FALSE_POSITIVE}:
        return State(status)
    if closed:
        return State.CLOSED
    return State.ACKNOWLEDGED if status is TriageStatus.ACKNOWLEDGED else State.OPEN


def incident_id(scope: str, ordinal: int) -> str:
    """The id of the n-th episode of a rule and key, e.g. `3fa9c1d2e4b70a55-2`.

    It does not move when earlier events of the episode are found, and it shows that somebody comes again.
    """
    return f"{scope}-{ordinal}"


def split_id(incident: str) -> tuple[str, int]:
    """Scope and ordinal of an id."""
    scope, _, ordinal = incident.partition("-")
    return scope, int(ordinal)
