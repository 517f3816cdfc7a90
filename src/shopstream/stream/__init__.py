"""How events travel: records in shards, written once and read by any number of consumers."""

from importlib import import_module
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from shopstream.stream.embedded import EmbeddedStream
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

# Functions that get records handed to them need no store of streams.
_HOMES = {"EmbeddedStream": "embedded", "ShardStatus": "status", "StreamStatus": "status"}


def __getattr__(name: str) -> object:
    """Load a public name from its module when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
