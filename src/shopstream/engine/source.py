"""Reads records from the stream, decodes them one micro-batch ahead of the engine, and makes rows of the lake of them.

Reading and decoding is half of the work and does not need the engine's state. So a thread of its own does it while the
engine processes the previous batch. At the tip, nothing is read ahead.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shopstream.clock import MILLISECOND, Clock
from shopstream.engine.settings import EngineSettings
from shopstream.engine.watermark import BEGINNING, Watermarks
from shopstream.events.codec import Decoded, Decoder
from shopstream.events.schema import DEAD_LETTER_FIELDS, EVENT_FIELDS, LAKE_FIELDS, arrow_schema
from shopstream.stream.ports import TRIM_HORIZON, ReadBatch, Record, Shard, StreamReader


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch.

    Args:
        records: those of one shard together, in order.
        decoded: their events and rejects.
        positions: shard id → last position in this batch, for shards with records.
        behind_ms: greatest distance of a shard from its tip.
    """

    records: Sequence[Record]
    decoded: Decoded
    positions: Mapping[str, int]
    behind_ms: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """Shard id → position to read after; whether all readable shards are included; limits per shard."""

    positions: Mapping[str, int]
    complete: bool
    max_records: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class _Fetched:
    """Results of a plan's reads, and the clock at their start and end."""

    plan: _Plan
    reads: Mapping[str, ReadBatch]
    batch: Batch
    begun_ms: int
    ended_ms: int


class SourceReader:
    """Reads shards fairly: no child before its parents' end, none far ahead of the slowest in event time.

    Args:
        stream: has the records.
        watermarks: track each shard's progress, and which shards are at their tip.
        settings: sizes and the allowed drift.
        clock: time of the reads.
        readers: shards to read at once; more than one pays off if reads wait for a network.
    """

    def __init__(
        self, stream: StreamReader, watermarks: Watermarks, settings: EngineSettings, clock: Clock, *, readers: int = 1
    ) -> None:
        self._stream = stream
        self._watermarks = watermarks
        self._settings = settings
        self._clock = clock
        self._decoder = Decoder()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="source")
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="shard") if readers > 1 else None
        self._ahead: Future[_Fetched] | None = None
        self._positions: dict[str, int] = {}
        self._at_tip: set[str] = set()
        self._ended: set[str] = set()

    @property
    def ended(self) -> list[str]:
        """Closed shards whose records were all read."""
        return sorted(self._ended)

    def start_after(self, positions: Mapping[str, int], ended: Collection[str] = ()) -> None:
        """Continue after these positions; read other shards from their oldest record.

        Args:
            positions: shard id → last record that was read.
            ended: shards that were read to their end.

        Raises:
            StateError: retention removed a shard that was not read to its end, so its tail is lost.
        """
        self._positions, self._ended = dict(positions), set(ended)
        known = dict.fromkeys(self._watermarks.newest(), TRIM_HORIZON) | self._positions
        for shard_id in known.keys() - self._ended - {shard.shard_id for shard in self._stream.shards()}:
            self._stream.read(shard_id, known[shard_id], max_records=1, max_bytes=1)  # raises if records are lost
            self._ended.add(shard_id)
        for shard_id in self._ended:  # otherwise they would hold the watermark back for ever
            self._watermarks.at_tip(shard_id, self._clock.now_ms(), ended=True)

    def poll(self) -> Batch:
        """The next micro-batch; without records only if all shards are at their tip, or (`behind_ms`) near it."""
        while True:
            fetched = self._ahead.result() if self._ahead else self._fetch(self._plan())
            self._ahead = None
            news = self._note(fetched)
            if fetched.batch.records:
                self._ahead = self._thread.submit(self._fetch, self._plan())
            if fetched.batch.records or fetched.batch.behind_ms or (fetched.plan.complete and not news):
                return fetched.batch

    def _note(self, fetched: _Fetched) -> bool:
        """Remember each shard's position; returns whether one ended, so that its children can be read.

        If reading one shard took long, an empty read of another one is stale: it may have received records since.
        """
        idle_ms = self._settings.idle_timeout // MILLISECOND
        stale = bool(fetched.batch.records) and fetched.ended_ms - fetched.begun_ms >= idle_ms
        for shard_id, read in fetched.reads.items():
            self._positions[shard_id] = read.position
            at_tip = not (read.records or read.behind_ms)
            if at_tip:
                self._at_tip.add(shard_id)
            else:
                self._at_tip.discard(shard_id)
            if read.ended:
                self._ended.add(shard_id)
            if read.ended or (at_tip and not stale):
                self._watermarks.at_tip(shard_id, fetched.begun_ms, ended=read.ended)
            else:
                self._watermarks.busy(shard_id)
        return any(read.ended for read in fetched.reads.values())

    def close(self) -> None:
        """Stop the threads; what they read ahead is dropped, and read again by the next process."""
        self._thread.shutdown(cancel_futures=True)
        if self._readers:
            self._readers.shutdown(cancel_futures=True)
        self._ahead = None
        self._decoder.close()

    def _plan(self) -> _Plan:
        shards = self._stream.shards()
        waiting = {shard.shard_id for shard in shards} - self._ended
        for shard_id in waiting:  # the child of a split holds the watermark back before its first event
            self._watermarks.expect(shard_id)
        ready = [s for s in shards if s.shard_id in waiting and not waiting.intersection(s.parent_ids)]
        aligned = self._aligned(ready)
        # The same share for each shard, so that one that is read alone does not run far ahead.
        return _Plan(
            positions={shard.shard_id: self._positions.get(shard.shard_id, TRIM_HORIZON) for shard in aligned},
            complete=len(aligned) == len(ready),
            max_records=max(1, self._settings.batch_events // len(shards)),
            max_bytes=max(1, self._settings.batch_bytes // len(shards)),
        )

    def _aligned(self, ready: Sequence[Shard]) -> list[Shard]:
        newest_ms = {shard.shard_id: self._watermarks.newest_ms(shard.shard_id) for shard in ready}
        behind = [ms for shard_id, ms in newest_ms.items() if shard_id not in self._at_tip and ms > BEGINNING]
        limit_ms = min(behind, default=-BEGINNING) + self._settings.max_drift // MILLISECOND
        return [shard for shard in ready if newest_ms[shard.shard_id] <= limit_ms]

    def _fetch(self, plan: _Plan) -> _Fetched:
        def read(shard_id: str, after: int) -> ReadBatch:
            return self._stream.read(shard_id, after, max_records=plan.max_records, max_bytes=plan.max_bytes)

        each = self._readers.map if self._readers else map
        shard_ids, positions = plan.positions.keys(), plan.positions.values()
        begun_ms = self._clock.now_ms()
        reads = dict(zip(shard_ids, each(read, shard_ids, positions), strict=True))
        ended_ms = self._clock.now_ms()
        records = [record for read in reads.values() for record in read.records]
        batch = Batch(
            records=records,
            decoded=self._decoder.decode([r.payload for r in records], [r.arrival_ms for r in records]),
            positions={shard_id: read.position for shard_id, read in reads.items() if read.records},
            behind_ms=max((read.behind_ms for read in reads.values()), default=0),
        )
        return _Fetched(plan, reads, batch, begun_ms, ended_ms)


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
