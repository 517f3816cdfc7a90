"""Which rows of a working copy a transaction has changed, and the items that they are in the table.

Triggers note keys in a temporary table: they belong to one connection, take part in its transactions, and are nowhere
in the file, which readers and other connections use as ever.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

from shopstream.incidents import single_table as items
from shopstream.incidents.database import Connection, explained, open_writer
from shopstream.incidents.table import Item, Key, key_of, number_of, text_of

__all__ = ["Recorded", "open_recorded", "recorded", "write_rows"]

_TABLES: Final = (
    ("incidents", "scope", "ordinal", "{0}.actor_kind, {0}.actor"),
    ("heads", "scope", "ordinal", "NULL, NULL"),
    ("notifications", "reference", "target", "NULL, NULL"),
    ("ordinals", "scope", "''", "NULL, NULL"),
)

_ORDINALS: Final = """
SELECT c.first AS scope,
    max(coalesce((SELECT max(ordinal) FROM incidents WHERE scope = c.first), 0),
        coalesce((SELECT ordinal FROM ordinals WHERE scope = c.first), 0)) AS ordinal,
    max(coalesce((SELECT max(end_ms) FROM incidents WHERE scope = c.first), 0),
        coalesce((SELECT end_ms FROM ordinals WHERE scope = c.first), 0)) AS end_ms
FROM (SELECT DISTINCT first FROM temp.changed WHERE name = 'ordinals' OR (name = 'incidents' AND fresh = 1)) AS c
"""
_VERDICTS: Final = """
SELECT i.*, h.handling AS head_handling
FROM temp.changed AS c JOIN incidents AS i ON c.name = 'incidents' AND i.scope = c.first AND i.ordinal = c.second
LEFT JOIN incidents AS h ON h.scope = substr(i.root, 1, 16) AND h.ordinal = CAST(substr(i.root, 18) AS INTEGER)
"""
_HEADS: Final = """
SELECT h.*, i.rule, i.handling, i.comment, i.facts AS episode_facts
FROM (SELECT DISTINCT first, second FROM temp.changed WHERE name IN ('incidents', 'heads')) AS c
JOIN heads AS h ON h.scope = c.first AND h.ordinal = c.second
JOIN incidents AS i ON i.scope = c.first AND i.ordinal = c.second
"""


def open_recorded(path: Path) -> Connection:
    """A connection to a working copy that notes which rows it changes."""
    connection = open_writer(path)
    with explained(path):
        connection.execute(
            "CREATE TEMP TABLE changed (name TEXT, first TEXT, second, actor_kind TEXT, actor TEXT, fresh INTEGER, "
            "PRIMARY KEY (name, first, second))"
        )
        for table, first, second, actor in _TABLES:
            for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
                other = second if second == "''" else f"{row}.{second}"
                connection.execute(
                    f"CREATE TEMP TRIGGER {table}_{event} AFTER {event} ON main.{table} BEGIN "
                    f"INSERT INTO changed VALUES ('{table}', {row}.{first}, {other}, {actor.format(row)}, "
                    f"{int(event != 'UPDATE')}) ON CONFLICT DO UPDATE SET fresh = max(fresh, excluded.fresh); END"
                )
    return connection


class Recorded:
    """What one transaction has changed.

    Args:
        changes: items by key; None for what is gone.
        logged: keys of those that copies have to look at.
    """

    def __init__(self, changes: Mapping[Key, Item | None], logged: Iterable[Key]) -> None:
        self.changes = changes
        self.logged = tuple(logged)


def recorded(connection: Connection, now_s: int, retention: timedelta) -> Recorded:
    """The changes noted so far in the open transaction, which are noted no more."""
    noted = connection.execute("SELECT name, first, second, actor_kind, actor FROM temp.changed").fetchall()
    if not noted:
        return Recorded({}, ())
    changes, silent = _gone(noted)  # unless a row is found below
    stamp = (now_s, retention)
    for row in connection.execute(_VERDICTS):
        changes[items.episode_key(row["scope"], row["ordinal"])] = items.episode_item(row, *stamp)
        if row["actor"] is not None:
            verdict = items.verdict_item(row, *stamp)
            changes[key_of(verdict)] = verdict
    for row in connection.execute(_HEADS):
        changes[items.head_key(row["scope"], row["ordinal"])] = items.head_item(row, *stamp)
    for row in connection.execute(
        "SELECT n.* FROM temp.changed AS c JOIN notifications AS n "
        "ON c.name = 'notifications' AND n.reference = c.first AND n.target = c.second"
    ):
        changes[items.notification_key(row["reference"], row["target"])] = items.notification_item(row, *stamp)
    for row in connection.execute(_ORDINALS):
        key = items.last_key(row["scope"])
        changes[key] = items.last_item(row["scope"], row["ordinal"], row["end_ms"], *stamp) if row["ordinal"] else None
    connection.execute("DELETE FROM temp.changed")
    return Recorded(changes, [key for key in changes if key not in silent])


def _gone(noted: Iterable[sqlite3.Row]) -> tuple[dict[Key, Item | None], set[Key]]:
    """All that was noted as if it were deleted, and those of the keys that no copy needs."""
    changes: dict[Key, Item | None] = {}
    silent: set[Key] = set()
    for name, first, second, kind, actor in noted:
        if name == "incidents":
            changes[items.episode_key(first, second)] = None
            if kind is not None:
                silent.add(items.actor_key(kind, actor, f"{first}-{second}"))
        elif name == "heads":
            changes[items.head_key(first, second)] = None
        elif name == "notifications":
            changes[items.notification_key(first, second)] = None
    return changes | dict.fromkeys(silent), silent


def write_rows(connection: sqlite3.Connection, changes: Mapping[Key, Item | None], *, known: bool = True) -> None:
    """Bring a working copy's rows to what the table has.

    Args:
        connection: inside a transaction, and one that notes nothing.
        changes: items by key; None for what is gone.
        known: whether rows that are there are replaced.
    """
    verb = "INSERT OR REPLACE" if known else "INSERT OR IGNORE"
    rows: dict[tuple[str, tuple[str, ...]], list[tuple[object, ...]]] = {}
    lasts: list[tuple[str, int, int]] = []
    for (pk, sk), item in changes.items():
        if item is None:
            _delete(connection, pk, sk)
        elif row := items.row_of(item):
            rows.setdefault((row.table, row.columns), []).append(row.values)
        elif item["item"] == "last":
            lasts.append((text_of(item, "scope"), number_of(item, "ordinal"), number_of(item, "end_ms")))
    for (table, columns), values in rows.items():
        marks = ", ".join("?" * len(columns))
        connection.executemany(f"{verb} INTO {table} ({', '.join(columns)}) VALUES ({marks})", values)
    for scope, ordinal, end_ms in lasts:
        newest = connection.execute("SELECT max(ordinal) FROM incidents WHERE scope = ?", (scope,)).fetchone()[0]
        if newest is None or newest < ordinal:
            connection.execute("INSERT OR REPLACE INTO ordinals VALUES (?, ?, ?)", (scope, ordinal, end_ms))
        else:
            connection.execute("DELETE FROM ordinals WHERE scope = ?", (scope,))


def _delete(connection: sqlite3.Connection, pk: str, sk: str) -> None:
    scope = pk.removeprefix("SCOPE#")
    ordinal, _, rest = sk.partition("#")
    kind, _, rest = rest.partition("#")
    match kind:
        case "EPISODE":
            connection.execute("DELETE FROM incidents WHERE scope = ? AND ordinal = ?", (scope, int(ordinal)))
        case "HEAD":
            connection.execute("DELETE FROM heads WHERE scope = ? AND ordinal = ?", (scope, int(ordinal)))
        case "NOTIFICATION":
            about, _, target = rest.rpartition("#")
            reference = f"{scope}-{int(ordinal)}:{about}"
            connection.execute("DELETE FROM notifications WHERE reference = ? AND target = ?", (reference, target))
        case _ if sk == "LAST":
            connection.execute("DELETE FROM ordinals WHERE scope = ?", (scope,))
