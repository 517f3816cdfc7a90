"""What a stream is, whoever keeps it: shaped so that Kinesis Data Streams and the embedded log both fit.

A record's payload holds one or many encoded events (see `events.codec`). A writer that aggregates puts only events
of one shard into one record and sets `explicit_hash_key`. Sequence numbers grow within a shard and mean nothing
across shards. A resharded stream keeps its closed parents: read a parent to its end before its children.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import md5
from types import TracebackType
from typing import Protocol, Self

__all__ = [
    "HASH_KEY_SPACE",
    "MAX_PUT_BYTES",
    "MAX_PUT_RECORDS",
    "MAX_RECORD_BYTES",
    "TRIM_HORIZON",
    "ConsumerPositions",
    "NewRecord",
    "Position",
    "PutOutcome",
    "ReadBatch",
    "Record",
    "Shard",
    "Stream",
    "StreamAdmin",
    "StreamReader",
    "StreamWriter",
    "hash_key",
]

HASH_KEY_SPACE = 1 << 128
MAX_RECORD_BYTES = 1 << 20
MAX_PUT_RECORDS = 500
MAX_PUT_BYTES = 5 << 20

Position = int
"""Sequence number of the last record that was taken; reading goes on after it."""

TRIM_HORIZON: Position = -1
"""Before the oldest record that is still kept."""


def hash_key(partition_key: str) -> int:
    """Place of a partition key in the hash-key space: MD5 of its UTF-8 bytes, as Kinesis has it."""
    return int.from_bytes(md5(partition_key.encode(), usedforsecurity=False).digest())


@dataclass(frozen=True, slots=True)
class Shard:
    """A slice of the stream: it takes records whose hash key lies in [first_hash_key, last_hash_key]."""

    shard_id: str
    first_hash_key: int
    last_hash_key: int
    parent_ids: tuple[str, ...] = ()
    closed: bool = False


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record on its way in."""

    payload: bytes
    partition_key: str
    explicit_hash_key: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A record as the stream keeps it; `arrival_ms` is the stream's clock in epoch milliseconds."""

    payload: bytes
    partition_key: str
    shard_id: str
    sequence_number: Position
    arrival_ms: int


@dataclass(frozen=True, slots=True)
class PutOutcome:
    """What became of one record of a put: its place, or an error code with its message (then retry this one)."""

    shard_id: str | None = None
    sequence_number: Position | None = None
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class ReadBatch:
    """Records in order, where to go on, how far behind the tip, and whether a closed shard is read to its end."""

    records: tuple[Record, ...]
    position: Position
    behind_ms: int
    ended: bool


class StreamWriter(Protocol):
    """Takes records."""

    def put(self, records: Sequence[NewRecord]) -> list[PutOutcome]:
        """Append up to MAX_PUT_RECORDS records of MAX_PUT_BYTES together; one outcome each, in order.

        Raises:
            BackpressureError: nothing was taken; call again after `retry_after`.
            PermanentError: a record or the whole call is over a limit.
        """
        ...


class StreamReader(Protocol):
    """Gives records back, to any number of independent consumers."""

    def shards(self) -> list[Shard]:
        """All shards that still hold records or may get some, parents before children.

        A closed one may be missing once retention has dropped its records; `read` tells whether a consumer lost some.
        """
        ...

    def read(self, shard_id: str, after: Position, *, max_records: int, max_bytes: int) -> ReadBatch:
        """Records after a position, never none of several because the first is larger than `max_bytes`.

        A shard that retention removed from the list is at its end, unless records after the position went with it.

        Raises:
            StateError: no such shard, or `after` was trimmed by retention (records would be skipped silently).
        """
        ...


class StreamAdmin(Protocol):
    """Makes and reshapes a stream."""

    def split(self, shard_id: str, at_hash_key: int) -> tuple[str, str]:
        """Close a shard; its children take [first, at-1] and [at, last]."""
        ...

    def merge(self, shard_id: str, other_shard_id: str) -> str:
        """Close two adjacent shards; one child takes both ranges."""
        ...


class ConsumerPositions(Protocol):
    """Remembers by name how far each consumer has come, for those without a checkpoint of their own."""

    def positions(self, consumer: str) -> dict[str, Position]:
        """Shard id → position last committed; a shard the consumer never committed is absent (TRIM_HORIZON)."""
        ...

    def commit(self, consumer: str, positions: Mapping[str, Position]) -> None:
        """Remember these positions, all or none; shards not named keep theirs. Going back is allowed: a re-read.

        Raises:
            StateError: no such shard.
        """
        ...


class Stream(StreamWriter, StreamReader, StreamAdmin, ConsumerPositions, Protocol):
    """All of it; a context manager that gives it back at the end."""

    def __enter__(self) -> Self:
        """The stream itself."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Give it back."""
        ...
