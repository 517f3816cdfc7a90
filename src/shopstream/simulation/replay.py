"""Replays a file of events into a stream: at once, at a rate, or as fast as it happened.

    blocks of the file → decoded → shifted in time → due (pacing) → by shard → records → acknowledged → bookmark

Memory holds two blocks, whatever the size of the file. Nothing is lost: rows that are no events are sent as they came,
for the engine to keep as dead letters; a replay that is killed goes on from its bookmark. What it then sends again has
the same ids, so deduplication takes it out.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shopstream.clock import Clock, SystemClock, to_ms
from shopstream.errors import ConfigurationError, StateError
from shopstream.events.codec import Decoded, Decoder
from shopstream.events.schema import REES46_COLUMNS, WIRE_SCHEMA
from shopstream.events.sources import FileBlock, Source, identify, open_blocks
from shopstream.events.validation import time_us
from shopstream.simulation.bookmark import Bookmark, BookmarkFile
from shopstream.simulation.pacing import Pacer
from shopstream.simulation.partitioning import Router, packed
from shopstream.simulation.rejects import reject_records
from shopstream.simulation.replay_settings import ReplayProgress, ReplaySettings, ReplaySummary
from shopstream.simulation.stream_sender import Lane, StreamSender
from shopstream.stream.ports import NewRecord, Shard, StreamWriter

__all__ = ["Replay", "ReplayTarget", "replay"]

_log = logging.getLogger(__name__)

_BLOCK_BYTES = 8 << 20
_PARQUET_ROWS = 65_536
_NO_ARRIVAL_MS = 253_402_300_799_000  # the year 9999: whether a time is in the future is for the engine to say
_BOOKMARK_EVERY_MS = 250
_ROUTES_EVERY_MS = 30_000
_ROUND_GAP_US = 1_000_000
_DAY_US = 86_400_000_000
_DEFAULT_HEADER = ",".join(REES46_COLUMNS).encode() + b"\n"


class ReplayTarget(StreamWriter, Protocol):
    """The part of a stream that a replay needs: `StreamWriter`, and the shards of `StreamReader`."""

    def shards(self) -> list[Shard]:
        """See `StreamReader`."""
        ...


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A decoded block; `times` and `places` belong to its events, in order."""

    block: FileBlock
    decoded: Decoded
    times: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    reject_places: npt.NDArray[np.int64]


class Replay:
    """One replay of one source.

    Args:
        source: path or fsspec URL of a CSV, CSV.gz, JSON-lines or Parquet file.
        target: the stream.
        settings: how.
        bookmarks: folder of bookmarks; None keeps none, so that a run always begins at the start.
        stream: tells the target from other streams that share the folder of bookmarks; None: the embedded one.
        clock: paces the replay and is "now".
    """

    def __init__(
        self,
        source: str,
        target: ReplayTarget,
        settings: ReplaySettings | None = None,
        *,
        bookmarks: Path | None = None,
        stream: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._location = source
        self._stream = stream
        self._target = target
        self._settings = settings or ReplaySettings()
        self._clock = clock or SystemClock()
        self._file = BookmarkFile(bookmarks, self._identity()) if bookmarks is not None else None
        self._tell: Callable[[ReplayProgress], None] = lambda _: None
        self._sender = StreamSender(target, self._clock, self._waiting)
        self._router = Router(target.shards())
        self._router_ms = self._saved_ms = self._clock.now_ms()
        self._first_us: int | None = None
        self._last_us: int | None = None
        self._told = ReplayProgress(0, 0, 0.0, 0, None, self._sender.statistics)

    def _identity(self) -> dict[str, object]:
        """Source, target and the options that decide what is sent; another pace goes on where this one stops."""
        plain = "://" not in self._location
        identity: dict[str, object] = {
            "source": str(Path(self._location).resolve()) if plain else self._location,
            "rebase": self._settings.rebase,
            "loop": self._settings.loop,
            "partition_key": self._settings.partition_key,
        }
        if self._stream is not None:
            identity["stream"] = self._stream
        return identity

    def run(self, progress: Callable[[ReplayProgress], None] | None = None) -> ReplaySummary:
        """Replay to the end of the source, or for ever where it loops.

        Args:
            progress: called after each part that was acknowledged and before each wait for the stream.

        Raises:
            PermanentError: the source is missing or unreadable.
            StateError: the source changed since an earlier run stopped inside it.
            ConfigurationError: another process runs the same replay.
        """
        self._tell = progress or self._tell
        held: AbstractContextManager[object] = self._file.held() if self._file else nullcontext()
        with held:
            return self._run(identify(self._location))

    def _run(self, source: Source) -> ReplaySummary:
        start_ms = self._clock.now_ms()
        begun = mark = self._begin(source)
        pacer = Pacer(self._clock, speed=self._settings.speed, rate=self._settings.rate, live=self._settings.live)
        try:
            while not mark.complete:
                for prepared in _ahead(self._prepared(source, mark.offset)):
                    for reached in self._sent(prepared, mark, pacer, source.size):
                        mark = reached
                        self._save(mark)
                mark = self._next_round(mark)
        finally:
            # What was acknowledged is not sent again after an interrupt.
            self._save(mark, at_once=True)
        return ReplaySummary(
            events=mark.sent - begun.sent,
            rejected=mark.rejected - begun.rejected,
            sent=self._sender.statistics,
            earlier_events=begun.sent,
            first_event_ms=None if self._first_us is None else self._first_us // 1000,
            last_event_ms=None if self._last_us is None else self._last_us // 1000,
            shift_ms=(mark.shift_us or 0) // 1000,
            rounds=mark.round + 1,
            seconds=(self._clock.now_ms() - start_ms) / 1000,
            complete=mark.complete,
        )

    def _begin(self, source: Source) -> Bookmark:
        earlier = None if self._settings.restart or self._file is None else self._file.load()
        if earlier is None:
            return Bookmark(source.digest)
        if earlier.digest != source.digest:
            raise StateError(
                f"expected {source.location} as it was when its replay stopped, got other content; "
                "put the old file back, or use --restart to begin anew"
            )
        if earlier.sent or earlier.offset:
            _log.info("replay goes on after %d events", earlier.sent)
        return earlier

    def _save(self, mark: Bookmark, *, at_once: bool = False) -> None:
        now = self._clock.now_ms()
        if self._file is not None and (at_once or now - self._saved_ms >= _BOOKMARK_EVERY_MS):
            self._file.save(mark)
            self._saved_ms = now

    def _next_round(self, mark: Bookmark) -> Bookmark:
        if not self._settings.loop:
            return replace(mark, complete=True)
        if mark.first_us is None or mark.last_us is None:
            raise ConfigurationError(
                f"expected events to loop over in {self._location}, got none in a whole round; check the file"
            )
        length = mark.last_us - mark.first_us + _ROUND_GAP_US
        if self._settings.rebase == "today":  # the time of day stays
            length = -(-length // _DAY_US) * _DAY_US
        return Bookmark(
            mark.digest,
            sent=mark.sent,
            rejected=mark.rejected,
            round=mark.round + 1,
            shift_us=(mark.shift_us or 0) + length,
        )

    def _prepared(self, source: Source, offset: int) -> Iterator[_Prepared]:
        decoder = Decoder()
        with open_blocks(source, offset, block_bytes=_BLOCK_BYTES, parquet_rows=_PARQUET_ROWS) as blocks:
            for block in blocks:
                decoded = decoder.decode([block.payload], [_NO_ARRIVAL_MS], identify=False)
                yield _Prepared(
                    block,
                    decoded,
                    time_us(decoded.events),
                    decoded.events["place"].to_numpy().astype(np.int64),
                    decoded.rejects["place"].to_numpy(),
                )

    def _sent(self, prepared: _Prepared, mark: Bookmark, pacer: Pacer, size: int) -> Iterator[Bookmark]:
        """Send a block part by part; the bookmark after each part that was acknowledged."""
        block = prepared.block
        # A bookmark inside a block is valid for the block that begins there only.
        done = mark.places if block.start == mark.offset else 0
        low = int(np.searchsorted(prepared.places, done))
        times = prepared.times[low:]
        if mark.shift_us is None and len(times):
            mark = replace(mark, shift_us=self._shift(int(times[0])))
        for start, end in pacer.slices(times + (mark.shift_us or 0)):
            until = int(prepared.places[low + end]) if low + end < len(prepared.places) else np.iinfo(np.int64).max
            mark = self._send(prepared, mark, (low + start, low + end), (done, until), size)
            done = until
            if low + end < len(prepared.places):
                mark = replace(mark, offset=block.start, places=until)
                yield mark
        if not len(times):
            mark = self._send(prepared, mark, (low, low), (done, np.iinfo(np.int64).max), size)
        yield replace(mark, offset=block.end, places=0)

    def _shift(self, first_us: int) -> int:
        rebase = self._settings.rebase
        if rebase is None:
            return 0
        moved_us = 1000 * (self._clock.now_ms() if isinstance(rebase, str) else to_ms(rebase)) - first_us
        return moved_us // _DAY_US * _DAY_US if rebase == "today" else moved_us

    def _send(
        self, prepared: _Prepared, mark: Bookmark, rows: tuple[int, int], places: tuple[int, int], size: int
    ) -> Bookmark:
        """Send events `rows` [low, high) and the rejects at `places` [low, high); the bookmark counts them."""
        low, high = rows
        shift = mark.shift_us or 0
        events = _shifted(prepared.decoded.events.slice(low, high - low), shift, mark.round)
        ordinals = np.arange(mark.sent, mark.sent + len(events), dtype=np.int64)
        first, last = np.searchsorted(prepared.reject_places, places)
        rejects = prepared.decoded.rejects.slice(int(first), int(last - first))
        router = self._routes()
        queues = packed(events, self._settings.partition_key, router, ordinals) if len(events) else []
        lanes = [Lane(shard.shard_id, queue) for shard, queue in zip(router.shards, queues, strict=False)]
        # Rows without a readable key have no order to keep.
        unordered: dict[str, list[NewRecord]] = {}
        for record in reject_records(rejects, prepared.block.header or _DEFAULT_HEADER):
            unordered.setdefault(router.shards[router.of(record.partition_key)].shard_id, []).append(record)
        lanes += [Lane(shard_id, records, ordered=False) for shard_id, records in unordered.items()]
        if self._sender.send(lanes) - router.ids:
            self._router_ms = -_ROUTES_EVERY_MS  # resharded meanwhile
        mark = self._counted(mark, prepared.times[low:high], len(rejects))
        self._told = ReplayProgress(
            events=self._told.events + len(events),
            rejected=self._told.rejected + len(rejects),
            done=min(1.0, prepared.block.consumed / max(1, size)),
            round=mark.round,
            event_time_ms=None if self._last_us is None else self._last_us // 1000,
            sent=self._sender.statistics,
        )
        self._tell(self._told)
        return mark

    def _counted(self, mark: Bookmark, times: npt.NDArray[np.int64], rejected: int) -> Bookmark:
        mark = replace(mark, sent=mark.sent + len(times), rejected=mark.rejected + rejected)
        if not len(times):
            return mark
        shift = mark.shift_us or 0
        first, last = int(times.min()), int(times.max())
        self._first_us = first + shift if self._first_us is None else min(self._first_us, first + shift)
        self._last_us = last + shift if self._last_us is None else max(self._last_us, last + shift)
        return replace(
            mark,
            first_us=first if mark.first_us is None else min(mark.first_us, first),
            last_us=last if mark.last_us is None else max(mark.last_us, last),
        )

    def _routes(self) -> Router:
        now = self._clock.now_ms()
        if now - self._router_ms >= _ROUTES_EVERY_MS:
            self._router, self._router_ms = Router(self._target.shards()), now
        return self._router

    def _waiting(self, why: str, _: timedelta) -> None:
        self._tell(replace(self._told, sent=self._sender.statistics, waiting=why))


def replay(
    source: str,
    target: ReplayTarget,
    settings: ReplaySettings | None = None,
    *,
    bookmarks: Path | None = None,
    stream: str | None = None,
    clock: Clock | None = None,
    progress: Callable[[ReplayProgress], None] | None = None,
) -> ReplaySummary:
    """Replay a source into a stream; see `Replay`."""
    return Replay(source, target, settings, bookmarks=bookmarks, stream=stream, clock=clock).run(progress)


def _shifted(events: pa.Table, shift_us: int, rounds: int) -> pa.Table:
    """The columns to send, moved in time; a tracker's id is told apart from the same event's in other rounds."""
    events = events.select(WIRE_SCHEMA.names)
    if shift_us:
        index = WIRE_SCHEMA.get_field_index("event_time")
        moved = pc.add(events.column(index).cast(pa.int64()), shift_us)
        events = events.set_column(index, "event_time", moved.cast(WIRE_SCHEMA.field(index).type))
    ids = events["event_id"]
    if rounds and ids.null_count < len(ids):
        index = WIRE_SCHEMA.get_field_index("event_id")
        events = events.set_column(
            index, "event_id", pc.binary_join_element_wise(ids.cast(pa.string()), f"round {rounds}", " ")
        )
    return events


def _ahead(items: Iterator[_Prepared]) -> Iterator[_Prepared]:
    """The same items; the next is made in a thread of its own while one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="replay-decode") as worker:
        pending = worker.submit(next, items, None)
        while (item := pending.result()) is not None:
            pending = worker.submit(next, items, None)
            yield item
