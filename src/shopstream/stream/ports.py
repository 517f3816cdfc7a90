"""The port of streams, which Kinesis Data Streams and the embedded log implement, and its limits.

A record's payload holds one or many encoded events (see `events.codec`). A writer that aggregates puts only events
of one shard into one record and sets `explicit_hash_key`. Sequence numbers grow within a shard and cannot be compared
across shards. A resharded stream keeps its closed parents: read a parent to its end before its children.

The limits are those of Kinesis, for every stream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import md5
from types import TracebackType
from typing import Protocol, Self

from shopstream.clock import Clock
from shopstream.errors import PermanentError, StateError

HASH_KEY_SPACE = 1 << 128
MAX_RECORD_BYTES = 1 << 20
MAX_PUT_RECORDS = 500
MAX_PUT_BYTES = 5 << 20

Position = int
"""Sequence number of the last record read; reading continues after it."""

TRIM_HORIZON: Position = -1
"""Before the oldest record that is still kept."""


def hash_key(partition_key: str) -> int:
    """The hash key of a partition key: MD5 of its UTF-8 bytes, as in Kinesis."""
    return int.from_bytes(md5(partition_key.encode(), usedforsecurity=False).digest())


@dataclass(frozen=True, slots=True)
class Shard:
    """A slice of the stream: records whose hash key is in [first_hash_key, last_hash_key]."""

    shard_id: str
    first_hash_key: int
    last_hash_key: int
    parent_ids: tuple[str, ...] = ()
    closed: bool = False


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to put."""

    payload: bytes
    partition_key: str
    explicit_hash_key: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the stream; `arrival_ms` is the stream's clock in epoch milliseconds."""

    payload: bytes
    partition_key: str
    shard_id: str
    sequence_number: Position
    arrival_ms: int


@dataclass(frozen=True, slots=True)
class PutOutcome:
    """Result of putting one record: its place, or an error code and message (then retry this record)."""

    shard_id: str | None = None
    sequence_number: Position | None = None
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class ReadBatch:
    """Records in order, the position to continue from, the lag behind the tip, and whether the shard has ended."""

    records: tuple[Record, ...]
    position: Position
    behind_ms: int
    ended: bool


class StreamWriter(Protocol):
    """Writes records."""

    def put(self, records: Sequence[NewRecord]) -> list[PutOutcome]:
        """Append up to MAX_PUT_RECORDS records of MAX_PUT_BYTES together; one outcome each, in order.

        Raises:
            BackpressureError: no record was accepted; call again after `retry_after`.
            PermanentError: a record or the whole call is over a limit.
        """
        ...


class StreamReader(Protocol):
    """Reads records, for any number of independent consumers."""

    def shards(self) -> list[Shard]:
        """All shards that hold records or may get some, parents before children.

        A closed shard may be missing once retention has dropped its records; `read` raises if a consumer lost some.
        """
        ...

    def read(self, shard_id: str, after: Position, *, max_records: int, max_bytes: int) -> ReadBatch:
        """Records after a position; the first one is returned even if it is larger than `max_bytes`.

        A shard that retention removed from the list has ended, unless records after the position were lost with it.

        Raises:
            StateError: no such shard, or retention trimmed `after` (records would be skipped silently).
        """
        ...


class ConsumerPositions(Protocol):
    """Stores the position of each consumer, by name."""

    def positions(self, consumer: str) -> dict[str, Position]:
        """Shard id → position last committed; a shard the consumer never committed is absent (TRIM_HORIZON)."""
        ...

    def commit(self, consumer: str, positions: Mapping[str, Position]) -> None:
        """Store positions, all or none; other shards keep theirs. A position may go back, to read again.

        Raises:
            StateError: no such shard.
        """
        ...


class Stream(StreamWriter, StreamReader, ConsumerPositions, Protocol):
    """A whole stream; a context manager that closes it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...


MAX_PARTITION_KEY_CHARACTERS = 256


def check_put(records: Sequence[NewRecord]) -> int:
    """Total bytes of a put, payloads and partition keys.

    Raises:
        PermanentError: the put exceeds a limit; the message names the record by its place in the call.
    """
    if len(records) > MAX_PUT_RECORDS:
        raise PermanentError(f"a put takes at most {MAX_PUT_RECORDS} records, got {len(records)}; put them in parts")
    total = 0
    for place, record in enumerate(records):
        size = len(record.payload) + _partition_key_bytes(place, record.partition_key)
        if size > MAX_RECORD_BYTES:
            raise PermanentError(
                f"a record takes at most {MAX_RECORD_BYTES} bytes with its partition key, record {place} has {size}; "
                "put fewer events into one record"
            )
        if record.explicit_hash_key is not None and not 0 <= record.explicit_hash_key < HASH_KEY_SPACE:
            raise PermanentError(
                f"an explicit hash key lies in [0, 2**128), record {place} has {record.explicit_hash_key}; "
                "choose one in the range of the intended shard"
            )
        total += size
    if total > MAX_PUT_BYTES:
        raise PermanentError(f"a put takes at most {MAX_PUT_BYTES} bytes, got {total}; put the records in parts")
    return total


def check_read_limits(max_records: int, max_bytes: int) -> None:
    """Refuse limits that let no record through.

    Raises:
        PermanentError: one is below one.
    """
    if max_records < 1 or max_bytes < 1:
        raise PermanentError(f"a read takes one record and byte at least, got {max_records=}, {max_bytes=}")


def _partition_key_bytes(place: int, key: str) -> int:
    if not 1 <= len(key) <= MAX_PARTITION_KEY_CHARACTERS:
        raise PermanentError(
            f"a partition key has 1 to {MAX_PARTITION_KEY_CHARACTERS} characters, record {place} has {len(key)}; "
            "shorten it, or give records without a natural key a constant one"
        )
    try:
        return len(key.encode())
    except UnicodeEncodeError as error:
        raise PermanentError(
            f"a partition key is text that UTF-8 can encode, record {place} has {key!a}; replace the lone surrogates"
        ) from error


def lag(stream: StreamReader, positions: Mapping[str, Position], clock: Clock) -> dict[str, int]:
    """Shard id → age in milliseconds of the oldest record after the position; 0 when there is none.

    Args:
        stream: one record of each shard is read.
        positions: shard id → last record processed; other shards are read from their oldest record.
        clock: processing time.
    """
    return {
        shard.shard_id: _behind(stream, shard.shard_id, positions.get(shard.shard_id, TRIM_HORIZON), clock)
        for shard in stream.shards()
    }


def _behind(stream: StreamReader, shard_id: str, after: Position, clock: Clock) -> int:
    try:
        read = stream.read(shard_id, after, max_records=1, max_bytes=1)
    except StateError:  # retention dropped the next record; the oldest one that is kept shows most
        read = stream.read(shard_id, TRIM_HORIZON, max_records=1, max_bytes=1)
    return max(0, clock.now_ms() - read.records[0].arrival_ms) if read.records else 0
