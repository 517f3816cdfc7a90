"""Shards of a Kinesis stream, as ListShards tells them."""

from collections.abc import Mapping, Sequence
from typing import Any

from shopstream.stream.ports import Shard

__all__ = ["listed", "shard_number"]


def listed(items: Sequence[Mapping[str, Any]]) -> list[Shard]:
    """All shards, parents before children: their numbers count up as they are made.

    A parent that retention removed from the list is no longer named by its children.
    """
    known = {item["ShardId"] for item in items}
    shards = []
    for item in sorted(items, key=lambda item: shard_number(item["ShardId"])):
        bounds = item["HashKeyRange"]
        parents = (item.get("ParentShardId"), item.get("AdjacentParentShardId"))
        shards.append(
            Shard(
                shard_id=item["ShardId"],
                first_hash_key=int(bounds["StartingHashKey"]),
                last_hash_key=int(bounds["EndingHashKey"]),
                parent_ids=tuple(str(parent) for parent in parents if parent in known),
                closed="EndingSequenceNumber" in item["SequenceNumberRange"],
            )
        )
    return shards


def shard_number(shard_id: str) -> int:
    """The number in a shard id such as shardId-000000000007; -1 for a text that is no shard id."""
    digits = shard_id.removeprefix("shardId-")
    return int(digits) if digits.isdecimal() and digits != shard_id else -1
