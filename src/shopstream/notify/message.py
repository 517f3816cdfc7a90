"""The words of a notification: one incident in detail, or many in a digest."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shopstream.detection.detection import Severity
from shopstream.detection.duration import describe_length
from shopstream.incidents.episode import SEVERITIES
from shopstream.incidents.incident import Incident

__all__ = ["Message", "Notice", "digest", "notice_of"]

_NAMED = 5
"""A digest names so many incidents; the rest is counted, and `shopstream incidents list` has them."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One notification that waits, with what it is about.

    Args:
        reference: the same whenever this notification is sent again.
        kind: opened, raised or closed.
        severity: when it was queued.
    """

    reference: str
    kind: str
    severity: Severity
    incident: Incident


@dataclass(frozen=True, slots=True)
class Message:
    """What goes out.

    Args:
        reference: the same whenever this message is sent again.
        incidents: what programs are told, JSON-ready, the gravest first; those that one notification is about.
    """

    title: str
    body: str
    severity: Severity
    reference: str = ""
    incidents: tuple[Mapping[str, object], ...] = ()


def notice_of(notice: Notice, *, keys: bool) -> Message:
    """One incident.

    Args:
        notice: what to tell.
        keys: whether the actor is named; user ids and addresses are personal data.
    """
    incident = notice.incident
    going = "goes on" if incident.ongoing else "over"
    kind = "" if notice.kind == "opened" else f"{notice.kind}: "
    more = f" and {len(incident.rules) - 1} more" if len(incident.rules) > 1 else ""
    lines = [
        f"Rule {incident.rule}{more}, {_scope(incident, keys=keys)}: {incident.threshold}",
        f"Strongest in {describe_length(incident.peak_end - incident.peak_start)}: {_measures(incident)}",
        f"First event {_moment(incident.first_event_time)}, last {_moment(incident.last_event_time)}, {going}",
        f"Confidence {incident.confidence:.0%}, {incident.nature}; {incident.episodes - 1:,} more under it",
        f"Evidence: shopstream incidents show {incident.id}",
        f"Reference: {notice.reference}",
    ]
    title = f"[{incident.severity}] {kind}{incident.title}"
    facts = (_facts(notice, keys=keys),)
    return Message(title, "\n".join(lines), incident.severity, notice.reference, facts)


def digest(notices: Sequence[Notice], *, keys: bool) -> Message:
    """Many incidents in one message: counts per rule, and the gravest by name.

    Args:
        notices: what to tell, at least one.
        keys: whether actors are named.
    """
    ordered = sorted(notices, key=lambda notice: -SEVERITIES.index(notice.severity))  # stable: then oldest first
    worst = ordered[0].severity
    per_rule = Counter((notice.incident.rule, notice.kind) for notice in ordered)
    lines = [f"{count:,} {kind} by rule {rule}" for (rule, kind), count in per_rule.most_common()]
    lines += [
        f"[{notice.severity}] {notice.incident.title}; {_scope(notice.incident, keys=keys)}; "
        f"{_measures(notice.incident)}; {notice.incident.id}"
        for notice in ordered[:_NAMED]
    ]
    if len(ordered) > _NAMED:
        lines.append(f"… and {len(ordered) - _NAMED:,} more: shopstream incidents list")
    references = "\n".join(sorted(notice.reference for notice in ordered))
    reference = f"digest:{hashlib.sha256(references.encode()).hexdigest()[:16]}"
    lines.append(f"Reference: {reference}")
    facts = tuple(_facts(notice, keys=keys) for notice in ordered)
    return Message(f"[{worst}] {len(ordered):,} incidents", "\n".join(lines), worst, reference, facts)


def _facts(notice: Notice, *, keys: bool) -> dict[str, object]:
    incident = notice.incident
    return {
        "incident": incident.id,
        "kind": notice.kind,
        "severity": str(incident.severity),
        "rule": incident.rule,
        "rules": list(incident.rules),
        "nature": str(incident.nature),
        "title": incident.title,
        "state": str(incident.state),
        "campaign": incident.campaign,
        "episodes": incident.episodes,
        "actors": len(incident.actors),
        "key_kind": incident.key_kind,
        **({"keys": dict(incident.keys)} if keys else {}),
        "threshold": incident.threshold,
        "peak": dict(incident.peak),
        "peak_start": incident.peak_start.isoformat(),
        "peak_end": incident.peak_end.isoformat(),
        "first_event_time": incident.first_event_time.isoformat(),
        "last_event_time": incident.last_event_time.isoformat(),
        "confidence": incident.confidence,
        "reference": notice.reference,
    }


def _scope(incident: Incident, *, keys: bool) -> str:
    if incident.campaign:
        return f"campaign of {len(incident.actors):,} actors"
    if not incident.keys:
        return "whole site"
    return ", ".join(f"{name} {value}" for name, value in incident.keys.items()) if keys else f"one {incident.key_kind}"


def _measures(incident: Incident) -> str:
    return ", ".join(f"{name} {value}" for name, value in incident.peak.items())


def _moment(moment: object) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
