"""What runs give, JSON-ready, so that a report can be made again from files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shopstream.evaluation.ground_truth import Found

__all__ = ["AttackResult", "Brief", "GenuineResult", "Picture", "brief_of"]


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
