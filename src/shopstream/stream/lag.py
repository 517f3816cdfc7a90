"""How far a consumer is behind, of any stream that can be read."""

from collections.abc import Mapping

from shopstream.clock import Clock
from shopstream.errors import StateError
from shopstream.stream.ports import TRIM_HORIZON, Position, StreamReader

__all__ = ["lag"]


def lag(stream: StreamReader, positions: Mapping[str, Position], clock: Clock) -> dict[str, int]:
    """Shard id → age in milliseconds of the oldest record after the position; 0 when there is none.

    Args:
        stream: is asked for one record of each shard.
        positions: shard id → the last one that is done; shards not named are read from their oldest record.
        clock: processing time.
    """
    return {
        shard.shard_id: _behind(stream, shard.shard_id, positions.get(shard.shard_id, TRIM_HORIZON), clock)
        for shard in stream.shards()
    }


def _behind(stream: StreamReader, shard_id: str, after: Position, clock: Clock) -> int:
    try:
        read = stream.read(shard_id, after, max_records=1, max_bytes=1)
    except StateError:  # retention dropped what was not done: then the oldest that is kept tells most
        read = stream.read(shard_id, TRIM_HORIZON, max_records=1, max_bytes=1)
    return max(0, clock.now_ms() - read.records[0].arrival_ms) if read.records else 0
