"""How events travel: records in shards, written once and read by any number of consumers."""

from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import (
    TRIM_HORIZON,
    ConsumerPositions,
    NewRecord,
    Position,
    PutOutcome,
    ReadBatch,
    Record,
    Shard,
    StreamAdmin,
    StreamReader,
    StreamWriter,
)
from shopstream.stream.settings import StreamSettings
from shopstream.stream.status import ShardStatus, StreamStatus

__all__ = [
    "TRIM_HORIZON",
    "ConsumerPositions",
    "EmbeddedStream",
    "NewRecord",
    "Position",
    "PutOutcome",
    "ReadBatch",
    "Record",
    "Shard",
    "ShardStatus",
    "StreamAdmin",
    "StreamReader",
    "StreamSettings",
    "StreamStatus",
    "StreamWriter",
]
