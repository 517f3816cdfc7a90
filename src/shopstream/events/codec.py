"""Decodes payloads to events.

A payload is one or many events in one of three formats, identified by its first bytes: an Arrow IPC stream
(0xFFFFFFFF), JSON lines (`{`), else CSV (REES46's nine columns in order; a header line, recognised by `event_time`,
may reorder them and name the optional tracker columns). Every row of every payload becomes either an event or a
reject with a named reason and its bytes; no row is dropped, and no payload raises an error.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from shopstream.events import arrow_ipc, text
from shopstream.events.schema import EVENT_ID_SQL_OVER_INTEGERS, WIRE_SCHEMA
from shopstream.events.validation import Fault, Reason, RowError, first_faults, price_units, time_us

REJECT_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("record", pa.int32(), nullable=False),
        pa.field("place", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("payload", pa.binary(), nullable=False),
    ]
)

_BINARY_PREFIX = 64
_RUN_BYTES = 8 << 20
_UNKNOWN_FORMAT = Fault(
    Reason.UNKNOWN_FORMAT,
    "expected an Arrow IPC stream, JSON lines or CSV, got bytes of something else or none; send one of these",
)
_IDENTITY_COLUMNS = (
    "event_type",
    "product_id",
    "category_id",
    "category_code",
    "brand",
    "user_id",
    "user_session",
    "event_id",
)


_SMALL_CHUNK = 2_000  # rows; the records of one shop's tracker hold some hundred events


@dataclass(frozen=True, slots=True)
class Decoded:
    """Contents of a sequence of payloads, in order of record, then place.

    Args:
        events: the columns of `WIRE_SCHEMA` (text may be dictionary-encoded, with another dictionary in each chunk),
            `event_id` always filled, then `record` int32 (index into the payloads) and `place` int32 (row of the
            payload, from 0, counted over its events and rejects).
        rejects: `REJECT_SCHEMA`; `payload` is the row as received (an Arrow row: an IPC stream of that row alone).
    """

    events: pa.Table
    rejects: pa.Table


@dataclass(slots=True)
class _DecodedPayloads:
    """Typed rows of one or several payloads before validation, and the faults found so far."""

    events: pa.Table
    records: np.ndarray
    places: np.ndarray
    rejects: list[tuple[int, int, Fault, bytes]]


class Decoder:
    """Decodes payloads; holds a DuckDB connection for the content ids.

    Args:
        connection: for computing; None uses a private in-memory database. Not for several threads at once.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection | None = None) -> None:
        self._sql = connection.cursor() if connection is not None else duckdb.connect()
        self._sql.execute("SET TimeZone = 'UTC'")

    def close(self) -> None:
        """Close the connection."""
        self._sql.close()

    def decode(self, payloads: Sequence[bytes], arrival_ms: Sequence[int], *, identify: bool = True) -> Decoded:
        """Decode payloads that arrived at the given epoch milliseconds.

        Args:
            payloads: any mixture of formats.
            arrival_ms: one for each payload.
            identify: False leaves `event_id` null where the tracker sent none.

        Raises:
            ValueError: the two sequences differ in length.
        """
        if len(payloads) != len(arrival_ms):
            raise ValueError(f"expected one arrival time for each payload, got {len(arrival_ms)} for {len(payloads)}")
        parts = list(_decode_runs(payloads))
        rejects = [reject for part in parts for reject in part.rejects]
        events = _concatenate(parts)
        faults = first_faults(events, np.array(arrival_ms, dtype=np.int64) * 1000) if len(events) else {}
        if faults:
            records, places = events["record"].to_numpy(), events["place"].to_numpy()
            sources = {record: _row_source(payloads[record]) for record in {int(records[row]) for row in faults}}
            for row, fault in faults.items():
                record, place = int(records[row]), int(places[row])
                rejects.append((record, place, fault, sources[record](place)))
            good = np.ones(len(events), dtype=bool)
            good[list(faults)] = False
            events = events.filter(pa.array(good))
        rejects.sort(key=lambda reject: reject[:2])
        return Decoded(self._identified(events) if identify else events, _reject_table(rejects))

    def _identified(self, events: pa.Table) -> pa.Table:
        column = events["event_id"]
        if column.null_count == 0:
            return events
        source = events.select(_IDENTITY_COLUMNS)
        source = source.append_column("time_us", pa.array(time_us(events)))
        source = source.append_column("price_units", pa.array(price_units(events)))
        ids = self._sql.from_arrow(source).project(f"{EVENT_ID_SQL_OVER_INTEGERS} AS event_id").to_arrow_table()
        return events.set_column(events.schema.get_field_index("event_id"), "event_id", ids["event_id"])


def decode(payloads: Sequence[bytes], arrival_ms: Sequence[int]) -> Decoded:
    """Decode with a new decoder; keep a `Decoder` for frequent use."""
    return Decoder().decode(payloads, arrival_ms)


def _decode_runs(payloads: Sequence[bytes]) -> Iterator[_DecodedPayloads]:
    """Decode payloads in runs: adjacent text payloads of one layout are read together, up to a few MiB at once."""
    run = _Run()
    for record, payload in enumerate(payloads):
        if payload.startswith(arrow_ipc.MARKER):
            yield from run.read()
            yield _decode_arrow(record, payload)
            continue
        bare = payload.removeprefix(text.BYTE_ORDER_MARK)
        if not bare or bare.isspace() or b"\0" in bare[:_BINARY_PREFIX]:
            yield from run.read()
            yield _rejected_payload(record, payload, _UNKNOWN_FORMAT)
            continue
        body, columns = text.body_of(payload)
        if columns != run.columns or run.size > _RUN_BYTES:
            yield from run.read()
            run.columns = columns
        run.add(record, body)
    yield from run.read()


class _Run:
    """Adjacent text payloads of one layout."""

    def __init__(self) -> None:
        self.columns: tuple[str, ...] | None = None
        self.size = 0
        self._records: list[int] = []
        self._bodies: list[bytes] = []

    def add(self, record: int, body: bytes) -> None:
        self.size += len(body)
        self._records.append(record)
        self._bodies.append(body)

    def read(self) -> Iterator[_DecodedPayloads]:
        """Decode the payloads added so far, and start a new run."""
        if not self._bodies:
            return
        block = text.read_block(self._bodies, self.columns)
        records = np.repeat(np.array(self._records, dtype=np.int32), block.counts)
        places = np.concatenate([np.arange(size, dtype=np.int32) for size in block.counts])
        rejects = [(int(records[i]), int(places[i]), fault, line) for i, (fault, line) in block.faults.items()]
        if block.kept is not None:
            kept = np.array(block.kept, dtype=np.int64)
            records, places = records[kept], places[kept]
        self.size, self._records, self._bodies = 0, [], []
        yield _DecodedPayloads(block.events, records, places, rejects)


def _rejected_payload(record: int, payload: bytes, fault: Fault) -> _DecodedPayloads:
    return _DecodedPayloads(
        arrow_ipc.ENCODED_SCHEMA.empty_table(), *_indices(record, []), [(record, 0, fault, payload)]
    )


def _indices(record: int, places: Sequence[int] | range) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(len(places), dtype=np.int32) if isinstance(places, range) else np.array(places, dtype=np.int32)
    return np.full(len(places), record, dtype=np.int32), rows


def _decode_arrow(record: int, payload: bytes) -> _DecodedPayloads:
    try:
        events, kept, faults = arrow_ipc.read_payload(payload)
    except RowError as error:
        return _rejected_payload(record, payload, error.fault)
    row_bytes = arrow_ipc.row_source(payload) if faults else None
    rejects = [(record, place, fault, row_bytes(place)) for place, fault in faults.items()] if row_bytes else []
    return _DecodedPayloads(events, *_indices(record, kept), rejects)


def _concatenate(parts: list[_DecodedPayloads]) -> pa.Table:
    if not parts:
        parts = [_DecodedPayloads(WIRE_SCHEMA.empty_table(), *_indices(0, []), [])]
    tables = [part.events for part in parts]
    if len({table.schema for table in tables}) > 1:
        tables = [table.cast(WIRE_SCHEMA) for table in tables]
    events = pa.concat_tables(tables)
    if len(events) < _SMALL_CHUNK * len(tables):
        events = events.combine_chunks()  # each chunk costs every later scan some 0.2 ms
    events = events.append_column("record", pa.array(np.concatenate([part.records for part in parts])))
    return events.append_column("place", pa.array(np.concatenate([part.places for part in parts])))


def _row_source(payload: bytes) -> Callable[[int], bytes]:
    """Returns rows as received; an Arrow row has no bytes of its own and becomes a stream of one row."""
    if payload.startswith(arrow_ipc.MARKER):
        return arrow_ipc.row_source(payload)
    body, _ = text.body_of(payload)
    return text.event_lines(body).__getitem__


def _reject_table(rejects: list[tuple[int, int, Fault, bytes]]) -> pa.Table:
    rows = [
        {"record": record, "place": place, "reason": fault.reason.value, "detail": fault.detail, "payload": payload}
        for record, place, fault, payload in rejects
    ]
    return pa.Table.from_pylist(rows, schema=REJECT_SCHEMA)
