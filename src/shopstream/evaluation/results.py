"""What runs give, JSON-ready, so that a report can be made again from files.

What is true of a run: the attack that was laid over it, and what the product found in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from shopstream.clock import to_ms
from shopstream.detection.detection import Nature
from shopstream.incidents.incident import Incident
from shopstream.incidents.queries import read_episodes, read_incidents
from shopstream.incidents.settings import AlertingSettings

__all__ = [
    "ACTOR_COLUMNS",
    "AttackResult",
    "Brief",
    "Found",
    "GenuineResult",
    "Picture",
    "Truth",
    "brief_of",
    "read_found",
]


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
    for incident in read_incidents(path):
        if incident.episodes == 1:
            found.append(_found(incident))
            continue
        parts = [replace(_found(part), top=False, parent=incident.id) for part in read_episodes(path, incident.id)]
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


@dataclass(frozen=True, slots=True)
class Brief:
    """An incident in a report.

    Args:
        about_actors: somebody is named, not the site or a part of it.
        resident: about one of the robots that live in the genuine traffic.
        evidence: what the product gave with it.
    """

    id: str
    rule: str
    severity: str
    nature: str
    key: Mapping[str, str]
    first_ms: int
    last_ms: int
    detected_ms: int
    about_actors: bool
    notifications: int
    note: str
    resident: bool = False
    evidence: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Picture:
    """A rate over time, with what was true and what was said.

    Args:
        title: what is drawn.
        bin_ms: width of the bins.
        times_ms, events, hostile: per bin: its start, events, those of the attack among them.
        expected: per bin, or empty; from the baseline, in events a bin.
        attack: [from, until), ms; None for a genuine day.
        marks: (ms, words) of detections.
        windows: [from, until] of the incidents, ms.
        note: what came nearest, or what was said.
        missed: an attack that was not found; else something that was told falsely.
    """

    title: str
    bin_ms: int
    times_ms: Sequence[int]
    events: Sequence[int]
    hostile: Sequence[int]
    expected: Sequence[float]
    attack: tuple[int, int] | None
    marks: Sequence[tuple[int, str]]
    windows: Sequence[tuple[int, int]] = ()
    note: str = ""
    missed: bool = False


@dataclass(frozen=True, slots=True)
class GenuineResult:
    """A shop's test days without any attack.

    Args:
        days, events: of the test.
        incidents: what people would have seen, residents' too.
        forecast_error: series → relative error of the baseline on the test days (see `forecast`).
        stated_error: series → the error that the baseline itself states.
        pictures: of false incidents.
        seconds: CPU time.
    """

    seed: int
    days: float
    events: int
    incidents: Sequence[Brief]
    forecast_error: Mapping[str, float]
    stated_error: Mapping[str, float]
    pictures: Sequence[Picture]
    seconds: float


@dataclass(frozen=True, slots=True)
class AttackResult:
    """One attack or control.

    Args:
        place: which of the scenario's attacks in this shop.
        rate: genuine events per second around its start.
        events: genuine ones and others in the run; `hostile` those of the attack.
        found_after_s: seconds from its first event to its detection; None when it was missed.
        progress: share of its time that had passed then.
        actors: per actor (seconds, events) until it was found, None where it was missed; empty where attacks count.
        true, false, surges: incidents by role.
        pictures: of a miss, of false incidents.
        nearest: what came nearest, for a miss.
    """

    scenario: str
    seed: int
    place: int
    from_ms: int
    until_ms: int
    nature: str
    key: Mapping[str, str]
    parameters: Mapping[str, object]
    rate: float
    events: int
    hostile: int
    found_after_s: float | None
    events_until: int | None
    progress: float | None
    actors: Sequence[tuple[float, int] | None]
    true: Sequence[Brief]
    false: Sequence[Brief]
    surges: Sequence[Brief]
    pictures: Sequence[Picture]
    nearest: str
    seconds: float


def brief_of(found: Found, *, resident: bool = False) -> Brief:
    """The part of an incident that reports keep."""
    return Brief(
        id=found.id,
        rule=found.rule,
        severity=found.severity,
        nature=found.nature,
        key=dict(found.key),
        first_ms=found.first_ms,
        last_ms=found.last_ms,
        detected_ms=found.detected_ms,
        about_actors=found.about_actors,
        notifications=found.notifications,
        note=found.note,
        resident=resident,
        evidence=dict(found.evidence),
    )
