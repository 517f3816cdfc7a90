"""Bulk load: files straight into the lakehouse, past the stream.

Blocks of a file are decoded by the same codec and the same rules as records of the stream, and written as Parquet
files in parallel. Each commit of events records in a property of the table how far the file has come, in the same
atomic step as the rows: a load that was cut short goes on there, and a file that is complete is not loaded again.
Rejected rows are committed first, under a mark of their own, so that they neither vanish nor double.

Duplicates are dropped inside a block; blocks are cut between two times, so that in a file sorted by time none escapes.

Bulk load by many machines: the blocks of a file are decoded and written side by side, and committed here in order.

What runs on the machines is what `ingest` runs in its threads, on the same blocks, so the rows, the dead letters and
their ids are the same, and so is the account of how far a file has come: what one began, the other may finish.
"""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import md5
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shopstream.clock import Clock
from shopstream.events.codec import Decoder
from shopstream.events.schema import DEAD_LETTER_FIELDS, arrow_schema
from shopstream.events.sources import Block, Source, identify, open_blocks, plan_blocks
from shopstream.events.validation import time_us
from shopstream.lakehouse.files import FileWriter
from shopstream.lakehouse.iceberg import IcebergLakehouse
from shopstream.lakehouse.ports import LakeTable

__all__ = ["BlockWriter", "IngestResult", "Part", "PartSource", "Piece", "Spread", "in_waves", "ingest"]

_WORKERS = 2
_BLOCKS_A_COMMIT = 16
_DERIVED_ID = 32
"""Characters of an id derived from content: MD5 in hex."""

_local = threading.local()
"""Each thread's decoder."""

_ODD = 0x9E3779B97F4A7C15
_DEAD_LETTERS = arrow_schema(DEAD_LETTER_FIELDS)


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What became of a file so far; rows = events + duplicates + dead letters.

    Args:
        source: path or URL, as it was given.
        offset: where to go on.
        rows, events, duplicates, dead_letters: counts since the beginning of the file, earlier runs included.
        complete: whether the file was read to its end.
        skipped: whether it was complete before, so that nothing was done.
    """

    source: str
    offset: int = 0
    rows: int = 0
    events: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    complete: bool = False
    skipped: bool = False

    def plus(self, part: "Part") -> Self:
        """With one more block."""
        return replace(
            self,
            offset=part.end,
            rows=self.rows + part.events + part.duplicates + part.dead.num_rows,
            events=self.events + part.events,
            duplicates=self.duplicates + part.duplicates,
            dead_letters=self.dead_letters + part.dead.num_rows,
        )


@dataclass(frozen=True, slots=True)
class Part:
    """One block, written but not committed.

    Args:
        files: locations of its events' files.
        events, duplicates: counts.
        dead: its dead letters, as rows of the table.
        start, end: its place in the source.
        consumed: bytes of the stored file read so far, for progress.
    """

    files: list[str]
    events: int
    duplicates: int
    dead: pa.Table
    start: int
    end: int
    consumed: int


def ingest(
    lakehouse: IcebergLakehouse,
    location: str,
    clock: Clock,
    progress: Callable[[int, int, IngestResult], None] = lambda _consumed, _size, _result: None,
    *,
    parts: "PartSource | None" = None,
) -> IngestResult:
    """Load a file into the tables `events` and `dead_letters`.

    Args:
        lakehouse: where to.
        location: path or fsspec URL of CSV, CSV.gz, JSON lines (.gz) or Parquet.
        clock: tells `arrival_time`.
        progress: called after every block with stored bytes consumed, size, and the result so far (not yet committed).
        parts: decodes and writes the blocks; None: threads of this process.

    Raises:
        PermanentError: the file is missing, damaged, or of another kind; what was committed before stays.
        RetryableError: another process loads the same file, or keeps the tables busy.
    """
    source = identify(location)
    key = f"shopstream.ingest.{source.digest[:32]}"
    with lakehouse.catalog.loading(f"ingest-{source.digest[:32]}", location):
        text = lakehouse.catalog.load(LakeTable.EVENTS).properties.get(key)
        state = replace(IngestResult(**json.loads(text)), source=location) if text else IngestResult(location)
        if state.complete:
            return replace(state, skipped=True)
        writer = BlockWriter(lakehouse.catalog.writer, source.digest, clock)
        load = _Load(lakehouse, source, key, writer, mark=text, progress=progress, parts=parts or _in_threads)
        return load.run(state)


@dataclass(frozen=True, slots=True)
class BlockWriter:
    """Decodes blocks and writes their events to files; goes to other processes and machines.

    Args:
        files: writes rows.
        digest: of the source, see `events.sources.identify`.
        clock: tells `arrival_time`.
    """

    files: FileWriter
    digest: str
    clock: Clock

    def write(self, block: Block) -> Part:
        """One block, written but not committed."""
        if not hasattr(_local, "decoder"):
            _local.decoder = Decoder()
        now_ms = self.clock.now_ms()
        decoded = _local.decoder.decode([block.payload], [now_ms])
        events = _without_duplicates(decoded.events)
        duplicates = decoded.events.num_rows - events.num_rows
        arrival = pa.scalar(now_ms * 1000, pa.timestamp("us", "UTC"))
        events = events.append_column("arrival_time", pa.repeat(arrival, events.num_rows))
        events = events.append_column("is_late", pa.repeat(pa.scalar(False), events.num_rows))
        return Part(
            files=self.files.write(LakeTable.EVENTS, events),
            events=events.num_rows,
            duplicates=duplicates,
            dead=self._dead_letters(decoded.rejects, block.start, now_ms),
            start=block.start,
            end=block.end,
            consumed=block.consumed,
        )

    def _dead_letters(self, rejects: pa.Table, start: int, now_ms: int) -> pa.Table:
        shard = f"file-{self.digest[:32]}"
        rows = [
            {
                "dead_letter_id": md5(f"{shard}:{start}:{row['place']}".encode(), usedforsecurity=False).hexdigest(),
                "reason": row["reason"],
                "detail": row["detail"],
                "payload": row["payload"],
                "shard_id": shard,
                "sequence_number": str(start),
                "place": row["place"],
                "arrival_time": now_ms * 1000,
            }
            for row in rejects.to_pylist()
        ]
        return pa.Table.from_pylist(rows, schema=_DEAD_LETTERS)


PartSource = Callable[[BlockWriter, Source, int], Iterator[Part]]
"""Decodes and writes the blocks of a source from a place on; gives them in order."""


class _Load:
    """One run over one file: takes parts in order, and commits them with a mark of how far the file has come."""

    def __init__(
        self,
        lakehouse: IcebergLakehouse,
        source: Source,
        key: str,
        writer: BlockWriter,
        *,
        mark: str | None,
        progress: Callable[[int, int, IngestResult], None],
        parts: PartSource,
    ) -> None:
        self._mark = mark
        self._lakehouse = lakehouse
        self._source = source
        self._key = key
        self._progress = progress
        self._parts = parts
        self._writer = writer
        self._dead_mark = lakehouse.catalog.load(LakeTable.DEAD_LETTERS).properties.get(key)

    def run(self, state: IngestResult) -> IngestResult:
        waiting: list[Part] = []
        seen = state
        try:
            for part in self._parts(self._writer, self._source, state.offset):
                waiting.append(part)
                seen = seen.plus(part)
                self._progress(part.consumed, self._source.size, seen)
                if len(waiting) == _BLOCKS_A_COMMIT:
                    state = self._commit(waiting, seen)
                    waiting = []
        except BaseException:
            self._discard([file for part in waiting for file in part.files])
            raise
        state = self._commit(waiting, replace(seen, complete=True))
        self._progress(self._source.size, self._source.size, state)
        return state

    def _commit(self, parts: list[Part], state: IngestResult) -> IngestResult:
        dead_until = int(self._dead_mark) if self._dead_mark else 0
        dead = [part.dead for part in parts if part.start >= dead_until and part.dead.num_rows]
        if dead:
            files = self._lakehouse.write(LakeTable.DEAD_LETTERS, pa.concat_tables(dead))
            self._dead_mark = self._add(LakeTable.DEAD_LETTERS, files, self._dead_mark, str(state.offset))
        text = json.dumps(asdict(replace(state, source=Path(state.source).name)))
        self._mark = self._add(LakeTable.EVENTS, [file for part in parts for file in part.files], self._mark, text)
        return state

    def _add(self, table: LakeTable, files: list[str], before: str | None, mark: str) -> str:
        """Commit files together with the mark of how far the load has come; refused where another load moved it."""
        self._lakehouse.add(table, files, {}, {self._key: mark}, expected={self._key: before})
        return mark

    def _discard(self, files: list[str]) -> None:
        self._lakehouse.catalog.storage.remove(files)


def _in_threads(writer: BlockWriter, source: Source, start: int) -> Iterator[Part]:
    """Blocks decoded and written by workers, in order; no more than a few in memory at once."""
    pending: deque[Future[Part]] = deque()
    with open_blocks(source, start) as blocks, ThreadPoolExecutor(_WORKERS) as workers:
        try:
            for block in blocks:
                pending.append(workers.submit(writer.write, block))
                del block
                if len(pending) > _WORKERS:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                if not future.cancel() and future.exception() is None:
                    writer.files.storage.remove(future.result().files)


def _without_duplicates(events: pa.Table) -> pa.Table:
    """The first of each (event_time, event_id)."""
    ids = pa.concat_arrays(events["event_id"].chunks) if events.num_rows else pa.array([], pa.string())
    suspects = _repeated(_fingerprints(ids))
    if not len(suspects):
        return events
    codes = ids.take(pa.array(suspects)).dictionary_encode().indices.to_numpy()
    times = time_us(events)[suspects]
    # lexsort is stable: inside equal (time, id) the rows stay in order, so the first stays first.
    order = np.lexsort((times, codes))
    same = (np.diff(codes[order]) == 0) & (np.diff(times[order]) == 0)
    keep = np.ones(len(events), dtype=bool)
    keep[suspects[order][1:][same]] = False
    return events.filter(pa.array(keep))


def _fingerprints(ids: pa.StringArray) -> npt.NDArray[np.uint64]:
    """A number for each id: equal for equal ids, and hardly ever for others."""
    _, offsets, data = ids.buffers()
    starts = np.frombuffer(offsets or b"", dtype=np.int32)[ids.offset : ids.offset + len(ids) + 1]
    if len(ids) and data is not None and (np.diff(starts) == _DERIVED_ID).all():
        words = np.frombuffer(data, dtype=np.uint64, count=len(ids) * _DERIVED_ID // 8, offset=int(starts[0]))
        words = words.reshape(len(ids), -1)
        return words[:, 0] * np.uint64(_ODD) + words[:, 1]  # 64 random bits of a derived id
    codes: npt.NDArray[np.uint64] = ids.dictionary_encode().indices.to_numpy().astype(np.uint64)
    return codes


def _repeated(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """Places of numbers that occur more than once."""
    ordered = np.sort(numbers)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    return np.flatnonzero(np.isin(numbers, repeated)) if len(repeated) else np.empty(0, np.intp)


Piece = tuple[int, int | None]
"""Where a machine begins and ends; see `events.sources.plan_blocks`."""

Spread = Callable[[Callable[[Piece], list[Part]], Sequence[Piece]], Sequence[list[Part]]]
"""Applies a function to each piece, wherever; gives the results in order. The function can be pickled."""


def in_waves(spread: Spread, at_once: int) -> PartSource:
    """For `ingest`: so many pieces at once, spread over machines.

    Files of pieces that were not committed are deleted here; those of a machine that was lost are orphans of the lake
    (`shopstream lake orphans`).

    Args:
        spread: applies a function on the machines.
        at_once: pieces of one wave; some for each core, since the slowest decides when the next wave begins.
    """

    def parts(writer: BlockWriter, source: Source, start: int) -> Iterator[Part]:
        pieces = plan_blocks(source, start)
        while wave := list(islice(pieces, at_once)):
            waiting = [part for found in spread(partial(_load, writer, source), wave) for part in found]
            try:
                while waiting:
                    yield waiting.pop(0)
            finally:
                writer.files.storage.remove(file for part in waiting for file in part.files)

    return parts


def _load(writer: BlockWriter, source: Source, piece: Piece) -> list[Part]:
    start, end = piece
    parts = []
    with open_blocks(source, start) as blocks:
        for block in blocks:
            if end is not None and block.start >= end:
                break
            parts.append(writer.write(block))
            if end is not None and block.end >= end:
                break
    return parts
