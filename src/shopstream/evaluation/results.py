"""What is true of a run, which incidents it found, and the results that reports are made from (JSON-ready)."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from shopstream.clock import SystemClock, to_ms
from shopstream.detection.detection import Nature
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.incidents.incident import Incident
from shopstream.incidents.settings import IncidentSettings

ACTOR_COLUMNS = frozenset({"user_id", "user_session", "ip", "ip_net", "agent_hash", "user_agent"})
"""An incident whose key has one of these columns is about actors; others are about the site or a part of it."""


@dataclass(frozen=True, slots=True)
class Truth:
    """One attack (or control) in a run.

    Args:
        scenario: id of the scenario.
        from_ms, until_ms: event time, [from, until).
        nature: attacks and faults must be detected; a surge must be called neither.
        first_ms: time of its first event, or its start if it adds none.
        key: its target, column → value; empty for the site.
        actors: user ids that act in it only.
        parameters: values that were drawn, JSON-ready.
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
class FoundIncident:
    """An incident, reduced to what scoring and reports need.

    Args:
        top: an incident of its own; False for an episode of an incident with several.
        parent: id of the incident that an episode belongs to.
        whole: an incident with several episodes; times, severity and members cover all of them.
        detected_ms: event time of the detection.
        members: user ids of a campaign.
        group_ms: when the campaign reached the least number of actors.
        notifications: number of notifications.
        note: title and peak of the incident.
        evidence: evidence of the incident.
        resident: about a robot of the genuine traffic.
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
    resident: bool = False

    @property
    def about_actors(self) -> bool:
        """Whether it names actors, not the site or a part of it."""
        return bool(self.members) or not ACTOR_COLUMNS.isdisjoint(self.key)

    def same_as(self, other: "FoundIncident") -> bool:
        """Whether rule and key are the same, and the times overlap."""
        return (
            self.rule == other.rule
            and dict(self.key) == dict(other.key)
            and self.first_ms <= other.last_ms
            and other.first_ms <= self.last_ms
        )


def read_found(path: Path) -> list[FoundIncident]:
    """All incidents of a store, and the episodes of those with several, by time of detection."""
    found: list[FoundIncident] = []
    enough = IncidentSettings().campaign_actors
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


def _found(incident: Incident, *, whole: bool = False) -> FoundIncident:
    return FoundIncident(
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
class Timeline:
    """Event rate over time around a missed attack or a false incident.

    Args:
        title: title of the chart.
        bin_ms: width of the bins.
        times_ms, events, hostile: per bin: its start, events, and events of the attack.
        expected: events per bin by the baseline, or empty.
        attack: [from, until), ms; None without attack.
        marks: (ms, text) of detections.
        windows: [from, until] of the incidents, ms.
        note: explanation.
        missed: a missed attack; False for a false incident.
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
class BaselineResult:
    """The test days of a shop without attacks.

    Args:
        days, events: length and events of the test.
        incidents: listed incidents, also about resident robots.
        forecast_error: series → relative error of the baseline on the test days (see `forecast_errors`).
        stated_error: series → the error that the baseline states.
        timelines: of false incidents.
        seconds: CPU time.
    """

    seed: int
    days: float
    events: int
    incidents: Sequence[FoundIncident]
    forecast_error: Mapping[str, float]
    stated_error: Mapping[str, float]
    timelines: Sequence[Timeline]
    seconds: float


@dataclass(frozen=True, slots=True)
class AttackResult:
    """One attack or control.

    Args:
        place: number of the attack among those of the scenario in this shop.
        rate: genuine events per second during the attack.
        events, hostile: events during the attack, and those of the attack among them.
        found_after_s: seconds from its first event to the detection; None if it was missed.
        progress: share of its duration that had passed then.
        actors: per actor (seconds, events) until the detection, None if it was missed; empty if recall counts attacks.
        true, false, surges: incidents by role.
        timelines: of a miss, and of false incidents.
        nearest: what detection saw of a missed attack.
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
    true: Sequence[FoundIncident]
    false: Sequence[FoundIncident]
    surges: Sequence[FoundIncident]
    timelines: Sequence[Timeline]
    nearest: str
    seconds: float
