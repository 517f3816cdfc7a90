"""Replays a file of events into a stream: at once, at a rate, or as fast as it happened.

    blocks of the file → decoded → shifted in time → due (pacing) → by shard → records → acknowledged → bookmark

Memory holds two blocks, whatever the size of the file. Rows that are not events are sent as they are, so that the
engine keeps them as dead letters.

The data home keeps a bookmark for each replay. It advances only after the stream has acknowledged what lies before it.
So a killed replay sends again, at most, what it sent since the last bookmark; the same rows make the same events with
the same ids, and deduplication removes them.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from hashlib import md5, sha256
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from shopstream.clock import Clock, SystemClock, to_ms
from shopstream.errors import ConfigurationError, StateError
from shopstream.events.codec import Decoded, Decoder
from shopstream.events.columns import REES46_COLUMNS
from shopstream.events.schema import WIRE_SCHEMA
from shopstream.events.sources import FileBlock, Source, identify, open_blocks
from shopstream.events.validation import time_us
from shopstream.simulation.partitioning import PartitionKey, Router, packed
from shopstream.simulation.stream_sender import Lane, SendStatistics, StreamSender
from shopstream.stream.ports import MAX_RECORD_BYTES, NewRecord, Shard, StreamWriter


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A position in a replay.

    Args:
        digest: digest of the source, from `events.sources.identify`.
        offset: start of the current block: bytes of text, rows of Parquet.
        places: rows of that block that are done.
        sent: events that are done, over all rounds.
        rejected: rows that are not events and were sent.
        round: number of the round, from 0.
        shift_us: shift of event times in this round; None before the first event.
        first_us: earliest event time of the source in this round so far, unshifted.
        last_us: latest, likewise.
        complete: whether everything is done.
    """

    digest: str
    offset: int = 0
    places: int = 0
    sent: int = 0
    rejected: int = 0
    round: int = 0
    shift_us: int | None = None
    first_us: int | None = None
    last_us: int | None = None
    complete: bool = False


class BookmarkFile:
    """The bookmark of one replay on disk; only one process may run the replay.

    Args:
        folder: folder of bookmarks.
        identity: source, and the options that decide what is sent.
    """

    def __init__(self, folder: Path, identity: Mapping[str, object]) -> None:
        self._identity = dict(identity)
        name = sha256(json.dumps(self._identity, sort_keys=True, default=str).encode()).hexdigest()[:24]
        self.path = folder / f"{name}.json"

    @contextmanager
    def held(self) -> Iterator[Self]:
        """Lock the replay.

        Raises:
            ConfigurationError: another process runs it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigurationError(
                f"expected to be the only replay of {self._identity.get('source')} with these options, another process "
                "runs it; stop that one, or use another --home"
            ) from error
        try:
            yield self
        finally:
            lock.release()

    def load(self) -> Bookmark | None:
        """The bookmark, or None.

        Raises:
            StateError: the file is damaged.
        """
        try:
            content: dict[str, Any] = json.loads(self.path.read_text())
            return Bookmark(**content["bookmark"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(
                f"expected a replay's bookmark in {self.path}, got something else ({error}); use --restart"
            ) from error

    def save(self, bookmark: Bookmark) -> None:
        """Replace the bookmark atomically and durably."""
        fresh = self.path.with_suffix(".new")
        with fresh.open("w") as file:
            json.dump({"replay": self._identity, "bookmark": asdict(bookmark)}, file, default=str)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)


_TICK = timedelta(milliseconds=50)  # what is due within a tick is sent together
_LONGEST_NAP = timedelta(milliseconds=500)  # so that progress is reported and an interrupt is noticed
_MOST_DEBT_MS = 1000  # a delayed replay catches up by at most this, or two events
_US = 1_000_000


class Pacer:
    """Cuts rows into slices, and yields each slice when it is due.

    Args:
        clock: processing time.
        speed: speed-up factor; rows out of order go with the latest row before them.
        rate: rows per second.
        live: a row is due when the clock reaches its event time.
    """

    def __init__(
        self, clock: Clock, *, speed: float | None = None, rate: float | None = None, live: bool = False
    ) -> None:
        self._clock = clock
        self._speed = 1.0 if live else speed
        self._rate = rate
        self._start_ms: int | None = 0 if live else None
        self._start_us = 0
        self._latest_us = 0
        self._sent = 0

    def slices(self, times_us: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Ranges [low, high) of the rows with these event times, in order, each when it is due.

        Event time goes on from one call to the next.
        """
        if not len(times_us):
            return
        if self._start_ms is None:
            self._start_ms, self._start_us, self._latest_us = self._clock.now_ms(), int(times_us[0]), int(times_us[0])
        if self._rate is not None:
            yield from self._by_rate(len(times_us), self._rate)
        elif self._speed is not None:
            yield from self._by_speed(times_us, self._speed)
        else:
            yield 0, len(times_us)

    def _elapsed_ms(self) -> int:
        return self._clock.now_ms() - (self._start_ms or 0)

    def _by_rate(self, count: int, rate: float) -> Iterator[tuple[int, int]]:
        low = 0
        most_debt_ms = max(_MOST_DEBT_MS, 2000 / rate)
        while low < count:
            debt_ms = self._elapsed_ms() - self._sent * 1000 / rate
            if debt_ms > most_debt_ms:
                self._start_ms = (self._start_ms or 0) + int(debt_ms - most_debt_ms)
            due = int(self._elapsed_ms() * rate / 1000) - self._sent
            if due < 1:
                wanted = timedelta(milliseconds=(self._sent + 1) * 1000 / rate - self._elapsed_ms())
                self._clock.sleep(min(max(wanted, _TICK), _LONGEST_NAP))
                continue
            high = min(low + due, count)
            self._sent += high - low
            yield low, high
            low = high

    def _by_speed(self, times_us: npt.NDArray[np.int64], speed: float) -> Iterator[tuple[int, int]]:
        reached = np.maximum(np.maximum.accumulate(times_us), self._latest_us)
        self._latest_us = int(reached[-1])
        low = 0
        while low < len(reached):
            now_us = self._start_us + int(self._elapsed_ms() * 1000 * speed)
            high = int(np.searchsorted(reached, now_us, side="right"))
            if high <= low:
                wanted = timedelta(microseconds=min((int(reached[low]) - now_us) / speed, _US))
                self._clock.sleep(min(max(wanted, _TICK), _LONGEST_NAP))
                continue
            yield low, high
            low = high


_log = logging.getLogger(__name__)

_BLOCK_BYTES = 8 << 20
_PARQUET_ROWS = 65_536
_NO_ARRIVAL_MS = 253_402_300_799_000  # the year 9999: the engine decides whether a time is in the future
_BOOKMARK_EVERY_MS = 250
_ROUTES_EVERY_MS = 30_000
_ROUND_GAP_US = 1_000_000
_DAY_US = 86_400_000_000
_DEFAULT_HEADER = ",".join(REES46_COLUMNS).encode() + b"\n"
_ARROW = b"\xff\xff\xff\xff"
_TEXT_BYTES = 256 << 10
_LONGEST = MAX_RECORD_BYTES - (64 << 10)  # room for the partition key and a header line


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """How to replay.

    Args:
        speed: speed-up factor; None: no limit.
        rate: events per second; None: no limit. Not together with `speed`.
        rebase: "now" or an aware moment: event times are moved so that the first event is at it. "today": they are
            moved by whole days, so that the first event is of the last 24 hours. With "now" and "today" an event is
            sent when the clock reaches its time, and what lies before that at once.
        loop: start again at the end, for ever; event time continues from round to round.
        partition_key: selects the shard of an event.
        restart: ignore an earlier bookmark.

    Raises:
        ConfigurationError: an invalid value or combination.
    """

    speed: float | None = None
    rate: float | None = None
    rebase: datetime | str | None = None
    loop: bool = False
    partition_key: PartitionKey = PartitionKey.CATEGORY_ID
    restart: bool = False

    def __post_init__(self) -> None:
        if self.speed is not None and self.rate is not None:
            raise ConfigurationError("expected --speed or --rate, got both; choose one")
        for name, value in (("speed", self.speed), ("rate", self.rate)):
            if value is not None and not 0 < value < float("inf"):
                raise ConfigurationError(f"expected --{name} above 0, got {value}; leave it out for no limit")
        if isinstance(self.rebase, str) and self.rebase not in {"now", "today"}:
            raise ConfigurationError(f"expected a rebase of 'now', 'today' or an aware datetime, got {self.rebase!r}")
        if self.live and (self.rate is not None or self.speed not in {None, 1}):
            raise ConfigurationError(
                f"expected the pace of the clock with --rebase {self.rebase}, got another --speed or --rate, whose "
                "events would leave the present; leave it out"
            )
        if isinstance(self.rebase, datetime) and self.rebase.tzinfo is None:
            raise ConfigurationError(f"expected a rebase with a time zone, got {self.rebase}; add Z or an offset")

    @property
    def live(self) -> bool:
        """Event time follows the clock."""
        return isinstance(self.rebase, str)


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """Progress of a replay.

    Args:
        events: events sent in this run.
        rejected: rows that are not events, sent in this run.
        done: share of the source that is done in this round, 0 to 1.
        round: number of the round, from 0.
        event_time_ms: latest event time sent, shifted; None before the first.
        sent: what the stream took, and what it refused, so far.
        waiting: reason for waiting, if it waits for the stream.
    """

    events: int
    rejected: int
    done: float
    round: int
    event_time_ms: int | None
    sent: SendStatistics
    waiting: str | None = None


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """Result of a replay.

    Args:
        events: events acknowledged in this run.
        rejected: rows that are not events, sent in this run.
        sent: what the stream took, and what it refused.
        earlier_events: events of earlier runs, before the bookmark of this run.
        first_event_ms: earliest event time sent in this run, shifted; None without events.
        last_event_ms: latest, likewise.
        seconds: duration of this run.
        complete: whether the source was read to its end.
    """

    events: int
    rejected: int
    sent: SendStatistics
    earlier_events: int
    first_event_ms: int | None
    last_event_ms: int | None
    seconds: float
    complete: bool


class ReplayStream(StreamWriter, Protocol):
    """What a replay needs of a stream: `StreamWriter`, and the shards of `StreamReader`."""

    def shards(self) -> list[Shard]:
        """See `StreamReader`."""
        ...


def replay(
    source: str,
    target: ReplayStream,
    settings: ReplaySettings | None = None,
    *,
    bookmarks: Path | None = None,
    stream: str | None = None,
    clock: Clock | None = None,
    progress: Callable[[ReplayProgress], None] = lambda _: None,
) -> ReplaySummary:
    """Replay to the end of the source, or for ever with `loop`.

    Args:
        source: path or fsspec URL of a CSV, CSV.gz, JSON-lines or Parquet file.
        target: the stream.
        settings: options.
        bookmarks: folder of bookmarks; None: always begin at the start.
        stream: distinguishes streams that share the folder of bookmarks; None: the embedded one.
        clock: the clock for pacing.
        progress: called after each part that was acknowledged, and before each wait for the stream.

    Raises:
        PermanentError: the source is missing or cannot be read.
        StateError: the source changed since an earlier run stopped inside it.
        ConfigurationError: another process runs the same replay.
    """
    run = _Replay(
        source,
        target,
        settings or ReplaySettings(),
        bookmarks=bookmarks,
        stream=stream,
        clock=clock or SystemClock(),
        progress=progress,
    )
    return run.run()


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A decoded block; `times` and `places` are those of its events, in order."""

    block: FileBlock
    decoded: Decoded
    times: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    reject_places: npt.NDArray[np.int64]


class _Replay:
    """One run; see `replay`."""

    def __init__(
        self,
        source: str,
        target: ReplayStream,
        settings: ReplaySettings,
        *,
        bookmarks: Path | None,
        stream: str | None,
        clock: Clock,
        progress: Callable[[ReplayProgress], None],
    ) -> None:
        self._location, self._target, self._settings, self._stream = source, target, settings, stream
        self._clock, self._report = clock, progress
        self._file = BookmarkFile(bookmarks, self._identity()) if bookmarks is not None else None
        self._sender = StreamSender(target, self._clock, self._waiting)
        self._router = Router(target.shards())
        self._router_ms = self._saved_ms = self._clock.now_ms()
        self._first_us: int | None = None
        self._last_us: int | None = None
        self._progress = ReplayProgress(0, 0, 0.0, 0, None, self._sender.statistics)

    def _identity(self) -> dict[str, object]:
        """Source, target and the options that decide what is sent; the pace may change between runs."""
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

    def run(self) -> ReplaySummary:
        """Replay, while no other process runs the same replay."""
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
            # Do not send again what was acknowledged before an interrupt.
            self._save(mark, at_once=True)
        return ReplaySummary(
            events=mark.sent - begun.sent,
            rejected=mark.rejected - begun.rejected,
            sent=self._sender.statistics,
            earlier_events=begun.sent,
            first_event_ms=None if self._first_us is None else self._first_us // 1000,
            last_event_ms=None if self._last_us is None else self._last_us // 1000,
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
                "put the old file back, or use --restart"
            )
        if earlier.sent or earlier.offset:
            _log.info("replay continues after %d events", earlier.sent)
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
        """Send a block in parts; yields the bookmark after each acknowledged part."""
        block = prepared.block
        # A bookmark inside a block is valid only for the block that begins there.
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
        """Send the events in `rows` and the rejects in `places`, both [low, high); returns the next bookmark."""
        low, high = rows
        shift = mark.shift_us or 0
        events = _shifted(prepared.decoded.events.slice(low, high - low), shift, mark.round)
        ordinals = np.arange(mark.sent, mark.sent + len(events), dtype=np.int64)
        first, last = np.searchsorted(prepared.reject_places, places)
        rejects = prepared.decoded.rejects.slice(int(first), int(last - first))
        router = self._routes()
        queues = packed(events, self._settings.partition_key, router, ordinals) if len(events) else []
        lanes = [Lane(shard.shard_id, queue) for shard, queue in zip(router.shards, queues, strict=False)]
        # Rows without a key have no order to keep.
        unordered: dict[str, list[NewRecord]] = {}
        for record in reject_records(rejects, prepared.block.header or _DEFAULT_HEADER):
            unordered.setdefault(router.shards[router.of(record.partition_key)].shard_id, []).append(record)
        lanes += [Lane(shard_id, records, ordered=False) for shard_id, records in unordered.items()]
        if self._sender.send(lanes) - router.ids:
            self._router_ms = -_ROUTES_EVERY_MS  # resharded meanwhile
        mark = self._counted(mark, prepared.times[low:high], len(rejects))
        self._progress = ReplayProgress(
            events=self._progress.events + len(events),
            rejected=self._progress.rejected + len(rejects),
            done=min(1.0, prepared.block.consumed / max(1, size)),
            round=mark.round,
            event_time_ms=None if self._last_us is None else self._last_us // 1000,
            sent=self._sender.statistics,
        )
        self._report(self._progress)
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
        self._report(replace(self._progress, sent=self._sender.statistics, waiting=why))


def _shifted(events: pa.Table, shift_us: int, rounds: int) -> pa.Table:
    """The columns to send, shifted in time; later rounds get other event ids."""
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
    """The same items, each prepared in a thread while the one before is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="replay-decode") as worker:
        pending = worker.submit(next, items, None)
        while (item := pending.result()) is not None:
            pending = worker.submit(next, items, None)
            yield item


def reject_records(rejects: pa.Table, header: bytes) -> list[NewRecord]:
    """Records with the bytes of rejected rows, for the engine's dead letters.

    CSV rows follow a header line: without it, a row that repeats the header would be taken for the header, and rows of
    a file with other columns would be read with the usual ones. Neighbouring rows share a record. A row longer than a
    record is cut.

    Args:
        rejects: `REJECT_SCHEMA`.
        header: header line of their CSV, with its line end.
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
