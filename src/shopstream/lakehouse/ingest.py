"""Bulk load: files straight into the lakehouse, past the stream.

Blocks of a file are decoded and validated like records of the stream, and written as Parquet files in parallel. Each
commit of events stores the progress of the file in a table property, in the same atomic step as the rows: an
interrupted load resumes there, and a complete file is not loaded again. Rejected rows are committed first, with
progress of their own, so that they are neither lost nor doubled.

Duplicates are dropped inside a block; blocks are cut between two times, so a file sorted by time keeps none.

`in_waves` spreads the blocks over many machines; rows, dead letters, their ids and the stored progress are the same,
so what one load began, the other may finish.
"""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shopstream.clock import Clock
from shopstream.engine.source import dead_letter_rows, event_rows
from shopstream.events.codec import Decoder
from shopstream.events.sources import FileBlock, Source, identify, open_blocks, plan_blocks
from shopstream.events.validation import time_us
from shopstream.lakehouse.files import FileWriter
from shopstream.lakehouse.iceberg import IcebergLakehouse
from shopstream.lakehouse.ports import LakeTable
from shopstream.stream.ports import Record

_WORKERS = 2
_BLOCKS_PER_COMMIT = 16
_DERIVED_ID = 32
"""Characters of an id derived from content: MD5 in hex."""

_local = threading.local()
"""Each thread's decoder."""

_ODD = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class IngestResult:
    """Progress of a file; rows = events + duplicates + dead letters.

    Args:
        source: path or URL, as given.
        offset: where to continue.
        rows, events, duplicates, dead_letters: counts since the beginning of the file, earlier runs included.
        complete: whether the file was read to its end.
        skipped: whether an earlier run had completed it, so that this one did nothing.
    """

    source: str
    offset: int = 0
    rows: int = 0
    events: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    complete: bool = False
    skipped: bool = False

    def plus(self, block: "LoadedBlock") -> Self:
        """The result with one more block."""
        return replace(
            self,
            offset=block.end,
            rows=self.rows + block.events + block.duplicates + block.dead_letters.num_rows,
            events=self.events + block.events,
            duplicates=self.duplicates + block.duplicates,
            dead_letters=self.dead_letters + block.dead_letters.num_rows,
        )


@dataclass(frozen=True, slots=True)
class LoadedBlock:
    """One block, written but not committed.

    Args:
        files: locations of the files with its events.
        events, duplicates: counts.
        dead_letters: rows of that table.
        start, end: its place in the source.
        consumed: bytes of the stored file read so far, for progress.
    """

    files: list[str]
    events: int
    duplicates: int
    dead_letters: pa.Table
    start: int
    end: int
    consumed: int


def ingest(
    lakehouse: IcebergLakehouse,
    location: str,
    clock: Clock,
    progress: Callable[[int, int, IngestResult], None] = lambda _consumed, _size, _result: None,
    *,
    loader: "BlockLoader | None" = None,
) -> IngestResult:
    """Load a file into the tables `events` and `dead_letters`.

    Args:
        lakehouse: receives the rows.
        location: path or fsspec URL of CSV, CSV.gz, JSON lines (.gz) or Parquet.
        clock: for `arrival_time`.
        progress: called after every block with stored bytes consumed, size, and the result so far (not yet committed).
        loader: decodes and writes the blocks; None: threads of this process.

    Raises:
        PermanentError: the file is missing, damaged, or of another kind; earlier commits stay.
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
        dead_mark = lakehouse.catalog.load(LakeTable.DEAD_LETTERS).properties.get(key)
        load = _Load(lakehouse, source, key, text, dead_mark, progress)
        return load.run((loader or _in_threads)(writer, source, state.offset), state)


@dataclass(frozen=True, slots=True)
class BlockWriter:
    """Decodes blocks and writes their events to files; can be pickled for other processes and machines.

    Args:
        files: writes rows.
        digest: of the source, see `events.sources.identify`.
        clock: for `arrival_time`.
    """

    files: FileWriter
    digest: str
    clock: Clock

    def write(self, block: FileBlock) -> LoadedBlock:
        """Write one block without committing it."""
        if not hasattr(_local, "decoder"):
            _local.decoder = Decoder()
        record = Record(block.payload, "", f"file-{self.digest[:32]}", block.start, self.clock.now_ms())
        decoded = _local.decoder.decode([record.payload], [record.arrival_ms])
        unique = _without_duplicates(decoded.events)
        events = event_rows([record], unique, np.zeros(unique.num_rows, np.bool_))
        return LoadedBlock(
            files=self.files.write(LakeTable.EVENTS, events),
            events=events.num_rows,
            duplicates=decoded.events.num_rows - events.num_rows,
            dead_letters=dead_letter_rows([record], decoded.rejects),
            start=block.start,
            end=block.end,
            consumed=block.consumed,
        )


BlockLoader = Callable[[BlockWriter, Source, int], Iterator[LoadedBlock]]
"""Decodes and writes the blocks of a source from an offset on; returns them in order."""


@dataclass(slots=True)
class _Load:
    """One run over one file: takes blocks in order, and commits them together with the progress of the file.

    Args:
        key: the property of each table that holds the progress.
        mark, dead_mark: progress of the events and of the dead letters; None before the first commit.
    """

    lakehouse: IcebergLakehouse
    source: Source
    key: str
    mark: str | None
    dead_mark: str | None
    progress: Callable[[int, int, IngestResult], None]

    def run(self, blocks: Iterator[LoadedBlock], state: IngestResult) -> IngestResult:
        waiting: list[LoadedBlock] = []
        seen = state
        try:
            for block in blocks:
                waiting.append(block)
                seen = seen.plus(block)
                self.progress(block.consumed, self.source.size, seen)
                if len(waiting) == _BLOCKS_PER_COMMIT:
                    state = self._commit(waiting, seen)
                    waiting = []
        except BaseException:
            self.lakehouse.catalog.storage.remove(file for block in waiting for file in block.files)
            raise
        state = self._commit(waiting, replace(seen, complete=True))
        self.progress(self.source.size, self.source.size, state)
        return state

    def _commit(self, blocks: list[LoadedBlock], state: IngestResult) -> IngestResult:
        dead_until = int(self.dead_mark) if self.dead_mark else 0
        dead = [block.dead_letters for block in blocks if block.start >= dead_until and block.dead_letters.num_rows]
        if dead:
            files = self.lakehouse.write(LakeTable.DEAD_LETTERS, pa.concat_tables(dead))
            self.dead_mark = self._add(LakeTable.DEAD_LETTERS, files, self.dead_mark, str(state.offset))
        text = json.dumps(asdict(replace(state, source=Path(state.source).name)))
        self.mark = self._add(LakeTable.EVENTS, [file for block in blocks for file in block.files], self.mark, text)
        return state

    def _add(self, table: LakeTable, files: list[str], before: str | None, mark: str) -> str:
        """Commit files together with the new progress; refused if another load has moved it."""
        self.lakehouse.add(table, files, {}, {self.key: mark}, expected={self.key: before})
        return mark


def _in_threads(writer: BlockWriter, source: Source, start: int) -> Iterator[LoadedBlock]:
    """Decode and write blocks in worker threads; returns them in order, with only a few in memory at once."""
    pending: deque[Future[LoadedBlock]] = deque()
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
    """A number for each id: equal for equal ids, and rarely for different ones."""
    _, offsets, data = ids.buffers()
    starts = np.frombuffer(offsets or b"", dtype=np.int32)[ids.offset : ids.offset + len(ids) + 1]
    if len(ids) and data is not None and (np.diff(starts) == _DERIVED_ID).all():
        words = np.frombuffer(data, dtype=np.uint64, count=len(ids) * _DERIVED_ID // 8, offset=int(starts[0]))
        words = words.reshape(len(ids), -1)
        return words[:, 0] * np.uint64(_ODD) + words[:, 1]  # 64 random bits of a derived id
    codes: npt.NDArray[np.uint64] = ids.dictionary_encode().indices.to_numpy().astype(np.uint64)
    return codes


def _repeated(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """Indices of numbers that occur more than once."""
    ordered = np.sort(numbers)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    return np.flatnonzero(np.isin(numbers, repeated)) if len(repeated) else np.empty(0, np.intp)


Piece = tuple[int, int | None]
"""Start and end of a machine's share; see `events.sources.plan_blocks`."""

Spread = Callable[[Callable[[Piece], list[LoadedBlock]], Sequence[Piece]], Sequence[list[LoadedBlock]]]
"""Applies a function to each piece on any machine; returns the results in order. The function can be pickled."""


def in_waves(spread: Spread, at_once: int) -> BlockLoader:
    """A loader for `ingest` that spreads the blocks over machines, some pieces at once.

    Files of pieces that were not committed are deleted here; those of a machine that was lost become orphans of the
    lake (`shopstream lake orphans`).

    Args:
        spread: applies a function on the machines.
        at_once: pieces per wave; several per core, since the slowest piece decides when the next wave begins.
    """

    def load_waves(writer: BlockWriter, source: Source, start: int) -> Iterator[LoadedBlock]:
        pieces = plan_blocks(source, start)
        while wave := list(islice(pieces, at_once)):
            waiting = [block for found in spread(partial(_load_piece, writer, source), wave) for block in found]
            try:
                while waiting:
                    yield waiting.pop(0)
            finally:
                writer.files.storage.remove(file for block in waiting for file in block.files)

    return load_waves


def _load_piece(writer: BlockWriter, source: Source, piece: Piece) -> list[LoadedBlock]:
    start, end = piece
    loaded = []
    with open_blocks(source, start) as blocks:
        for block in blocks:
            if end is not None and block.start >= end:
                break
            loaded.append(writer.write(block))
            if end is not None and block.end >= end:
                break
    return loaded
