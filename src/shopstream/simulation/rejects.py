"""Rows that are no events, packed so that the engine finds them as they came and keeps them as dead letters."""

from collections.abc import Iterator
from hashlib import md5

import pyarrow as pa

from shopstream.stream.ports import MAX_RECORD_BYTES, NewRecord

__all__ = ["reject_records"]

_ARROW = b"\xff\xff\xff\xff"
_TEXT_BYTES = 256 << 10
_LONGEST = MAX_RECORD_BYTES - (64 << 10)  # room for the partition key and a header line


def reject_records(rejects: pa.Table, header: bytes) -> list[NewRecord]:
    """Records that hold the rejected rows' bytes.

    CSV rows travel behind a header line: without one, a row that repeats the header would be taken for it, and rows
    of a file with other columns would be judged by the usual ones. Neighbours share a record. A row that is longer
    than a record is cut.

    Args:
        rejects: `REJECT_SCHEMA`.
        header: header line of the CSV they are from, with its line end.
    """
    return [
        NewRecord(payload, md5(payload, usedforsecurity=False).hexdigest())
        for payload in _payloads(rejects["payload"].to_pylist(), header)
    ]


def _payloads(rows: list[bytes], header: bytes) -> Iterator[bytes]:
    lines: list[bytes] = []
    size, as_json = 0, False
    for row in rows:
        if row.startswith(_ARROW):
            yield row
            continue
        if lines and (size > _TEXT_BYTES or row.lstrip().startswith(b"{") != as_json):
            yield _text(lines, header, as_json=as_json)
            lines, size = [], 0
        as_json = row.lstrip().startswith(b"{")
        for start in range(0, len(row), _LONGEST):
            piece = row[start : start + _LONGEST]
            if lines and size + len(piece) > _LONGEST:
                yield _text(lines, header, as_json=as_json)
                lines, size = [], 0
            lines.append(piece)
            size += len(piece) + 1
    if lines:
        yield _text(lines, header, as_json=as_json)


def _text(lines: list[bytes], header: bytes, *, as_json: bool) -> bytes:
    text = b"\n".join(lines) + b"\n"
    return text if as_json else header + text
