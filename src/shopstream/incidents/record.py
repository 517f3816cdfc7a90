"""What the tracker remembers and a store keeps of an incident, and the incident that people see.

One JSON document holds an episode: the tracker's snapshot and the stores' rows have the same. A head's row holds the
summary over all its episodes beside it.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from shopstream.clock import from_ms
from shopstream.detection.detection import SEVERITIES
from shopstream.errors import StateError
from shopstream.incidents.episode import NATURES, Episode, Peak, RuleSnapshot
from shopstream.incidents.grouping import Member, Place, actor_of
from shopstream.incidents.incident import Actor, Incident, Role, TriageStatus, incident_id


class EpisodeRecord(NamedTuple):
    """An episode with its name and its place.

    Args:
        place: None until it is grouped.
        notified_severity: 1 + the rank of the severity that people were notified of; 0 before that.
        notifications: how often people were notified.
    """

    scope: str
    ordinal: int
    rule: str
    key_kind: str
    keys: Mapping[str, str]
    episode: Episode
    closed: bool = False
    place: Place | None = None
    notified_severity: int = 0
    notifications: int = 0

    @property
    def id(self) -> str:
        """The incident's id."""
        return incident_id(self.scope, self.ordinal)

    @property
    def root(self) -> str:
        """The id of the incident that people see it in."""
        return self.place.root if self.place else self.id

    @property
    def actor(self) -> Actor | None:
        """Who acts, if the key names somebody."""
        return actor_of(key_of(self))


class IncidentSummary(NamedTuple):
    """One incident as people see it: sums over its episodes.

    Args:
        id: of its head.
        severity: rank; nature: place in `episode.NATURES`.
        detected_ms: when the first of its episodes was detected.
        site: it is about the whole site.
        notified_severity, notifications: see `EpisodeRecord`.
    """

    id: str
    chain: str
    severity: int
    nature: int
    first_event_ms: int
    last_event_ms: int
    detected_ms: int
    closed: bool
    campaign: bool
    site: bool
    episodes: int
    windows: int
    rules: tuple[str, ...]
    contributions: Mapping[str, float]
    tags: tuple[str, ...]
    notified_severity: int
    notifications: int


class IncidentRow(NamedTuple):
    """What a store writes of an episode; `summary` for the head of an incident."""

    record: EpisodeRecord
    summary: IncidentSummary | None = None


class Triage(NamedTuple):
    """What people did about an incident; only the store has it."""

    status: TriageStatus = TriageStatus.NONE
    status_ms: int | None = None
    owner: str = ""
    comment: str = ""


_UNTOUCHED = Triage()


def key_of(record: EpisodeRecord) -> tuple[tuple[str, str], ...]:
    """Column and value, in order of column."""
    return tuple(record.keys.items()) if len(record.keys) <= 1 else tuple(sorted(record.keys.items()))


def member_of(record: EpisodeRecord) -> Member:
    """What grouping needs to know."""
    episode = record.episode
    key = key_of(record)
    return Member(
        id=record.id,
        rule=record.rule,
        key=key,
        actor=actor_of(key),
        nature=episode.nature,
        labels=_labels_of(episode.rule.tags),
        detected_ms=episode.first_detected_ms,
        end_ms=episode.end_ms,
        quiet_ms=episode.suppress_ms,
    )


@lru_cache(maxsize=1_024)
def _labels_of(tags: tuple[str, ...]) -> tuple[str, ...]:
    """The OWASP automated threats among a rule's tags."""
    return tuple(tag for tag in tags if tag.startswith("owasp.oat"))


def document_of(record: EpisodeRecord) -> dict[str, object]:
    """A record, JSON-ready."""
    episode = record.episode._asdict()
    episode["pending"] = [(start, *window) for start, window in record.episode.pending.items()]
    return record._asdict() | {"episode": episode}


def record_of(document: Mapping[str, Any]) -> EpisodeRecord:
    """Read a document back."""
    found = dict(document["episode"])
    rule, peak, early = found["rule"], found["peak"], found["peak_early"]
    episode = Episode(
        **found
        | {
            "rule": RuleSnapshot(rule[0], rule[1], rule[2], tuple(rule[3]), rule[4]),
            "peak": Peak(*peak) if peak else None,
            "peak_early": Peak(*early) if early else None,
            "pending": {start: (end, final) for start, end, final in found["pending"]},
        }
    )
    place = document["place"]
    return EpisodeRecord(
        **dict(document)
        | {"episode": episode, "place": Place(place[0], Role(place[1]), place[2], place[3]) if place else None}
    )


def summary_of(document: Mapping[str, Any]) -> IncidentSummary:
    """Read a summary back that was written with `_asdict`."""
    found = IncidentSummary(**document)
    return found._replace(rules=tuple(found.rules), tags=tuple(found.tags))


def incident_of(
    row: IncidentRow,
    triage: Triage = _UNTOUCHED,
    *,
    actors: Sequence[Actor] = (),
    context: Mapping[str, object] | None = None,
    parent_status: TriageStatus = TriageStatus.NONE,
) -> Incident:
    """The incident that people see: a head with its summary, else one episode as an incident of its own.

    Args:
        row: as it is stored; final facts come before provisional ones.
        triage: what people did.
        actors: of all its episodes, for a row with a summary.
        context: what the recent events said.
        parent_status: what people did about the incident that it is part of.

    Raises:
        StateError: the row holds no detection, so something else has written it.
    """
    record, whole = row
    episode = record.episode
    peak = episode.peak or episode.peak_early
    if peak is None:
        raise StateError(f"incident {record.id} has no detection; something else has written it, remove the incident")
    own = (record.actor,) if record.actor else ()
    contributions = whole.contributions if whole else {record.rule: episode.confidence}
    return Incident(
        id=record.id,
        rule=record.rule,
        rule_version=episode.rule.version,
        title=episode.rule.title,
        severity=SEVERITIES[whole.severity if whole else episode.severity],
        tags=whole.tags if whole else episode.rule.tags,
        key_kind=record.key_kind,
        keys=record.keys,
        ongoing=not (whole.closed if whole else record.closed),
        status=triage.status,
        status_at=None if triage.status_ms is None else from_ms(triage.status_ms),
        owner=triage.owner,
        comment=triage.comment,
        first_event_time=from_ms(whole.first_event_ms if whole else episode.first_event_ms),
        last_event_time=from_ms(whole.last_event_ms if whole else episode.last_event_ms),
        detected_at_event_time=from_ms(whole.detected_ms if whole else episode.first_detected_ms),
        windows=whole.windows if whole else episode.windows,
        peak_start=from_ms(peak.start_ms),
        peak_end=from_ms(peak.end_ms),
        peak=peak.measures,
        threshold=episode.rule.threshold,
        nature=NATURES[whole.nature if whole else episode.nature],
        role=record.place.role if record.place else Role.HEAD,
        parent=record.root if record.root != record.id else None,
        parent_status=parent_status,
        rules=whole.rules if whole else (record.rule,),
        episodes=whole.episodes if whole else 1,
        actors=tuple(actors) if whole and whole.episodes > 1 else own,
        campaign=whole.campaign if whole else False,
        verdict=episode.verdict or None,
        confidence=_combined(contributions) if whole else episode.confidence,
        contributions=contributions,
        evidence=peak.evidence,
        context=context,
        notifications=whole.notifications if whole else record.notifications,
    )


def _combined(contributions: Mapping[str, float]) -> float:
    """Confidence of independent rules together, any of which may be wrong: 1 less the product of doubts, never 1."""
    doubt = 1.0
    for confidence in contributions.values():
        doubt *= 1.0 - confidence
    return round(min(1.0 - doubt, 0.999), 3)
