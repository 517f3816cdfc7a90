"""Writes notifications: one incident in detail, or many in a digest."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shopstream.detection.detection import SEVERITIES, Severity
from shopstream.detection.wording import describe_length
from shopstream.incidents.explanation import (
    describe_time,
    figures_of,
    lines_of,
    title_of,
    who_of,
)
from shopstream.incidents.incident import Incident

_NAMED = 5
"""A digest names this many incidents and counts the rest."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A queued notification.

    Args:
        reference: stays the same when this notification is sent again.
        kind: opened, raised or closed.
        severity: of the incident when the notification was queued.
    """

    reference: str
    kind: str
    severity: Severity
    incident: Incident


@dataclass(frozen=True, slots=True)
class Message:
    """A message to send.

    Args:
        reference: stays the same when this message is sent again.
        incidents: JSON-ready facts for programs, most severe first.
    """

    title: str
    body: str
    severity: Severity
    reference: str = ""
    incidents: tuple[Mapping[str, object], ...] = ()


def notice_of(notice: Notice, *, keys: bool) -> Message:
    """The message about one incident.

    Args:
        notice: the notification.
        keys: whether to name the actor; user ids and addresses are personal data.
    """
    incident = notice.incident
    ongoing = "ongoing" if incident.ongoing else f"over after {describe_length(incident.duration)}"
    change = "" if notice.kind == "opened" else f"{notice.kind}: "
    other_rules = f" and {len(incident.rules) - 1} more" if len(incident.rules) > 1 else ""
    others = incident.episodes - 1
    related = f", {others:,} related episode{'' if others == 1 else 's'}" if others else ""
    lines = [
        f"Who: {who_of(incident, keys=keys)}",
        f"Peak: {figures_of(incident)}",
        f"First event: {describe_time(incident.first_event_time)}",
        f"Last event: {describe_time(incident.last_event_time)}, {ongoing}",
        f"Rule {incident.rule}{other_rules}: {incident.threshold}",
        f"Confidence {incident.confidence:.0%}, {incident.nature}{related}",
        f"Details: shopstream incidents show {incident.id}",
        f"Reference: {notice.reference}",
    ]
    if difference := lines_of(incident).get("difference"):
        lines.insert(0, difference)
    title = f"[{incident.severity}] {change}{title_of(incident)}"
    facts = (_facts(notice, keys=keys),)
    return Message(title, "\n".join(lines), incident.severity, notice.reference, facts)


def digest(notices: Sequence[Notice], *, keys: bool) -> Message:
    """One message about many incidents: counts per rule, and details of the most severe.

    Args:
        notices: the notifications, at least one.
        keys: whether to name the actors.
    """
    ordered = sorted(notices, key=lambda notice: -SEVERITIES.index(notice.severity))  # stable: then oldest first
    worst = ordered[0].severity
    per_rule = Counter((notice.incident.rule, notice.kind) for notice in ordered)
    lines = [f"{count:,} {kind} by rule {rule}" for (rule, kind), count in per_rule.most_common()]
    lines += [
        f"[{notice.severity}] {title_of(notice.incident)}; {who_of(notice.incident, keys=keys)}; "
        f"{figures_of(notice.incident)}; {notice.incident.id}"
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
        "title": title_of(incident),
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
