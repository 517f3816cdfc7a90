"""Which shard an event goes to, and how the events of one shard are packed into records.

The partition key's text is hashed as the stream hashes it, once for each distinct key. A record holds events of one
shard only, in their order, and names a hash key of that shard.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shopstream.errors import StateError
from shopstream.events.codec import encode_arrow
from shopstream.stream.ports import MAX_RECORD_BYTES, NewRecord, Shard, hash_key

__all__ = ["PartitionKey", "Router", "key_texts", "packed"]

_KEY_CHARACTERS = 256
_PAYLOAD_BYTES = MAX_RECORD_BYTES - 4 * _KEY_CHARACTERS  # a record's limit counts its partition key too
_COMFORTABLE = 0.9  # of a record: sizes vary from one slice to the next
_FIRST_ROWS = 16_384


class PartitionKey(StrEnum):
    """What decides on an event's shard."""

    CATEGORY_ID = "category_id"
    PRODUCT_ID = "product_id"
    USER_ID = "user_id"
    USER_SESSION = "user_session"
    RANDOM = "random"


def key_texts(events: pa.Table, key: PartitionKey) -> pa.DictionaryArray:
    """The key's text for each event, dictionary-encoded; an event without a session goes by its user.

    Args:
        events: at least the key's column and `user_id`.
        key: any but `random`, which is no property of an event.
    """
    column = events[key.value]
    if key is PartitionKey.USER_SESSION:
        column = column.cast(pa.string())
        if column.null_count:
            column = pc.coalesce(column, events["user_id"].cast(pa.string()))
    encoded = column.combine_chunks().dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices, encoded.dictionary.cast(pa.string()))


class Router:
    """Finds the open shard of a hash key.

    Args:
        shards: all shards of the stream; together the open ones cover the hash-key space.

    Raises:
        StateError: no shard is open.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = sorted((shard for shard in shards if not shard.closed), key=lambda shard: shard.first_hash_key)
        if not self.shards:
            raise StateError("expected an open shard, got none; make the stream again or reshard it")
        self._firsts = [shard.first_hash_key for shard in self.shards]
        self.ids = frozenset(shard.shard_id for shard in self.shards)

    def of(self, key: str) -> int:
        """Index into `shards` of the one that takes this key."""
        return bisect_right(self._firsts, hash_key(key)) - 1

    def of_each(self, keys: pa.DictionaryArray) -> npt.NDArray[np.int64]:
        """The same for each element; each distinct key is hashed once."""
        distinct = np.fromiter((self.of(key) for key in keys.dictionary.to_pylist()), np.int64, len(keys.dictionary))
        result: npt.NDArray[np.int64] = distinct[keys.indices.to_numpy()]
        return result


def packed(
    events: pa.Table, key: PartitionKey, router: Router, ordinals: npt.NDArray[np.int64]
) -> list[list[NewRecord]]:
    """Records for each open shard, in the order of `router.shards`.

    Args:
        events: columns of `WIRE_SCHEMA`.
        key: the partition key.
        router: of the stream the records are for.
        ordinals: each event's place in the replay; deals events out to shards where the key is `random`, the same way
            when a part is sent again.
    """
    if key is PartitionKey.RANDOM:
        keys = None
        shards = ordinals % len(router.shards)
    else:
        keys = key_texts(events, key)
        shards = router.of_each(keys)
    order = np.argsort(shards, kind="stable")
    edges = np.searchsorted(shards[order], np.arange(len(router.shards) + 1))
    if len(router.shards) > 1:
        events = events.take(pa.array(order))
    queues: list[list[NewRecord]] = []
    for index, shard in enumerate(router.shards):
        low, high = int(edges[index]), int(edges[index + 1])
        if low == high:
            queues.append([])
            continue
        text = str(keys[int(order[low])]) if keys is not None else shard.shard_id
        place = hash_key(text) if keys is not None else shard.first_hash_key
        queues.append(
            [NewRecord(payload, text[:_KEY_CHARACTERS], place) for payload in _payloads(events.slice(low, high - low))]
        )
    return queues


def _payloads(events: pa.Table) -> Iterator[bytes]:
    """Encoded slices, each within a record's limit."""
    start, rows = 0, min(_FIRST_ROWS, len(events))
    while start < len(events):
        payload = encode_arrow(events.slice(start, rows))
        taken = min(rows, len(events) - start)
        if len(payload) > _PAYLOAD_BYTES and taken > 1:
            rows = max(1, taken // 2)
            continue
        yield payload
        start += taken
        rows = max(1, int(taken * _PAYLOAD_BYTES * _COMFORTABLE / len(payload)))
