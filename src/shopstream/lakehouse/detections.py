"""Detections as rows of the lakehouse table."""

from collections.abc import Sequence

import pyarrow as pa

from shopstream.detection.detection import Detection
from shopstream.events.schema import arrow_schema
from shopstream.lakehouse.detection_row import detection_row
from shopstream.lakehouse.tables import DETECTION_FIELDS

__all__ = ["detection_rows"]


def detection_rows(detections: Sequence[Detection]) -> pa.Table:
    """One row for each detection, with the columns of DETECTION_FIELDS."""
    schema = arrow_schema(DETECTION_FIELDS)
    rows = [detection_row(detection) for detection in detections]
    columns = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if pa.types.is_timestamp(field.type):
            columns.append(pa.array(values, pa.int64()).cast(field.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema)
