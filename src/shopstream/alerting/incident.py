"""What a person looks at: one incident per episode, not one alarm per window."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from shopstream.detection.detection import Severity

__all__ = ["Change", "Handling", "Incident", "IncidentChange", "State", "incident_id"]


_COLUMNS = "event_time, event_type, product_id, category_code, brand, price, user_id"


class State(StrEnum):
    """An incident in one word: what a person did comes before what the traffic does."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    CLOSED = "closed"
    RESOLVED = "resolved"


class Handling(StrEnum):
    """What a person did about it."""

    NONE = "none"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


class Change(StrEnum):
    """What happened to an incident."""

    OPENED = "opened"
    UPDATED = "updated"
    RAISED = "raised"
    ABSORBED = "absorbed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Incident:
    """Detections of one rule and key, close in time.

    Args:
        id: names rule, key and the ordinal of the episode; see `incident_id`.
        keys: key column → value as text; empty for the site.
        ongoing: more may come; False once the quiet time of the rule is over.
        handling, handled_at, comment: what a person did and said; it leaves `ongoing` alone.
        first_event_time, last_event_time: span of the events in the windows.
        detected_at_event_time: end of the first window that met the condition, which the final detections alone decide
            as soon as there is one: the moment in event time by which anybody could have known. A condition that only
            grows is seen earlier than that inside its window, by at most the window's slide.
        windows: how many windows met the condition.
        peak_start, peak_end, peak: the strongest window and its measures.
        threshold: the rule's condition.
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
    handling: Handling
    handled_at: datetime | None
    comment: str
    first_event_time: datetime
    last_event_time: datetime
    detected_at_event_time: datetime
    windows: int
    peak_start: datetime
    peak_end: datetime
    peak: Mapping[str, object]
    threshold: str

    @property
    def state(self) -> State:
        """One word: resolved, else closed once it is over, else acknowledged, else open."""
        if self.handling is Handling.RESOLVED:
            return State.RESOLVED
        if not self.ongoing:
            return State.CLOSED
        return State.ACKNOWLEDGED if self.handling is Handling.ACKNOWLEDGED else State.OPEN

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
        conditions = [f"{column} = {_literal(column, value)}" for column, value in self.keys.items()]
        conditions.append(f"event_time between '{_text(self.first_event_time)}' and '{_text(self.last_event_time)}'")
        return " and ".join(conditions)

    @property
    def evidence_sql(self) -> str:
        """The query that shows the events, at most a thousand."""
        return f"select {_COLUMNS} from events where {self.events_sql} order by event_time limit 1000"

    @property
    def evidence_command(self) -> str:
        """The one command that shows the events, safe to paste into a shell."""
        sql = self.evidence_sql
        plain = not set(sql) & set('"$`\\!')  # double quotes keep the single ones of SQL readable
        return f'shopstream query "{sql}"' if plain else f"shopstream query {shlex.quote(sql)}"


@dataclass(frozen=True, slots=True)
class IncidentChange:
    """What one call did to one incident; an absorbed incident is now part of `into`."""

    change: Change
    incident_id: str
    rule: str
    severity: Severity
    into: str | None = None


def incident_id(scope: str, ordinal: int) -> str:
    """The id of the n-th episode of a rule and key, e.g. `3fa9c1d2e4b70a55-2`.

    It does not move when earlier events of the episode are found, and it shows that somebody comes again.
    """
    return f"{scope}-{ordinal}"


def _literal(column: str, value: str) -> str:
    from shopstream.events.schema import EVENT_FIELDS  # noqa: PLC0415  start-up time: every command imports this module

    numbers = {field.name for field in EVENT_FIELDS if field.duckdb == "BIGINT"}
    return value if column in numbers else "'" + value.replace("'", "''") + "'"


def _text(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="milliseconds")
