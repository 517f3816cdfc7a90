"""Verdicts of incidents on actors, as a table for reports and blocklists."""

from datetime import timedelta
from typing import Final

import pyarrow as pa

from shopstream.incidents.explanation import title_of
from shopstream.incidents.incident import Incident
from shopstream.incidents.ports import IncidentStore

__all__ = ["VERDICT_SCHEMA", "read_verdicts", "verdict_of"]

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
    """One row per actor and rule that gave a verdict on it, in order of time; see `verdict_of`.

    Returns:
        A table of VERDICT_SCHEMA; `incident_id` names the incident that people see.
    """
    return pa.Table.from_pylist([verdict_of(episode) for episode in store.actors()], schema=VERDICT_SCHEMA)


def verdict_of(episode: Incident) -> dict[str, object]:
    """The row of VERDICT_SCHEMA for an episode with a verdict.

    The rule's verdict holds until a person calls the incident, or the actor's part in it, a false positive: then the
    actor is human in that time.
    """
    (actor,) = episode.actors
    return {
        "actor_kind": actor.kind,
        "actor": actor.value,
        "verdict": "human" if episode.false_positive else episode.verdict,
        "from_time": episode.first_event_time,
        "until_time": episode.last_event_time + timedelta(milliseconds=1),
        "why": title_of(episode),
        "rule": episode.rule,
        "incident_id": episode.parent or episode.id,
    }
