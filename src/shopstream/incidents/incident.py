"""Incidents as people see them: one per episode, not one alarm per window.

Also the command that shows an incident's events, and the precision of rules: how often people found their incidents
right.
"""

import math
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from shopstream.detection.detection import Nature, Severity

_COLUMNS = "event_time, event_type, product_id, category_code, brand, price, user_id"


def events_condition(keys: Mapping[str, str], first: datetime, last: datetime) -> str:
    """SQL over the columns of `events`: which events have these keys and lie between first and last, both included."""
    conditions = [_condition(column, value) for column, value in keys.items()]
    conditions.append(f"event_time between '{_text(first)}' and '{_text(last)}'")
    return " and ".join(conditions)


def actors_condition(actors: Iterable[tuple[str, str]], first: datetime, last: datetime) -> str:
    """SQL over the columns of `events`: which events are of one of these actors (kind, value) and lie in that time."""
    kinds: dict[str, list[str]] = {}
    for kind, value in actors:
        kinds.setdefault(kind, []).append(value)
    made = []
    for kind, values in kinds.items():
        left, numeric = _left(kind)
        made.append(f"{left} in ({', '.join(value if numeric else _quote(value) for value in values)})")
    return f"({' or '.join(made)}) and event_time between '{_text(first)}' and '{_text(last)}'"


def events_query(condition: str) -> str:
    """The query that shows the events that meet a condition, at most a thousand."""
    return f"select {_COLUMNS} from events where {condition} order by event_time limit 1000"


def events_command(keys: Mapping[str, str], first: datetime, last: datetime) -> str:
    """The command that shows the events of a key and a time, safe to paste into a shell."""
    return query_command(events_condition(keys, first, last))


def query_command(condition: str) -> str:
    """The command that shows the events that meet a condition, safe to paste into a shell."""
    sql = events_query(condition)
    plain = not set(sql) & set('"$`\\!')  # double quotes keep the single ones of SQL readable
    return f'shopstream query "{sql}"' if plain else f"shopstream query {shlex.quote(sql)}"


def _condition(column: str, value: str) -> str:
    if column == "ip_net" and value.endswith(".0/24"):  # easier on the eye than the expression
        return f"ip like {_quote(value.removesuffix('0/24') + '%')}"
    left, numeric = _left(column)
    return f"{left} = {value if numeric else _quote(value)}"


def _left(column: str) -> tuple[str, bool]:
    """The expression that gives a column's value, and whether that is a number."""
    from shopstream.engine.derived_columns import DERIVED_FIELDS  # noqa: PLC0415  start-up time: every command imports this
    from shopstream.events.schema import EVENT_FIELDS  # noqa: PLC0415  likewise

    field = next((field for field in DERIVED_FIELDS if field.name == column and field.sql is not None), None)
    if field is not None and field.sql is not None:
        made = " ".join(re.sub(r"\bt\b", "epoch_ms(event_time)", field.sql).split())
        return f"({made})", field.duckdb == "BIGINT"
    return column, column in {field.name for field in EVENT_FIELDS if field.duckdb == "BIGINT"}


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _text(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="milliseconds")


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
