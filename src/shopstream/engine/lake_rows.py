"""Converts decoded records to rows of the lake."""

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shopstream.events.schema import DEAD_LETTER_FIELDS, EVENT_FIELDS, LAKE_FIELDS, arrow_schema
from shopstream.stream.ports import Record

__all__ = ["dead_letter_rows", "event_rows"]

_US: Final = 1_000
_DEAD_LETTER_SCHEMA: Final = arrow_schema(DEAD_LETTER_FIELDS)


def event_rows(records: Sequence[Record], events: pa.Table, late: npt.NDArray[np.bool_]) -> pa.Table:
    """LAKE_FIELDS columns; text may be dictionary-encoded.

    Args:
        records: the decoded records.
        events: `Decoded.events` of them.
        late: one flag per event.
    """
    arrivals = np.array([record.arrival_ms for record in records], dtype=np.int64) * _US
    arrival = pa.array(arrivals[events.column("record").to_numpy()]).cast(pa.timestamp("us", "UTC"))
    return pa.table(
        [*(events.column(field.name) for field in EVENT_FIELDS), arrival, pa.array(late)],
        names=[field.name for field in LAKE_FIELDS],
    )


def dead_letter_rows(records: Sequence[Record], rejects: pa.Table) -> pa.Table:
    """DEAD_LETTER_FIELDS columns.

    Args:
        records: the decoded records.
        rejects: `Decoded.rejects` of them.
    """
    rows = [
        {
            "dead_letter_id": _dead_letter_id(record, reject["place"]),
            "reason": reject["reason"],
            "detail": reject["detail"],
            "payload": reject["payload"],
            "shard_id": record.shard_id,
            "sequence_number": str(record.sequence_number),
            "place": reject["place"],
            "arrival_time": record.arrival_ms * _US,
        }
        for reject in rejects.to_pylist()
        for record in (records[reject["record"]],)
    ]
    return pa.Table.from_pylist(rows, schema=_DEAD_LETTER_SCHEMA)


def _dead_letter_id(record: Record, place: int) -> str:
    where = f"{record.shard_id}:{record.sequence_number}:{place}"
    return hashlib.md5(where.encode(), usedforsecurity=False).hexdigest()
