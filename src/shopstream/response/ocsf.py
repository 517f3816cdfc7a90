"""Incidents for other systems: OCSF Detection Findings (class 2004), each in a CloudEvents 1.0 envelope.

Field names and codes are those of OCSF 1.6 (https://schema.ocsf.io/1.6.0/classes/detection_finding) and CloudEvents 1.0
(https://github.com/cloudevents/spec). The same state of an incident gives the same `id`.
"""

import hashlib
import json
from datetime import datetime
from importlib.metadata import version
from typing import Final

from shopstream.clock import to_ms
from shopstream.incidents.explanation import genuine_share, title_of, who_of
from shopstream.incidents.incident import Incident, State

_OCSF: Final = "1.6.0"
_CLASS: Final = 2004
_CREATE, _UPDATE, _CLOSE = 1, 2, 3
_ACTIVITIES: Final = {_CREATE: "Create", _UPDATE: "Update", _CLOSE: "Close"}
_STATUS: Final = {
    State.OPEN: (1, "New"),
    State.CLOSED: (1, "New"),
    State.ACKNOWLEDGED: (2, "In Progress"),
    State.FALSE_POSITIVE: (3, "Suppressed"),
    State.RESOLVED: (4, "Resolved"),
}
_SEVERITIES: Final = {"informational": 1, "low": 2, "medium": 3, "high": 4, "critical": 5}
_OBSERVABLES: Final = {
    "ip": (2, "IP Address"),
    "ip_net": (12, "Subnet"),
    "user_agent": (16, "HTTP User-Agent"),
    "user_id": (31, "User Unique ID"),
}
_SURE, _LIKELY = 0.9, 0.6
_ACTORS: Final = 1_000


def cloud_event(incident: Incident, source: str = "urn:shopstream") -> dict[str, object]:
    """One incident as it is now, JSON-ready.

    Args:
        incident: as people see it.
        source: names this installation, a URI reference.
    """
    finding = _finding(incident)
    digest = hashlib.sha256(json.dumps(finding, sort_keys=True).encode()).hexdigest()[:32]
    return {
        "specversion": "1.0",
        "id": f"{incident.id}:{digest}",
        "source": source,
        "type": "shopstream.incident",
        "subject": incident.id,
        "time": _moment(incident.last_event_time),
        "datacontenttype": "application/json",
        "dataschema": f"https://schema.ocsf.io/{_OCSF}/classes/detection_finding",
        "data": finding,
    }


def _finding(incident: Incident) -> dict[str, object]:
    activity = _activity(incident)
    status_id, status = _STATUS[incident.state]
    shown = incident.actors[:_ACTORS]
    confidence_id = 3 if incident.confidence >= _SURE else 2 if incident.confidence >= _LIKELY else 1
    return {
        "activity_id": activity,
        "activity_name": _ACTIVITIES[activity],
        "category_uid": 2,
        "category_name": "Findings",
        "class_uid": _CLASS,
        "class_name": "Detection Finding",
        "type_uid": _CLASS * 100 + activity,
        "type_name": f"Detection Finding: {_ACTIVITIES[activity]}",
        "time": to_ms(incident.detected_at_event_time),
        "start_time": to_ms(incident.first_event_time),
        "end_time": to_ms(incident.last_event_time),
        "severity_id": _SEVERITIES[incident.severity],
        "severity": str(incident.severity).capitalize(),
        "status_id": status_id,
        "status": status,
        "confidence_id": confidence_id,
        "confidence": {1: "Low", 2: "Medium", 3: "High"}[confidence_id],
        "confidence_score": round(incident.confidence * 100),
        "is_alert": incident.nature != "surge" and incident.state is not State.FALSE_POSITIVE,
        "message": f"{title_of(incident)}: {who_of(incident)}",
        "metadata": {
            "version": _OCSF,
            "uid": incident.id,
            "product": {"name": "shopstream", "vendor_name": "shopstream", "version": version("shopstream")},
            "labels": list(incident.tags),
        },
        "finding_info": {
            "uid": incident.id,
            "title": title_of(incident),
            "types": [str(incident.nature), *(["campaign"] if incident.campaign else [])],
            "created_time": to_ms(incident.detected_at_event_time),
            "first_seen_time": to_ms(incident.first_event_time),
            "last_seen_time": to_ms(incident.last_event_time),
            "analytic": {"type_id": 1, "type": "Rule", "name": incident.rule, "uid": incident.rule,
                         "version": incident.rule_version},
            "related_analytics": [
                {"type_id": 1, "type": "Rule", "name": rule, "uid": rule} for rule in incident.rules[1:]
            ],
            "attacks": [
                {"technique": {"uid": tag.removeprefix("attack.").upper()}, "version": "v17"}
                for tag in incident.tags
                if tag.startswith("attack.t")
            ],
        },
        "evidences": [{"data": _evidence(incident)}],
        "observables": [
            {"name": f"evidences[].data.actors.{kind}", "value": value, "type_id": type_id, "type": name}
            for kind, value in shown
            for type_id, name in (_OBSERVABLES.get(kind, (99, kind)),)
        ],
        **({"comment": incident.comment} if incident.comment else {}),
    }  # fmt: skip


def _evidence(incident: Incident) -> dict[str, object]:
    return {
        "key": dict(incident.keys),
        "window": {"from": _moment(incident.peak_start), "until": _moment(incident.peak_end)},
        "observed": dict(incident.peak),
        "threshold": incident.threshold,
        "detector": dict(incident.evidence),
        "confidences": dict(incident.contributions),
        "genuine_share": genuine_share(incident),
        "recent_events": dict(incident.context) if incident.context else None,
        "actors": len(incident.actors),
        "actors_listed": min(len(incident.actors), _ACTORS),
        "verdict": incident.verdict,
        "command": incident.evidence_command,
    }


def _activity(incident: Incident) -> int:
    """A receiver that sees one incident several times keeps the newest."""
    if incident.state in {State.RESOLVED, State.FALSE_POSITIVE}:
        return _CLOSE
    return _CREATE if incident.windows <= 1 and incident.episodes == 1 and incident.ongoing else _UPDATE


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
