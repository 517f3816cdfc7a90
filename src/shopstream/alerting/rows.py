"""Incidents as rows: between the episode algebra, the table, and what a person looks at."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from shopstream.alerting.episode import SEVERITIES, Episode, Peak, Words
from shopstream.alerting.incident import Handling, Incident, incident_id
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


def values_of(stored: Stored) -> dict[str, object]:
    """The parameters of UPSERT."""
    episode = stored.episode
    return {
        "id": stored.id,
        "scope": stored.scope,
        "ordinal": stored.ordinal,
        "rule": stored.rule,
        "key_kind": stored.key_kind,
        "keys": json.dumps(dict(stored.keys)),
        "rule_version": episode.words.rule_version,
        "title": episode.words.title,
        "tags": json.dumps(episode.words.tags),
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
        "pending": json.dumps([[start, *window] for start, window in sorted(episode.pending.items())]),
        "settled_ms": episode.settled_ms,
        "settled": episode.settled,
        "closes_ms": episode.closes_ms,
        "closed": stored.closed,
    }


def stored_of(row: Mapping[str, object]) -> Stored:
    """Read a row of `incidents` back."""
    get: dict[str, object] = {name: row[name] for name in row.keys()}  # noqa: SIM118  sqlite3.Row iterates over values
    return _stored(get)


def _stored(row: Mapping[str, object]) -> Stored:
    def number(name: str) -> int:
        return int(str(row[name]))

    def maybe(name: str) -> int | None:
        return None if row[name] is None else number(name)

    return Stored(
        scope=str(row["scope"]),
        ordinal=number("ordinal"),
        rule=str(row["rule"]),
        key_kind=str(row["key_kind"]),
        keys=json.loads(str(row["keys"])),
        episode=Episode(
            start_ms=number("start_ms"),
            end_ms=number("end_ms"),
            window_ms=number("window_ms"),
            suppress_ms=number("suppress_ms"),
            first_event_ms=number("first_event_ms"),
            last_event_ms=number("last_event_ms"),
            severity=number("severity"),
            words=Words(
                end_ms=number("words_ms"),
                rule_version=str(row["rule_version"]),
                title=str(row["title"]),
                tags=tuple(json.loads(str(row["tags"]))),
                threshold=str(row["threshold"]),
            ),
            detected_ms=maybe("detected_ms"),
            detected_early_ms=maybe("detected_early_ms"),
            peak=_peak_of(row["peak"]),
            peak_early=_peak_of(row["peak_early"]),
            pending={start: (end, final) for start, end, final in json.loads(str(row["pending"]))},
            settled_ms=number("settled_ms"),
            settled=number("settled"),
        ),
        closed=bool(row["closed"]),
        handling=Handling(str(row["handling"])),
        handled_ms=maybe("handled_ms"),
        comment=str(row["comment"]),
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


def _peak_text(peak: Peak | None) -> str | None:
    return None if peak is None else json.dumps([peak.start_ms, peak.end_ms, peak.measures])


def _peak_of(text: object) -> Peak | None:
    return None if text is None else Peak(*json.loads(str(text)))
