"""Detections as rows of the lakehouse table."""

import json
from collections.abc import Sequence
from decimal import Decimal

import pyarrow as pa

from shopstream.detection.detection import Detection
from shopstream.events.schema import arrow_schema
from shopstream.lakehouse.tables import DETECTION_FIELDS

__all__ = ["detection_rows"]


def detection_rows(detections: Sequence[Detection]) -> pa.Table:
    """One row for each detection, with the columns of DETECTION_FIELDS; none gives an empty table."""
    schema = arrow_schema(DETECTION_FIELDS)
    rows = [_row(detection) for detection in detections]
    columns = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if pa.types.is_timestamp(field.type):
            columns.append(pa.array(values, pa.int64()).cast(field.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _row(detection: Detection) -> dict[str, object]:
    return {
        "detection_id": detection.detection_id,
        "rule_id": detection.rule_id,
        "rule_version": detection.rule_version,
        "title": detection.title,
        "severity": str(detection.severity),
        "tags": json.dumps(detection.tags, ensure_ascii=False),
        "key_kind": detection.key_kind,
        "key": json.dumps(dict(detection.key), ensure_ascii=False),
        "start_time": detection.start_ms * 1000,
        "end_time": detection.end_ms * 1000,
        "first_event_time": detection.first_event_ms * 1000,
        "last_event_time": detection.last_event_ms * 1000,
        "measures": json.dumps(dict(detection.measures), ensure_ascii=False, default=_plain),
        "threshold": detection.threshold,
        "final": detection.final,
        "suppress_for_ms": detection.suppress_for_ms,
        "allowed_by": detection.suppression.entry if detection.suppression else None,
        "allowed_reason": detection.suppression.reason if detection.suppression else None,
    }


def _plain(value: object) -> str:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"expected JSON-ready measures, got {type(value).__name__}; make it text or a number")
