"""The embedded stream: a durable, sharded, append-only log in one SQLite file.

Promises, each with a test:

- A record is acknowledged when its transaction is committed; a put is stored whole or not at all. Killing the process
  loses nothing acknowledged; what a power cut may cost is set by `StreamSettings.fsync`. A torn tail of the write-ahead
  log is cut off at the last whole transaction when the file is next opened.
- Sequence numbers come from the clock (milliseconds, then a counter) and never repeat, even after a power cut lost the
  last puts: a consumer that is ahead of the tip then misses no later record.
- Retention drops records by age, oldest first. A consumer that fell behind it gets a StateError, never a silent gap.
- Disk is bounded: file and write-ahead log stay within `max_bytes`. A full stream drops expired records and reuses
  their pages; unexpired records are never dropped: the writer gets a BackpressureError instead.
- Any number of threads and processes write and read at once; readers never wait for writers.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from sqlite3 import Connection
from types import TracebackType
from typing import Any, Self

from shopstream.clock import Clock
from shopstream.errors import BackpressureError, PermanentError, StateError
from shopstream.stream.database import PAGE_BYTES, Database, create
from shopstream.stream.ports import (
    HASH_KEY_SPACE,
    MAX_PUT_BYTES,
    TRIM_HORIZON,
    NewRecord,
    Position,
    PutOutcome,
    ReadBatch,
    Record,
    Shard,
    check_put,
    check_read_limits,
    hash_key,
)
from shopstream.stream.settings import StreamSettings

_SHARD_ID = re.compile(r"shardId-(\d{12})")

_INSERT_SHARD = (
    "INSERT INTO shard (shard_no, first_hash_key, last_hash_key, parents, newest_sequence, trimmed_sequence)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, slots=True)
class Routes:
    """Maps hash keys to open shards; valid for one shape of the stream."""

    shape: int
    first_hash_keys: list[int]
    shard_numbers: list[int]

    @classmethod
    def read(cls, connection: Connection, shape: int) -> "Routes":
        """The routes of the file's current shape."""
        rows = connection.execute(
            "SELECT first_hash_key, shard_no FROM shard WHERE closed_ms IS NULL ORDER BY first_hash_key"
        ).fetchall()
        return cls(shape, [int(first, 16) for first, _ in rows], [number for _, number in rows])

    def shard_of(self, record: NewRecord) -> int:
        """Number of the open shard that the record belongs to."""
        key = hash_key(record.partition_key) if record.explicit_hash_key is None else record.explicit_hash_key
        return self.shard_numbers[bisect_right(self.first_hash_keys, key) - 1]


def first_rows(shards: int, start: Position) -> list[tuple[str, tuple[object, ...]]]:
    """Statements that create a stream of equal shards, with their values; sequence numbers begin after `start`."""
    bounds = [HASH_KEY_SPACE * i // shards for i in range(shards + 1)]
    rows: list[tuple[str, tuple[object, ...]]] = [
        (_INSERT_SHARD, (number, _hex(bounds[number]), _hex(bounds[number + 1] - 1), "", start, start))
        for number in range(shards)
    ]
    return [("INSERT INTO stream VALUES (?, 0, 0)", (start,)), *rows]


def shard_id_of(number: int) -> str:
    """The shard's public id, in the form that Kinesis uses."""
    return f"shardId-{number:012d}"


def shard_number_of(shard_id: str) -> int:
    """The number in a shard id; -1, which no shard has, for any other text."""
    match = _SHARD_ID.fullmatch(shard_id)
    return int(match[1]) if match else -1


def listed_shards(connection: Connection, closed_since_ms: int) -> list[Shard]:
    """Open shards, and closed ones that hold records or were closed since then, in order of creation."""
    rows = connection.execute(
        "SELECT shard_no, first_hash_key, last_hash_key, parents, closed_ms IS NOT NULL FROM shard"
        " WHERE closed_ms IS NULL OR records > 0 OR closed_ms >= ? ORDER BY shard_no",
        (closed_since_ms,),
    ).fetchall()
    return [
        Shard(
            shard_id_of(number),
            int(first, 16),
            int(last, 16),
            tuple(shard_id_of(int(parent)) for parent in parents.split()),
            bool(closed),
        )
        for number, first, last, parents, closed in rows
    ]


def one_shard(connection: Connection, shard_id: str, columns: str) -> tuple[Any, ...]:
    """Columns of one shard.

    Raises:
        StateError: no such shard.
    """
    row: tuple[Any, ...] | None = connection.execute(
        f"SELECT {columns} FROM shard WHERE shard_no = ?", (shard_number_of(shard_id),)
    ).fetchone()
    if row is None:
        raise StateError(f"the stream has no shard {shard_id!r}; `shards()` lists those it has")
    return row


def open_range(connection: Connection, shard_id: str) -> tuple[int, int]:
    """First and last hash key of an open shard.

    Raises:
        StateError: no such shard, or it is closed.
    """
    first, last, closed = one_shard(connection, shard_id, "first_hash_key, last_hash_key, closed_ms")
    if closed is not None:
        raise StateError(f"{shard_id} is closed already; take one of its children from `shards()`")
    return int(first, 16), int(last, 16)


def reshape(
    connection: Connection, parents: Sequence[str], ranges: Sequence[tuple[int, int]], now_ms: int
) -> list[str]:
    """Close the parents and open a child for each range; returns the children's ids."""
    (sequence,) = connection.execute("SELECT last_sequence FROM stream").fetchone()
    (number,) = connection.execute("SELECT max(shard_no) + 1 FROM shard").fetchone()
    numbers = [shard_number_of(parent) for parent in parents]
    connection.executemany(
        "UPDATE shard SET closed_ms = ? WHERE shard_no = ?", [(now_ms, closed) for closed in numbers]
    )
    lineage = " ".join(map(str, numbers))
    connection.executemany(
        _INSERT_SHARD,
        [(number + i, _hex(first), _hex(last), lineage, sequence, sequence) for i, (first, last) in enumerate(ranges)],
    )
    connection.execute("UPDATE stream SET shape = shape + 1")
    return [shard_id_of(number + i) for i in range(len(ranges))]


def _hex(key: int) -> str:
    return f"{key:032x}"


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """Contents of the stream; `bytes` counts payloads, `disk_bytes` includes the write-ahead log."""

    shards: int
    records: int
    bytes: int
    disk_bytes: int
    max_bytes: int


_COUNTER_BITS = 20  # a million records in one millisecond; lasts until the year 2248 in 63 bits
_RETIRE_PER_PUT = (1000, 16 << 20)  # records and bytes: more than a put adds, so expired ones never pile up
_RETIRE_PER_TRIM = (10_000, 256 << 20)  # per transaction of trim(), short enough to let writers in between
_LARGE_RECORD = PAGE_BYTES // 4  # larger records may leave most of a page unused
_ROW_OVERHEAD = 64  # bytes of a row besides payload and key, its index entry included
_SPARE_PAGES = 16  # for the inner pages of index and table
_MIN_RETRY = timedelta(milliseconds=100)
_MAX_RETRY = timedelta(seconds=60)


class _FullError(BackpressureError):
    """No room for a put: records that retention keeps fill the disk space allowed."""


class _LogFullError(BackpressureError):
    """No room for a put: a reader of an older snapshot keeps the write-ahead log from being checkpointed."""


class EmbeddedStream(AbstractContextManager["EmbeddedStream"]):
    """A `Stream` in one SQLite file, whose shards can be split and merged."""

    def __init__(self, database: Database, settings: StreamSettings, clock: Clock, log_reserve: int) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._log_reserve = log_reserve
        self._routes = Routes(-1, [], [])
        self._typical_log_bytes = database.checkpoint_bytes + MAX_PUT_BYTES
        self._checkpoint_above = self._typical_log_bytes

    @classmethod
    def open(cls, path: Path, settings: StreamSettings, clock: Clock) -> Self:
        """Open the stream in this file; create one with `settings.shards` equal shards if there is none.

        Raises:
            StateError: the file is not a stream, has another format, or is damaged.
        """
        start = clock.now_ms() << _COUNTER_BITS
        create(path, first_rows(settings.shards, start))
        log_reserve = min(max(settings.max_bytes // 8, 16 << 20), 64 << 20)
        stream = cls(Database(path, settings.fsync, log_reserve // 2), settings, clock, log_reserve)
        stream.shards()  # refuse a file that is not a stream here, not at the first put
        return stream

    def close(self) -> None:
        """Close the file; later calls raise PermanentError."""
        self._database.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Writing

    def put(self, records: Sequence[NewRecord]) -> list[PutOutcome]:
        """Append records, all or none; one outcome each, in order, never an error code.

        Raises:
            BackpressureError: full of records that retention keeps, or another process locks the file for too long.
            PermanentError: over a limit of `check_put`.
        """
        if not records:
            return []
        check_put(records)
        try:
            return self._append(records)
        except _FullError:
            if not self.trim():
                raise
        except _LogFullError:
            self._database.checkpoint_log()
        return self._append(records)

    def trim(self) -> int:
        """Drop all records older than the retention; returns how many. Each put drops some, too."""
        dropped, more = 0, True
        while more:
            with self._database.transaction() as connection:
                count, more = self._retire(connection, *_RETIRE_PER_TRIM)
            dropped += count
        return dropped

    def _append(self, records: Sequence[NewRecord]) -> list[PutOutcome]:
        if self._database.log_bytes() > self._checkpoint_above:  # busy readers kept SQLite from checkpointing it
            self._database.checkpoint_log()
            self._checkpoint_above = self._database.log_bytes() + self._typical_log_bytes
        with self._database.transaction() as connection:
            self._retire(connection, *_RETIRE_PER_PUT)
            self._ensure_room(connection, records)
            sequence, last_arrival, shape = connection.execute(
                "SELECT last_sequence, last_arrival_ms, shape FROM stream"
            ).fetchone()
            if self._routes.shape != shape:
                self._routes = Routes.read(connection, shape)
            routes = self._routes
            arrival = max(self._clock.now_ms(), last_arrival)  # a clock set back must not reorder the stream
            sequence = max(sequence, arrival << _COUNTER_BITS)
            rows = []
            grown: dict[int, tuple[int, int, int]] = {}
            for record in records:
                sequence += 1
                number = routes.shard_of(record)
                rows.append((sequence, number, arrival, record.partition_key, record.payload))
                count, size, _ = grown.get(number, (0, 0, 0))
                grown[number] = (count + 1, size + len(record.payload), sequence)
            connection.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?)", rows)
            connection.executemany(
                "UPDATE shard SET records = records + ?, bytes = bytes + ?, newest_sequence = ? WHERE shard_no = ?",
                [(*sums, number) for number, sums in grown.items()],
            )
            connection.execute("UPDATE stream SET last_sequence = ?, last_arrival_ms = ?", (sequence, arrival))
        return [PutOutcome(shard_id_of(row[1]), row[0]) for row in rows]

    def _ensure_room(self, connection: Connection, records: Sequence[NewRecord]) -> None:
        needed = _pages(records)
        pages: int = connection.execute("PRAGMA page_count").fetchone()[0]
        free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
        file_bytes = (pages + max(0, needed - free)) * PAGE_BYTES
        log_bytes = self._database.log_bytes() + needed * PAGE_BYTES
        if file_bytes + max(self._log_reserve, log_bytes) <= self._settings.max_bytes:
            return
        if file_bytes + self._log_reserve <= self._settings.max_bytes:
            raise _LogFullError(
                f"a reader keeps the write-ahead log of {self._database.path} from being checkpointed; try again, and "
                "end a process that is stuck while reading",
                _MIN_RETRY,
            )
        (oldest,) = connection.execute("SELECT arrival_ms FROM record ORDER BY sequence_number LIMIT 1").fetchone() or (
            self._clock.now_ms(),
        )
        expires = timedelta(milliseconds=oldest + 1 - self._clock.now_ms()) + self._settings.retention
        raise _FullError(
            f"the stream {self._database.path} may use {self._settings.max_bytes} bytes of disk and is full of "
            f"records younger than {self._settings.retention}; wait, raise stream.max_bytes or lower stream.retention",
            min(max(expires, _MIN_RETRY), _MAX_RETRY),
        )

    def _retire(self, connection: Connection, records: int, size: int) -> tuple[int, bool]:
        """Drop expired records up to about these limits; returns how many, and whether there may be more."""
        rows = connection.execute(
            "SELECT sequence_number, shard_no, arrival_ms, length(payload) FROM record ORDER BY sequence_number"
        )
        expired_ms = self._expired_ms()
        dropped: dict[int, tuple[int, int, int]] = {}
        count, freed, newest, more = 0, 0, TRIM_HORIZON, False
        for sequence, number, arrival, length in rows:
            if arrival >= expired_ms:
                break
            if count >= records or freed >= size:
                more = True
                break
            shard_count, shard_freed, _ = dropped.get(number, (0, 0, 0))
            dropped[number] = (shard_count + 1, shard_freed + length, sequence)
            count, freed, newest = count + 1, freed + length, sequence
        rows.close()
        if count:
            connection.execute("DELETE FROM record WHERE sequence_number <= ?", (newest,))
            connection.executemany(
                "UPDATE shard SET records = records - ?, bytes = bytes - ?, trimmed_sequence = ? WHERE shard_no = ?",
                [(*sums, number) for number, sums in dropped.items()],
            )
        return count, more

    def _expired_ms(self) -> int:
        return self._clock.now_ms() - self._settings.retention // timedelta(milliseconds=1)

    # Reading

    def shards(self) -> list[Shard]:
        """Shards in order of creation; a closed one is listed until retention has dropped its records."""
        with self._database.snapshot() as connection:
            return listed_shards(connection, self._expired_ms())

    def read(self, shard_id: str, after: Position, *, max_records: int, max_bytes: int) -> ReadBatch:
        """Records after a position, as many as fit into `max_records` and `max_bytes` of payload, one at least.

        Raises:
            StateError: no such shard; retention dropped `after`; `after` belongs to another stream.
            PermanentError: a limit below one.
        """
        check_read_limits(max_records, max_bytes)
        number = shard_number_of(shard_id)
        with self._database.snapshot() as connection:
            closed, newest, trimmed = one_shard(
                connection, shard_id, "closed_ms IS NOT NULL, newest_sequence, trimmed_sequence"
            )
            start = trimmed if after == TRIM_HORIZON else after
            self._check_position(shard_id, start, newest, trimmed)
            last = _last_of_batch(connection, number, start, max_records, max_bytes)
            records = tuple(
                Record(*row)
                for row in connection.execute(
                    "SELECT payload, partition_key, ?, sequence_number, arrival_ms FROM record"
                    " WHERE shard_no = ? AND sequence_number > ? AND sequence_number <= ? ORDER BY sequence_number",
                    (shard_id, number, start, last),
                )
            )
        behind = max(0, self._clock.now_ms() - records[-1].arrival_ms) if records and last < newest else 0
        return ReadBatch(records, last, behind, ended=bool(closed) and last >= newest)

    def _check_position(self, shard_id: str, after: Position, newest: Position, trimmed: Position) -> None:
        if after < trimmed:
            raise StateError(
                f"retention ({self._settings.retention}) dropped records of {shard_id} up to {trimmed}, the position "
                f"{after} is before that: records would be skipped; continue from TRIM_HORIZON if that is acceptable, "
                "and raise stream.retention if consumers may be away for longer"
            )
        if after > max(newest, (self._clock.now_ms() + 1) << _COUNTER_BITS):
            raise StateError(
                f"the newest record of {shard_id} is {newest}, the position {after} is in the future; it belongs to "
                "another stream: start from TRIM_HORIZON"
            )

    # Consumers

    def positions(self, consumer: str) -> dict[str, Position]:
        """Shard id → position last committed under this name; a shard never committed is absent."""
        with self._database.snapshot() as connection:
            rows = connection.execute(
                "SELECT shard_no, sequence_number FROM position WHERE consumer = ? ORDER BY shard_no", (consumer,)
            ).fetchall()
        return {shard_id_of(number): sequence for number, sequence in rows}

    def commit(self, consumer: str, positions: Mapping[str, Position]) -> None:
        """Store positions under this name, all or none; other shards keep theirs.

        Raises:
            StateError: no such shard.
        """
        with self._database.transaction() as connection:
            for shard_id, position in positions.items():
                one_shard(connection, shard_id, "shard_no")
                connection.execute(
                    "INSERT INTO position VALUES (?, ?, ?)"
                    " ON CONFLICT DO UPDATE SET sequence_number = excluded.sequence_number",
                    (consumer, shard_number_of(shard_id), position),
                )

    def describe(self) -> StreamStatus:
        """Sizes, without reading payloads; closed shards count until their records are gone."""
        with self._database.snapshot() as connection:
            shards, records, size = connection.execute(
                "SELECT count(*), sum(records), sum(bytes) FROM shard WHERE closed_ms IS NULL OR records > 0"
            ).fetchone()
            disk_bytes = self._database.disk_bytes()
        return StreamStatus(shards, records, size, disk_bytes, self._settings.max_bytes)

    # Reshaping

    def split(self, shard_id: str, at_hash_key: int) -> tuple[str, str]:
        """Close a shard; its children take [first, at-1] and [at, last]; returns them in this order.

        Raises:
            StateError: no such shard, or closed already.
            PermanentError: `at_hash_key` leaves a child without hash keys.
        """
        with self._database.transaction() as connection:
            first, last = open_range(connection, shard_id)
            if not first < at_hash_key <= last:
                raise PermanentError(
                    f"{shard_id} has hash keys {first} to {last} and can be split above the first of them, "
                    f"got {at_hash_key}"
                )
            lower, upper = reshape(
                connection, [shard_id], [(first, at_hash_key - 1), (at_hash_key, last)], self._clock.now_ms()
            )
        return lower, upper

    def merge(self, shard_id: str, other_shard_id: str) -> str:
        """Close two adjacent shards; one child takes both ranges.

        Raises:
            StateError: no such shard, or closed already.
            PermanentError: the two are not adjacent.
        """
        with self._database.transaction() as connection:
            ranges = sorted([open_range(connection, shard_id), open_range(connection, other_shard_id)])
            (first, middle), (next_first, last) = ranges
            if middle + 1 != next_first:
                raise PermanentError(
                    f"only adjacent shards can be merged, {shard_id} and {other_shard_id} have "
                    f"{ranges[0]} and {ranges[1]}; see `shards()` for neighbours"
                )
            (child,) = reshape(connection, [shard_id, other_shard_id], [(first, last)], self._clock.now_ms())
        return child


def _pages(records: Sequence[NewRecord]) -> int:
    """Upper bound of the pages that the records need."""
    small, pages = 0, _SPARE_PAGES
    for record in records:
        size = len(record.payload) + len(record.partition_key.encode()) + _ROW_OVERHEAD
        if size < _LARGE_RECORD:
            small += size
        else:
            pages += size // PAGE_BYTES + 2
    return pages + small * 4 // (3 * PAGE_BYTES)


def _last_of_batch(connection: Connection, number: int, after: Position, max_records: int, max_bytes: int) -> Position:
    """Sequence number of the last record of a batch; reads sizes only, so that no payload is loaded in vain."""
    last, total = after, 0
    sizes = connection.execute(
        "SELECT sequence_number, length(payload) FROM record WHERE shard_no = ? AND sequence_number > ?"
        " ORDER BY sequence_number LIMIT ?",
        (number, after, max_records),
    )
    for sequence, size in sizes:
        total += size
        if total > max_bytes and last != after:
            break
        last = sequence
    sizes.close()
    return last
