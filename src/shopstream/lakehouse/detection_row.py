"""One detection as a row of the lakehouse table, in plain Python: JSON-ready, times in epoch microseconds.

Firehose requires this form for times of Iceberg tables.
"""

import json
from decimal import Decimal

from shopstream.detection.detection import Detection

__all__ = ["detection_row"]


def detection_row(detection: Detection) -> dict[str, object]:
    """Column of `tables.DETECTION_FIELDS` → value; `_time` columns are epoch microseconds."""
    return {
        "detection_id": detection.detection_id,
        "rule_id": detection.rule_id,
        "rule_version": detection.rule_version,
        "title": detection.headline,
        "severity": str(detection.severity),
        "tags": json.dumps(detection.tags, ensure_ascii=False),
        "key_kind": detection.key_kind,
        "key": json.dumps(dict(detection.key), ensure_ascii=False),
        "start_time": detection.start_ms * 1000,
        "end_time": detection.end_ms * 1000,
        "first_event_time": detection.first_event_ms * 1000,
        "last_event_time": detection.last_event_ms * 1000,
        "measures": json.dumps(dict(detection.measures), ensure_ascii=False, default=_decimal_text),
        "threshold": detection.threshold,
        "final": detection.final,
        "suppress_for_ms": detection.suppress_for_ms,
        "allowed_by": detection.suppression.entry if detection.suppression else None,
        "allowed_reason": detection.suppression.reason if detection.suppression else None,
    }


def _decimal_text(value: object) -> str:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"expected JSON-ready measures, got {type(value).__name__}; make it text or a number")
