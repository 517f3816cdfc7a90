"""Incidents as rows: between the episode algebra, the table, and what a person looks at."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from shopstream.alerting.episode import SEVERITIES, Episode, Peak, Words
from shopstream.alerting.incident import Handling, Incident
from shopstream.clock import from_ms

__all__ = ["UPSERT", "Stored", "incident_of", "stored_of", "values_of"]

_FACTS = (
    "rule_version",
    "title",
    "tags",
    "threshold",
    "words_ms",
    "severity",
    "start_ms",
    "end_ms",
    "window_ms",
    "suppress_ms",
    "first_event_ms",
    "last_event_ms",
    "detected_ms",
    "detected_early_ms",
    "peak",
    "peak_early",
    "pending",
    "settled_ms",
    "settled",
    "closes_ms",
    "closed",
)
_COLUMNS = ("id", "scope", "ordinal", "rule", "key_kind", "keys", *_FACTS)

UPSERT = (
    f"INSERT INTO incidents ({', '.join(_COLUMNS)}) VALUES ({', '.join(':' + name for name in _COLUMNS)}) "
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _FACTS)}"
)
"""Writes an episode; what people did is left alone."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An episode with its name, as the store keeps it, and what a person did about it."""

    id: str
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


def values_of(stored: Stored) -> dict[str, object]:
    """The parameters of UPSERT."""
    episode = stored.episode
    return {
        "id": stored.id,
        "scope": stored.scope,
        "ordinal": stored.ordinal,
        "rule": stored.rule,
        "key_kind": stored.key_kind,
        "keys": json.dumps(stored.keys),
        "rule_version": episode.words.rule_version,
        "title": episode.words.title,
        "tags": _tags_text(episode.words.tags),
        "threshold": episode.words.threshold,
        "words_ms": episode.words.end_ms,
        "severity": episode.severity,
        "start_ms": episode.start_ms,
        "end_ms": episode.end_ms,
        "window_ms": episode.window_ms,
        "suppress_ms": episode.suppress_ms,
        "first_event_ms": episode.first_event_ms,
        "last_event_ms": episode.last_event_ms,
        "detected_ms": episode.detected_ms,
        "detected_early_ms": episode.detected_early_ms,
        "peak": _peak_text(episode.peak),
        "peak_early": _peak_text(episode.peak_early),
        "pending": json.dumps([(start, *window) for start, window in sorted(episode.pending.items())]),
        "settled_ms": episode.settled_ms,
        "settled": episode.settled,
        "closes_ms": episode.closes_ms,
        "closed": stored.closed,
    }


def stored_of(row: sqlite3.Row) -> Stored:
    """Read a row of `incidents` back."""
    return Stored(
        id=row["id"],
        scope=row["scope"],
        ordinal=row["ordinal"],
        rule=row["rule"],
        key_kind=row["key_kind"],
        keys=json.loads(row["keys"]),
        episode=Episode(
            start_ms=row["start_ms"],
            end_ms=row["end_ms"],
            window_ms=row["window_ms"],
            suppress_ms=row["suppress_ms"],
            first_event_ms=row["first_event_ms"],
            last_event_ms=row["last_event_ms"],
            severity=row["severity"],
            words=Words(
                end_ms=row["words_ms"],
                rule_version=row["rule_version"],
                title=row["title"],
                tags=_tags_of(row["tags"]),
                threshold=row["threshold"],
            ),
            detected_ms=row["detected_ms"],
            detected_early_ms=row["detected_early_ms"],
            peak=_peak_of(row["peak"]),
            peak_early=_peak_of(row["peak_early"]),
            pending={start: (end, final) for start, end, final in json.loads(row["pending"])},
            settled_ms=row["settled_ms"],
            settled=row["settled"],
        ),
        closed=bool(row["closed"]),
        handling=Handling(row["handling"]),
        handled_ms=row["handled_ms"],
        comment=row["comment"],
    )


def incident_of(stored: Stored) -> Incident:
    """What a person looks at; final facts before provisional ones."""
    episode = stored.episode
    peak = episode.peak or episode.peak_early
    detected_ms = episode.detected_ms if episode.detected_ms is not None else episode.detected_early_ms
    if peak is None or detected_ms is None:
        raise ValueError(f"incident {stored.id} has no detection; the store was changed by something else")
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
    )


@lru_cache
def _tags_text(tags: tuple[str, ...]) -> str:
    return json.dumps(tags)


@lru_cache
def _tags_of(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def _peak_text(peak: Peak | None) -> str | None:
    return None if peak is None else json.dumps([peak.start_ms, peak.end_ms, peak.measures])


def _peak_of(text: str | None) -> Peak | None:
    return None if text is None else Peak(*json.loads(text))
