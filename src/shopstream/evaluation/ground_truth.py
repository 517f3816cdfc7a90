"""What is true of a run: the attack that was laid over it, and what the product found in it."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from shopstream.clock import SystemClock, to_ms
from shopstream.detection.detection import Nature
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.incidents.incident import Incident
from shopstream.incidents.settings import AlertingSettings

__all__ = ["ACTOR_COLUMNS", "Found", "Truth", "read_found"]

ACTOR_COLUMNS = frozenset({"user_id", "user_session", "ip", "ip_net", "agent_hash", "user_agent"})
"""An incident whose key has one of these is about somebody; else about the site or a part of it."""


@dataclass(frozen=True, slots=True)
class Truth:
    """One attack (or control) in a run.

    Args:
        scenario: its id in the catalogue.
        from_ms, until_ms: event time, [from, until).
        first_ms: its first event, or its start where it adds none.
        nature: attack or fault, to be found; surge, to be called neither.
        key: part of the shop that is hit, column → value; empty for the site.
        actors: user ids that act in it and nowhere else.
        parameters: as drawn, JSON-ready.
    """

    scenario: str
    from_ms: int
    until_ms: int
    nature: Nature
    first_ms: int
    key: Mapping[str, str] = field(default_factory=dict)
    actors: frozenset[int] = frozenset()
    parameters: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """An incident, reduced to what scoring needs.

    Args:
        top: what people see in the list; else a part of such an incident.
        parent: id of the incident that it is a part of.
        whole: it holds several parts, which are given, too; times, severity and members are of all of them.
        detected_ms: event time by which anybody could have known.
        members: user ids of a campaign.
        group_ms: when a campaign had enough actors to be one.
        notifications: sent about it.
        note: what the product said.
        evidence: as the incident carries it.
    """

    id: str
    rule: str
    severity: str
    nature: str
    key: Mapping[str, str]
    first_ms: int
    last_ms: int
    detected_ms: int
    top: bool = True
    parent: str | None = None
    whole: bool = False
    members: frozenset[int] = frozenset()
    group_ms: int | None = None
    notifications: int = 0
    note: str = ""
    evidence: Mapping[str, object] = field(default_factory=dict)

    @property
    def about_actors(self) -> bool:
        """Somebody is named, not the site or a part of it."""
        return bool(self.members) or not ACTOR_COLUMNS.isdisjoint(self.key)

    def same_as(self, other: "Found") -> bool:
        """The same rule and key, at overlapping times."""
        return (
            self.rule == other.rule
            and dict(self.key) == dict(other.key)
            and self.first_ms <= other.last_ms
            and other.first_ms <= self.last_ms
        )


def read_found(path: Path) -> list[Found]:
    """All incidents of a store, and the parts of those that have several, oldest detection first."""
    found: list[Found] = []
    enough = AlertingSettings().campaign_actors
    with closing(EmbeddedIncidentStore(path, SystemClock())) as store:
        incidents = [(incident, store.parts(incident.id)) for incident in store.list()]
    for incident, episodes in incidents:
        if incident.episodes == 1:
            found.append(_found(incident))
            continue
        parts = [replace(_found(part), top=False, parent=incident.id) for part in episodes]
        found += parts
        whole = _found(incident, whole=True)
        if incident.campaign:
            moments = sorted(part.detected_ms for part in parts)
            members = frozenset(int(actor.value) for actor in incident.actors if actor.kind == "user_id")
            whole = replace(whole, members=members, group_ms=moments[min(enough, len(moments)) - 1])
        found.append(whole)
    return sorted(found, key=lambda one: (one.detected_ms, one.id, one.top))


def _found(incident: Incident, *, whole: bool = False) -> Found:
    return Found(
        id=incident.id,
        rule=incident.rule,
        severity=str(incident.severity),
        nature=str(incident.nature),
        key=dict(incident.keys),
        first_ms=to_ms(incident.first_event_time),
        last_ms=to_ms(incident.last_event_time),
        detected_ms=to_ms(incident.detected_at_event_time),
        whole=whole,
        notifications=incident.notifications,
        note=f"{incident.title} ({', '.join(f'{name} {value}' for name, value in incident.peak.items())})",
        evidence=dict(incident.evidence),
    )
