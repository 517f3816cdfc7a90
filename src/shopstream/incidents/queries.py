"""Reading incidents from another process while the engine writes them."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from shopstream.clock import from_ms
from shopstream.detection.detection import Severity
from shopstream.errors import StateError
from shopstream.incidents.database import explained, open_reader
from shopstream.incidents.episode import NATURES, SEVERITIES
from shopstream.incidents.incident import Actor, Incident, State
from shopstream.incidents.rows import Stored, incident_of, stored_of

__all__ = [
    "combined",
    "count_incidents",
    "find",
    "incident_under",
    "incidents_under",
    "read_episodes",
    "read_incident",
    "read_incidents",
    "reading",
]

_STATE_SQL = (
    "CASE WHEN i.handling IN ('resolved', 'false_positive') THEN i.handling WHEN h.closed THEN 'closed' "
    "WHEN i.handling = 'acknowledged' THEN 'acknowledged' ELSE 'open' END"
)
_HEADS = "heads AS h JOIN incidents AS i USING (scope, ordinal)"
_SUMS = (
    "h.severity AS sum_severity, h.nature AS sum_nature, h.first_event_ms AS sum_first_ms, "
    "h.last_event_ms AS sum_last_ms, h.detected_ms AS sum_detected_ms, h.closed AS sum_closed, "
    "h.campaign AS sum_campaign, h.episodes AS sum_episodes, h.facts AS sum_facts"
)


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    """A connection that cannot write, closed again; None as long as there is no store.

    Raises:
        StateError: the file is no incident store, or of another version.
    """
    connection = open_reader(path)
    if connection is None:
        yield None
        return
    try:
        with explained(path):
            yield connection
    finally:
        connection.close()


def find(connection: sqlite3.Connection, short: str) -> Stored:
    """The one episode of an id, whose first part may be cut short and whose ordinal may be left out.

    Raises:
        StateError: none, or several.
    """
    scope, _, ordinal = short.partition("-")
    rows = connection.execute(
        "SELECT * FROM incidents WHERE scope >= ?1 AND scope < ?1 || 'g' AND (?2 = '' OR ordinal = ?2) LIMIT 2",
        (scope, ordinal),
    ).fetchall()
    if not rows or not scope:
        raise StateError(f"no incident has the id {short!r}; see `shopstream incidents list`")
    if len(rows) > 1:
        raise StateError(f"several incidents fit {short!r}; write more of the id, see `shopstream incidents list`")
    return stored_of(rows[0])


def read_incidents(
    path: Path,
    *,
    states: Iterable[State] = (),
    severities: Iterable[Severity] = (),
    rules: Iterable[str] = (),
    limit: int | None = None,
) -> list[Incident]:
    """Incidents as people see them, those with the newest events first. Safe while the engine writes.

    What is part of another incident is not in the list; `read_episodes` has it. None as long as there is no store.

    Args:
        path: the SQLite file.
        states: take only these; empty takes all.
        severities: likewise.
        rules: take only those that one of these contributed to; empty takes all.
        limit: at most so many; None takes all.

    Raises:
        StateError: the file is no incident store, or of another version.
    """
    wheres, values = ["TRUE"], list[object]()
    for column, wanted in (
        (_STATE_SQL, [str(state) for state in states]),
        ("h.severity", [SEVERITIES.index(severity) for severity in severities]),
    ):
        if wanted:
            wheres.append(f"{column} IN ({_marks(wanted)})")
            values += wanted
    if named := list(rules):
        wheres.append(f"EXISTS (SELECT 1 FROM json_each(h.facts, '$.rules') WHERE value IN ({_marks(named)}))")
        values += named
    with reading(path) as connection:
        if connection is None:
            return []
        rows = connection.execute(
            f"SELECT i.*, {_SUMS} FROM {_HEADS} WHERE {' AND '.join(wheres)} "
            "ORDER BY h.last_event_ms DESC, h.scope, h.ordinal LIMIT ?",
            (*values, -1 if limit is None else limit),
        ).fetchall()
        return _together(connection, rows)


def read_incident(path: Path, id_or_prefix: str) -> Incident:
    """One incident, or one part of another (then with `parent`); see `find` for how its id may be cut short.

    Raises:
        StateError: no such incident, or several.
    """
    with reading(path) as connection:
        if connection is None:
            raise StateError(f"no incident has the id {id_or_prefix!r}: there are none yet; run the stream first")
        return incident_under(connection, find(connection, id_or_prefix).id)


def read_episodes(path: Path, incident_id: str) -> list[Incident]:
    """All parts of an incident, each as an incident of its own with its `role`: the head first, then by detection.

    Args:
        path: the SQLite file.
        incident_id: the whole id of what people see; that of a part gives nothing.
    """
    with reading(path) as connection:
        if connection is None:
            return []
        rows = connection.execute("SELECT * FROM incidents WHERE root = ?", (incident_id,)).fetchall()
        parts = [incident_of(stored_of(row)) for row in rows]
    return sorted(parts, key=lambda one: (one.parent is not None, one.detected_at_event_time, one.id))


def count_incidents(path: Path) -> dict[State, int]:
    """How many incidents, as people see them, there are in each state; every state is named."""
    counts = dict.fromkeys(State, 0)
    with reading(path) as connection:
        if connection is not None:
            for state, count in connection.execute(f"SELECT {_STATE_SQL}, count(*) FROM {_HEADS} GROUP BY 1"):
                counts[State(state)] = count
    return counts


def incident_under(connection: sqlite3.Connection, incident_id: str) -> Incident:
    """The incident of a whole id that is there."""
    return incidents_under(connection, [incident_id])[incident_id]


def incidents_under(connection: sqlite3.Connection, ids: Iterable[str]) -> dict[str, Incident]:
    """Whole id → incident, those that are there; what is part of another incident stands for itself."""
    wanted = json.dumps(sorted(set(ids)))
    split = "SELECT substr(value, 1, 16) AS scope, CAST(substr(value, 18) AS INTEGER) AS ordinal FROM json_each(?)"
    heads = connection.execute(
        f"SELECT i.*, {_SUMS} FROM ({split}) JOIN heads AS h USING (scope, ordinal) "
        "JOIN incidents AS i USING (scope, ordinal)",
        (wanted,),
    ).fetchall()
    found = {incident.id: incident for incident in _together(connection, heads)}
    parts = connection.execute(
        f"SELECT i.* FROM ({split}) JOIN incidents AS i USING (scope, ordinal) WHERE i.role <> 'head'", (wanted,)
    ).fetchall()
    return found | {part.id: part for part in (incident_of(stored_of(row)) for row in parts)}


def combined(contributions: Mapping[str, float]) -> float:
    """Confidence of independent rules together, any of which may be wrong: 1 less the product of doubts, never 1."""
    doubt = 1.0
    for confidence in contributions.values():
        doubt *= 1.0 - confidence
    return round(min(1.0 - doubt, 0.999), 3)


def _together(connection: sqlite3.Connection, rows: Sequence[sqlite3.Row]) -> list[Incident]:
    """Heads with the sums over their episodes."""
    ids = [f"{row['scope']}-{row['ordinal']}" for row in rows]
    wanted = json.dumps(ids)
    actors: dict[str, list[Actor]] = {}
    for root, kind, value in connection.execute(
        "SELECT DISTINCT i.root, actor_kind, actor FROM json_each(?) AS wanted JOIN incidents AS i "
        "ON i.root = wanted.value WHERE actor IS NOT NULL ORDER BY 1, 2, 3",
        (wanted,),
    ):
        actors.setdefault(root, []).append(Actor(kind, value))
    told: dict[str, int] = dict(
        connection.execute(
            "SELECT i.root, count(DISTINCT reference) FROM notifications AS n JOIN incidents AS i "
            "ON i.scope = substr(n.incident_id, 1, 16) AND n.incident_id = i.scope || '-' || i.ordinal "
            "WHERE i.root IN (SELECT value FROM json_each(?)) GROUP BY i.root",
            (wanted,),
        ).fetchall()
    )
    return [_incident(row, actors.get(one, ()), told.get(one, 0)) for one, row in zip(ids, rows, strict=True)]


def _incident(row: sqlite3.Row, actors: Sequence[Actor], notifications: int) -> Incident:
    facts: dict[str, Any] = json.loads(row["sum_facts"])
    return replace(
        incident_of(stored_of(row)),
        severity=SEVERITIES[row["sum_severity"]],
        nature=NATURES[row["sum_nature"]],
        tags=tuple(facts["tags"]),
        ongoing=not row["sum_closed"],
        first_event_time=from_ms(row["sum_first_ms"]),
        last_event_time=from_ms(row["sum_last_ms"]),
        detected_at_event_time=from_ms(row["sum_detected_ms"]),
        windows=facts["windows"],
        rules=tuple(facts["rules"]),
        episodes=row["sum_episodes"],
        actors=tuple(actors),
        campaign=row["sum_campaign"] == 1,
        confidence=combined(facts["contributions"]),
        contributions=facts["contributions"],
        notifications=notifications,
    )


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
