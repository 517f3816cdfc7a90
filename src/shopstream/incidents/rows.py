"""Incidents as rows: between the episode algebra, the table, and what a person looks at.

What SQL selects by has a column; the rest is one JSON text, which is written and read several times faster than twenty
columns when thousands of incidents change at once.
"""

import json
import sqlite3
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from shopstream.clock import from_ms
from shopstream.errors import StateError
from shopstream.incidents.episode import NATURES, SEVERITIES, UNSTATED_CONFIDENCE, Episode, Peak, Words
from shopstream.incidents.grouping import Member, Place, actor_of
from shopstream.incidents.incident import Handling, Incident, Role, incident_id

__all__ = ["UPSERT", "Stored", "incident_of", "member_of", "stored_of", "values_of"]

_ROLES = {str(role): role for role in Role}
_HANDLINGS = {str(handling): handling for handling in Handling}
_ENGINE_COLUMNS = (
    *("rule", "severity", "end_ms", "last_event_ms", "closes_ms", "closed", "facts"),
    *("root", "role", "chain", "actor_kind", "actor", "verdict"),
)

UPSERT = (
    f"INSERT INTO incidents (scope, ordinal, {', '.join(_ENGINE_COLUMNS)}) "
    f"VALUES (?, ?, {', '.join('?' * len(_ENGINE_COLUMNS))}) "
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
    place: Place | None = None
    context: str | None = None

    @property
    def id(self) -> str:
        """The incident's id."""
        return incident_id(self.scope, self.ordinal)


def values_of(stored: Stored, place: Place) -> tuple[object, ...]:
    """The parameters of UPSERT, for the place that the episode has now."""
    episode = stored.episode
    actor = actor_of(key_of(stored))
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
        "nature": episode.nature,
        "confidence": episode.confidence,
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
        place.root,
        place.role,
        place.chain,
        actor.kind if actor else None,
        actor.value if actor else None,
        episode.verdict,
    )


def key_of(stored: Stored) -> tuple[tuple[str, str], ...]:
    """Column and value, in order of column."""
    return tuple(stored.keys.items()) if len(stored.keys) <= 1 else tuple(sorted(stored.keys.items()))


def member_of(stored: Stored) -> Member:
    """What grouping needs to know."""
    episode = stored.episode
    key = key_of(stored)
    return Member(
        id=stored.id,
        rule=stored.rule,
        key=key,
        actor=actor_of(key),
        nature=episode.nature,
        labels=labels_of(episode.words.tags),
        detected_ms=detected_ms(episode),
        end_ms=episode.end_ms,
        quiet_ms=episode.suppress_ms,
    )


def detected_ms(episode: Episode) -> int:
    """End of the first window that met the rule; of open ones as long as none is final."""
    found = episode.detected_ms if episode.detected_ms is not None else episode.detected_early_ms
    return episode.end_ms if found is None else found


@lru_cache(maxsize=1_024)
def labels_of(tags: tuple[str, ...]) -> tuple[str, ...]:
    """The OWASP automated threats among a rule's tags."""
    return tuple(tag for tag in tags if tag.startswith("owasp.oat"))


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
            nature=facts.get("nature", 0),
            verdict=row["verdict"],
            confidence=facts.get("confidence", UNSTATED_CONFIDENCE),
        ),
        closed=row["closed"] == 1,
        handling=_HANDLINGS[row["handling"]],
        handled_ms=row["handled_ms"],
        comment=row["comment"],
        place=Place(row["root"], _ROLES[row["role"]], row["chain"], campaign=False),
        context=row["context"],
    )


def incident_of(stored: Stored) -> Incident:
    """One episode as an incident of its own; final facts before provisional ones.

    Raises:
        StateError: the row holds no detection, so something else has written it.
    """
    episode = stored.episode
    peak = episode.peak or episode.peak_early
    actor = actor_of(key_of(stored))
    if peak is None:
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
        detected_at_event_time=from_ms(detected_ms(episode)),
        windows=episode.windows,
        peak_start=from_ms(peak.start_ms),
        peak_end=from_ms(peak.end_ms),
        peak=peak.measures,
        threshold=episode.words.threshold,
        nature=NATURES[episode.nature],
        role=stored.place.role if stored.place else Role.HEAD,
        parent=stored.place.root if stored.place and stored.place.root != stored.id else None,
        rules=(stored.rule,),
        actors=(actor,) if actor else (),
        verdict=episode.verdict or None,
        confidence=episode.confidence,
        contributions={stored.rule: episode.confidence},
        evidence=peak.evidence,
        context=json.loads(stored.context) if stored.context else None,
    )


def _peak_of(parts: list[Any] | None) -> Peak | None:
    if parts is None:
        return None
    start_ms, end_ms, measures, *evidence = parts
    return Peak(start_ms, end_ms, measures, evidence[0] if evidence else {})
