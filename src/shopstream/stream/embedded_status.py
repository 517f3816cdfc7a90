"""What the embedded stream holds and how far its consumers lag, answered without reading payloads."""

from collections.abc import Mapping
from dataclasses import dataclass
from sqlite3 import Connection

from shopstream.stream.ports import TRIM_HORIZON, Position
from shopstream.stream.topology import shard_id_of, shard_number_of

__all__ = ["ShardStatus", "StreamStatus", "oldest_unread_ms", "shard_statuses"]


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """What one shard holds; `bytes` are payloads; arrivals are epoch milliseconds, None without records."""

    shard_id: str
    closed: bool
    records: int
    bytes: int
    oldest_arrival_ms: int | None
    newest_arrival_ms: int | None
    newest_position: Position


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """What the stream holds and the disk it takes, the log of changes included."""

    shards: tuple[ShardStatus, ...]
    records: int
    bytes: int
    disk_bytes: int
    max_bytes: int


def shard_statuses(connection: Connection) -> tuple[ShardStatus, ...]:
    """Open shards, and closed ones that hold records, in the order they were made."""
    rows = connection.execute(
        "SELECT shard_no, closed_ms IS NOT NULL, records, bytes,"
        " (SELECT arrival_ms FROM record WHERE record.shard_no = shard.shard_no ORDER BY sequence_number LIMIT 1),"
        " newest_arrival_ms, newest_sequence FROM shard WHERE closed_ms IS NULL OR records > 0 ORDER BY shard_no"
    )
    return tuple(
        ShardStatus(shard_id_of(number), bool(closed), records, size, oldest, newest if records else None, position)
        for number, closed, records, size, oldest, newest, position in rows
    )


def oldest_unread_ms(connection: Connection, committed: Mapping[str, Position]) -> dict[str, int | None]:
    """Shard id → arrival of the oldest record after the committed position, None where all are read."""
    return {
        shard.shard_id: next(
            (
                arrival
                for (arrival,) in connection.execute(
                    "SELECT arrival_ms FROM record WHERE sequence_number > ? AND shard_no = ?"
                    " ORDER BY sequence_number LIMIT 1",
                    (committed.get(shard.shard_id, TRIM_HORIZON), shard_number_of(shard.shard_id)),
                )
            ),
            None,
        )
        for shard in shard_statuses(connection)
    }
