"""A Kinesis stream that tests split and merge; shopstream itself leaves that to AWS."""

import time

from shopstream.errors import PermanentError, StateError
from shopstream.stream.aws import KinesisStream


class ReshapingStream(KinesisStream):
    """`split` and `merge` as the embedded stream has them; both return once the stream is active again."""

    def split(self, shard_id, at_hash_key):
        shard = self._open_shard(shard_id)
        if not shard.first_hash_key < at_hash_key <= shard.last_hash_key:
            raise PermanentError(f"{shard_id} cannot be split at {at_hash_key}")
        self._kinesis.split_shard(StreamName=self.name, ShardToSplit=shard_id, NewStartingHashKey=str(at_hash_key))
        lower, upper = self._children({shard_id}, 2)
        return lower.shard_id, upper.shard_id

    def merge(self, shard_id, other_shard_id):
        shards = sorted(map(self._open_shard, (shard_id, other_shard_id)), key=lambda shard: shard.first_hash_key)
        lower, upper = shards
        if lower.last_hash_key + 1 != upper.first_hash_key:
            raise PermanentError(f"{shard_id} and {other_shard_id} are not adjacent")
        self._kinesis.merge_shards(
            StreamName=self.name, ShardToMerge=lower.shard_id, AdjacentShardToMerge=upper.shard_id
        )
        (child,) = self._children({shard_id, other_shard_id}, 1)
        return child.shard_id

    def _open_shard(self, shard_id):
        self._shards_until = -1.0
        shard = self._shard(shard_id)
        if shard.closed:
            raise StateError(f"{shard_id} is closed")
        return shard

    def _children(self, parents, count):
        for _ in range(600):
            self._shards_until = -1.0
            summary = self._kinesis.describe_stream_summary(StreamName=self.name)["StreamDescriptionSummary"]
            children = [shard for shard in self.shards() if set(shard.parent_ids) == parents]
            if summary["StreamStatus"] == "ACTIVE" and len(children) == count:
                return sorted(children, key=lambda shard: shard.first_hash_key)
            time.sleep(0.05)
        raise AssertionError(f"the children of {parents} do not appear")
