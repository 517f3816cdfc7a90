"""What incidents say of actors, for the reports that are to be without bots."""

from datetime import timedelta
from pathlib import Path

import pyarrow as pa

from shopstream.alerting.incident import State
from shopstream.alerting.reading import read_incidents

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
    """One row per actor and incident that says something of it; false alarms say nothing. Empty where no store is.

    Args:
        path: the incident store's file.

    Returns:
        A table of VERDICT_SCHEMA.

    Raises:
        StateError: the file is no incident store, or of another version.
    """
    rows = [
        {
            "actor_kind": actor.kind,
            "actor": actor.value,
            "verdict": incident.verdict,
            "from_time": incident.first_event_time,
            "until_time": incident.last_event_time + timedelta(milliseconds=1),
            "why": incident.title,
            "rule": incident.rule,
            "incident_id": incident.id,
        }
        for incident in read_incidents(path)
        if incident.verdict is not None and incident.state is not State.FALSE_POSITIVE
        for actor in incident.actors
    ]
    return pa.Table.from_pylist(rows, schema=VERDICT_SCHEMA)
