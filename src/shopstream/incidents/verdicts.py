"""What incidents say of actors, for the reports that are to be without bots, and for blocklists."""

from pathlib import Path

import pyarrow as pa

from shopstream.clock import from_ms
from shopstream.incidents.incident import Handling
from shopstream.incidents.queries import reading

__all__ = ["VERDICT_SCHEMA", "read_verdicts"]

_TIME = pa.timestamp("us", "UTC")

VERDICT_SCHEMA = pa.schema(
    [
        pa.field("actor_kind", pa.string(), nullable=False),
        pa.field("actor", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("from_time", _TIME, nullable=False),
        pa.field("until_time", _TIME, nullable=False),
        pa.field("why", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("incident_id", pa.string(), nullable=False),
    ]
)
"""Columns of the table `verdicts`; times are [from, until), the actor's value is text."""


def read_verdicts(path: Path) -> pa.Table:
    """One row per actor and rule that said something of it, in order of time; empty where no store is.

    What the rules said holds until a person calls the incident, or the actor's part in it, a false positive: then the
    actor is human in that time.

    Args:
        path: the incident store's file.

    Returns:
        A table of VERDICT_SCHEMA; `incident_id` names the incident that people see.

    Raises:
        StateError: the file is no incident store, or of another version.
    """
    columns: list[list[object]] = [[] for _ in VERDICT_SCHEMA]
    with reading(path) as connection:
        rows = (
            () if connection is None else connection.execute(_VERDICTS, {"wrong": Handling.FALSE_POSITIVE}).fetchall()
        )
    for kind, actor, verdict, from_ms_, until_ms, why, rule, incident_id in rows:
        values = (kind, actor, verdict, from_ms(from_ms_), from_ms(until_ms + 1), why, rule, incident_id)
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, VERDICT_SCHEMA, strict=True)],
        schema=VERDICT_SCHEMA,
    )


_VERDICTS = """
SELECT e.actor_kind, e.actor,
    CASE WHEN :wrong IN (e.handling, h.handling) THEN 'human' ELSE e.verdict END,
    e.facts ->> '$.first_event_ms', e.last_event_ms, e.facts ->> '$.words[2]', e.rule, e.root
FROM incidents AS e JOIN incidents AS h
    ON h.scope = substr(e.root, 1, 16) AND h.ordinal = CAST(substr(e.root, 18) AS INTEGER)
WHERE e.verdict <> '' AND e.actor IS NOT NULL
ORDER BY 4, 1, 2, e.rule
"""
