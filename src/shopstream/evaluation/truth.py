"""What is true of a run: the attack that was laid over it, and what the product found in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shopstream.alerting.incident import Incident
from shopstream.alerting.reading import read_incidents
from shopstream.clock import to_ms
from shopstream.detection.detection import Nature

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
        top: no other incident holds it: this is what people see in the list.
        detected_ms: event time by which anybody could have known.
        members: user ids of a group that it is about, where it says so.
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
    members: frozenset[int] = frozenset()
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
    """All incidents of a store, those inside of others too, oldest detection first."""
    found = [
        Found(
            id=incident.id,
            rule=incident.rule,
            severity=str(incident.severity),
            nature=str(incident.nature),
            key=dict(incident.keys),
            first_ms=to_ms(incident.first_event_time),
            last_ms=to_ms(incident.last_event_time),
            detected_ms=to_ms(incident.detected_at_event_time),
            top=incident.parent is None,
            members=_members(incident) if incident.campaign else frozenset(),
            notifications=incident.notifications,
            note=f"{incident.title} ({', '.join(f'{name} {value}' for name, value in incident.peak.items())})",
            evidence=dict(incident.evidence),
        )
        for incident in read_incidents(path)
    ]
    return sorted(found, key=lambda one: (one.detected_ms, one.id))


def _members(incident: Incident) -> frozenset[int]:
    return frozenset(int(actor.value) for actor in incident.actors if actor.kind == "user_id")
