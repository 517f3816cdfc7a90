"""Verdicts of incidents on actors, as a table for reports and blocklists."""

from typing import Final

import pyarrow as pa

from shopstream.incidents.explanation import verdict_of
from shopstream.incidents.ports import IncidentStore

_TIME: Final = pa.timestamp("us", "UTC")

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


def read_verdicts(store: IncidentStore) -> pa.Table:
    """One row per actor and rule that gave a verdict on it, in order of time; see `explanation.verdict_of`.

    Returns:
        A table of VERDICT_SCHEMA; `incident_id` names the incident that people see.
    """
    return pa.Table.from_pylist([verdict_of(episode) for episode in store.actors()], schema=VERDICT_SCHEMA)
