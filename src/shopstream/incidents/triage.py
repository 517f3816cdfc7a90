"""What people do about incidents: acknowledge, resolve, call a false positive, open again.

The engine never writes these columns. What is said of an incident is said of all its episodes; what is said of one of
its episodes by its own id is said of that one alone.
"""

import sqlite3

from shopstream.incidents.incident import Handling, Incident
from shopstream.incidents.queries import find, incident_under

__all__ = ["handle"]


def handle(
    connection: sqlite3.Connection, id_or_prefix: str, handling: Handling, comment: str | None, now_ms: int
) -> Incident:
    """Note it; inside a transaction.

    Raises:
        StateError: no such incident, or several.
    """
    stored = find(connection, id_or_prefix)
    head = stored.place is not None and stored.place.root == stored.id
    condition, values = (
        ("root = ?", (stored.id,)) if head else ("scope = ? AND ordinal = ?", (stored.scope, stored.ordinal))
    )
    handled_ms = None if handling is Handling.NONE else now_ms
    connection.execute(
        f"UPDATE incidents SET handling = ?, handled_ms = ?, comment = coalesce(?, comment) WHERE {condition}",
        (handling, handled_ms, comment, *values),
    )
    return incident_under(connection, stored.id)
