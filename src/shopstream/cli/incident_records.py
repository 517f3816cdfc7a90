"""Incidents as rows for programs."""

from collections.abc import Iterable, Mapping

from shopstream.alerting.grounds import genuine_share
from shopstream.alerting.incident import Incident

__all__ = ["flat", "part_record", "record"]


def record(incident: Incident) -> dict[str, object]:
    """Every field."""
    return {
        "id": incident.id,
        "rule": incident.rule,
        "rules": list(incident.rules),
        "title": incident.title,
        "nature": str(incident.nature),
        "key_kind": incident.key_kind,
        "keys": dict(incident.keys),
        "severity": str(incident.severity),
        "confidence": incident.confidence,
        "first_event_time": incident.first_event_time,
        "last_event_time": incident.last_event_time,
        "detected_at_event_time": incident.detected_at_event_time,
        "state": str(incident.state),
        "ongoing": incident.ongoing,
        "handling": str(incident.handling),
        "handled_at": incident.handled_at,
        "comment": incident.comment,
        "episodes": incident.episodes,
        "campaign": incident.campaign,
        "actors": [{"kind": kind, "value": value} for kind, value in incident.actors],
        "verdict": incident.verdict,
        "notifications": incident.notifications,
        "windows": incident.windows,
        "peak_start": incident.peak_start,
        "peak_end": incident.peak_end,
        "peak": dict(incident.peak),
        "threshold": incident.threshold,
        "genuine_share": genuine_share(incident),
        "contributions": dict(incident.contributions),
        "detail": dict(incident.evidence),
        "context": None if incident.context is None else dict(incident.context),
        "tags": list(incident.tags),
        "rule_version": incident.rule_version,
        "parent": incident.parent,
        "role": str(incident.role),
        "evidence": incident.evidence_command,
    }


def part_record(part: Incident) -> dict[str, object]:
    """What an incident's own record says of one of its parts."""
    return {
        "id": part.id,
        "role": str(part.role),
        "rule": part.rule,
        "keys": dict(part.keys),
        "severity": str(part.severity),
        "detected_at_event_time": part.detected_at_event_time,
        "last_event_time": part.last_event_time,
        "windows": part.windows,
        "peak": dict(part.peak),
    }


def flat(values: Mapping[str, object]) -> dict[str, object]:
    """A CSV cell holds text or a number: `user_id=7`, `a b`; of what is nested deeper there is a count."""
    return {name: _cell(value) for name, value in values.items()}


def _cell(value: object) -> object:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={part}" for key, part in value.items())
    if isinstance(value, list):
        return len(value) if any(isinstance(part, Mapping) for part in value) else " ".join(map(str, value))
    return value if not isinstance(value, Iterable) or isinstance(value, str) else str(value)
