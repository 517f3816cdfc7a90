"""Which shard takes which hash key, in the embedded stream's file: numbers and ids, routes, lineage."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Any

from shopstream.errors import StateError
from shopstream.stream.ports import HASH_KEY_SPACE, NewRecord, Position, Shard, hash_key

__all__ = [
    "Routes",
    "first_rows",
    "listed_shards",
    "one_shard",
    "open_range",
    "reshape",
    "shard_id_of",
    "shard_number_of",
]

_SHARD_ID = re.compile(r"shardId-(\d{12})")

_INSERT_SHARD = (
    "INSERT INTO shard (shard_no, first_hash_key, last_hash_key, parents, newest_sequence, trimmed_sequence)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, slots=True)
class Routes:
    """Which shard takes which hash key; valid for one shape of the stream."""

    shape: int
    first_hash_keys: list[int]
    shard_numbers: list[int]

    @classmethod
    def read(cls, connection: Connection, shape: int) -> "Routes":
        """Routes as the file has them now."""
        rows = connection.execute(
            "SELECT first_hash_key, shard_no FROM shard WHERE closed_ms IS NULL ORDER BY first_hash_key"
        ).fetchall()
        return cls(shape, [int(first, 16) for first, _ in rows], [number for _, number in rows])

    def shard_of(self, record: NewRecord) -> int:
        """Number of the open shard that takes the record."""
        key = hash_key(record.partition_key) if record.explicit_hash_key is None else record.explicit_hash_key
        return self.shard_numbers[bisect_right(self.first_hash_keys, key) - 1]


def first_rows(shards: int, start: Position) -> list[tuple[str, tuple[object, ...]]]:
    """Statements and values that make a new stream of equal shards, whose sequence numbers come after `start`."""
    bounds = [HASH_KEY_SPACE * i // shards for i in range(shards + 1)]
    rows: list[tuple[str, tuple[object, ...]]] = [
        (_INSERT_SHARD, (number, _hex(bounds[number]), _hex(bounds[number + 1] - 1), "", start, start))
        for number in range(shards)
    ]
    return [("INSERT INTO stream VALUES (?, 0, 0)", (start,)), *rows]


def shard_id_of(number: int) -> str:
    """The id that users see, shaped as Kinesis has it."""
    return f"shardId-{number:012d}"


def shard_number_of(shard_id: str) -> int:
    """The number in a shard id; -1, which no shard has, for a text that is no such id."""
    match = _SHARD_ID.fullmatch(shard_id)
    return int(match[1]) if match else -1


def listed_shards(connection: Connection, closed_since_ms: int) -> list[Shard]:
    """Open shards, and closed ones with records or closed since then, in the order they were made."""
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
