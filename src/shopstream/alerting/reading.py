"""Reading incidents from another process while the engine writes them."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from shopstream.alerting.database import explained, open_reader
from shopstream.alerting.episode import SEVERITIES
from shopstream.alerting.incident import Incident, State
from shopstream.alerting.rows import Stored, incident_of, stored_of
from shopstream.detection.detection import Severity
from shopstream.errors import StateError

__all__ = ["count_incidents", "find", "read_incident", "read_incidents"]

_STATE_SQL = (
    "CASE WHEN handling IN ('resolved', 'false_positive') THEN handling WHEN closed THEN 'closed' "
    "WHEN handling = 'acknowledged' THEN 'acknowledged' ELSE 'open' END"
)


def find(connection: sqlite3.Connection, short: str) -> Stored:
    """The one incident of an id, whose first part may be cut short and whose ordinal may be left out.

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
    """Incidents with the newest events first; none as long as there is no store. Safe while the engine writes.

    Args:
        path: the SQLite file.
        states: take only these; empty takes all.
        severities: likewise.
        rules: likewise.
        limit: at most so many; None takes all.

    Raises:
        StateError: the file is no incident store, or of another version.
    """
    connection = open_reader(path)
    if connection is None:
        return []
    wheres, values = ["TRUE"], list[object]()
    for column, wanted in (
        (_STATE_SQL, [str(state) for state in states]),
        ("severity", [SEVERITIES.index(severity) for severity in severities]),
        ("rule", list(rules)),
    ):
        if wanted:
            wheres.append(f"{column} IN ({', '.join('?' * len(wanted))})")
            values += wanted
    try:
        with explained(path):
            rows = connection.execute(
                f"SELECT * FROM incidents WHERE {' AND '.join(wheres)} "
                "ORDER BY last_event_ms DESC, scope, ordinal LIMIT ?",
                (*values, -1 if limit is None else limit),
            ).fetchall()
    finally:
        connection.close()
    return [incident_of(stored_of(row)) for row in rows]


def read_incident(path: Path, id_or_prefix: str) -> Incident:
    """One incident; see `find` for how its id may be cut short.

    Raises:
        StateError: no such incident, or several.
    """
    connection = open_reader(path)
    if connection is None:
        raise StateError(f"no incident has the id {id_or_prefix!r}: there are none yet; run the stream first")
    try:
        with explained(path):
            return incident_of(find(connection, id_or_prefix))
    finally:
        connection.close()


def count_incidents(path: Path) -> dict[State, int]:
    """How many incidents there are in each state; every state is named."""
    counts = dict.fromkeys(State, 0)
    connection = open_reader(path)
    if connection is not None:
        try:
            with explained(path):
                for state, count in connection.execute(f"SELECT {_STATE_SQL}, count(*) FROM incidents GROUP BY 1"):
                    counts[State(state)] = count
        finally:
            connection.close()
    return counts
