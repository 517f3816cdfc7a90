"""Incidents as rows: between the episode algebra, the table, and what a person looks at.

What SQL selects by has a column; the rest is one JSON text, which is written and read several times faster than twenty
columns when thousands of incidents change at once.
"""

import json
import sqlite3
from collections.abc import Mapping
from typing import NamedTuple

from shopstream.alerting.episode import SEVERITIES, Episode, Peak, Words
from shopstream.alerting.incident import ACTOR_KINDS, Actor, Handling, Incident, incident_id
from shopstream.clock import from_ms
from shopstream.errors import StateError

__all__ = ["UPSERT", "Stored", "incident_of", "stored_of", "values_of"]

_HANDLINGS = {str(handling): handling for handling in Handling}
_ENGINE_COLUMNS = ("rule", "severity", "end_ms", "last_event_ms", "closes_ms", "closed", "facts")

UPSERT = (
    f"INSERT INTO incidents (scope, ordinal, {', '.join(_ENGINE_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
    f"ON CONFLICT (scope, ordinal) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _ENGINE_COLUMNS)}"
)
"""Writes an episode; what people did is left alone."""


class Stored(NamedTuple):
    """An episode with its name, as the store keeps it, and what a person did about it."""

    scope: str
    ordinal: int
    rule: str
    key_kind: str
    keys: Mapping[str, str]
    episode: Episode
    closed: bool = False
    handling: Handling = Handling.NONE
    handled_ms: int | None = None
    comment: str = ""

    @property
    def id(self) -> str:
        """The incident's id."""
        return incident_id(self.scope, self.ordinal)


def values_of(stored: Stored) -> tuple[object, ...]:
    """The parameters of UPSERT."""
    episode = stored.episode
    words = episode.words
    facts = {
        "key_kind": stored.key_kind,
        "keys": stored.keys,
        "words": words,
        "start_ms": episode.start_ms,
        "window_ms": episode.window_ms,
        "suppress_ms": episode.suppress_ms,
        "first_event_ms": episode.first_event_ms,
        "detected_ms": episode.detected_ms,
        "detected_early_ms": episode.detected_early_ms,
        "peak": episode.peak,
        "peak_early": episode.peak_early,
        "pending": [(start, *window) for start, window in episode.pending.items()],
        "settled_ms": episode.settled_ms,
        "settled": episode.settled,
    }
    return (
        stored.scope,
        stored.ordinal,
        stored.rule,
        episode.severity,
        episode.end_ms,
        episode.last_event_ms,
        episode.closes_ms,
        stored.closed,
        json.dumps(facts),
    )


def stored_of(row: sqlite3.Row) -> Stored:
    """Read a row of `incidents` back."""
    facts = json.loads(row["facts"])
    words = facts["words"]
    return Stored(
        scope=row["scope"],
        ordinal=row["ordinal"],
        rule=row["rule"],
        key_kind=facts["key_kind"],
        keys=facts["keys"],
        episode=Episode(
            start_ms=facts["start_ms"],
            end_ms=row["end_ms"],
            window_ms=facts["window_ms"],
            suppress_ms=facts["suppress_ms"],
            first_event_ms=facts["first_event_ms"],
            last_event_ms=row["last_event_ms"],
            severity=row["severity"],
            words=Words(words[0], words[1], words[2], tuple(words[3]), words[4]),
            detected_ms=facts["detected_ms"],
            detected_early_ms=facts["detected_early_ms"],
            peak=_peak_of(facts["peak"]),
            peak_early=_peak_of(facts["peak_early"]),
            pending={start: (end, final) for start, end, final in facts["pending"]},
            settled_ms=facts["settled_ms"],
            settled=facts["settled"],
        ),
        closed=row["closed"] == 1,
        handling=_HANDLINGS[row["handling"]],
        handled_ms=row["handled_ms"],
        comment=row["comment"],
    )


def incident_of(stored: Stored) -> Incident:
    """What a person looks at; final facts before provisional ones.

    Raises:
        StateError: the row holds no detection, so something else has written it.
    """
    episode = stored.episode
    peak = episode.peak or episode.peak_early
    detected_ms = episode.detected_ms if episode.detected_ms is not None else episode.detected_early_ms
    if peak is None or detected_ms is None:
        raise StateError(f"incident {stored.id} has no detection; something else has written it, remove the incident")
    return Incident(
        id=stored.id,
        rule=stored.rule,
        rule_version=episode.words.rule_version,
        title=episode.words.title,
        severity=SEVERITIES[episode.severity],
        tags=episode.words.tags,
        key_kind=stored.key_kind,
        keys=stored.keys,
        ongoing=not stored.closed,
        handling=stored.handling,
        handled_at=None if stored.handled_ms is None else from_ms(stored.handled_ms),
        comment=stored.comment,
        first_event_time=from_ms(episode.first_event_ms),
        last_event_time=from_ms(episode.last_event_ms),
        detected_at_event_time=from_ms(detected_ms),
        windows=episode.windows,
        peak_start=from_ms(peak.start_ms),
        peak_end=from_ms(peak.end_ms),
        peak=peak.measures,
        threshold=episode.words.threshold,
        rules=(stored.rule,),
        actors=tuple(Actor(kind, value) for kind, value in stored.keys.items() if kind in ACTOR_KINDS),
    )


def _peak_of(parts: tuple[int, int, Mapping[str, object]] | None) -> Peak | None:
    return None if parts is None else Peak(*parts)
