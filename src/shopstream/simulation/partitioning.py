"""Partition keys: routes events to shards, packs the events of a shard into records, and measures key skew.

The text of the partition key is hashed as the stream hashes it, once per distinct key. A record holds events of one
shard only, in their order, with a hash key of that shard. Skew is counted in a temporary DuckDB file, so that a month
of events with millions of keys needs no more memory than a minute.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shopstream.errors import ConfigurationError, StateError
from shopstream.events.arrow_ipc import encode_arrow
from shopstream.events.codec import Decoder
from shopstream.events.sources import identify, open_blocks
from shopstream.stream.ports import (
    HASH_KEY_SPACE,
    MAX_RECORD_BYTES,
    TRIM_HORIZON,
    NewRecord,
    Shard,
    StreamReader,
    hash_key,
)

_KEY_CHARACTERS = 256
_PAYLOAD_BYTES = MAX_RECORD_BYTES - 4 * _KEY_CHARACTERS  # the limit of a record includes its partition key
_COMFORTABLE = 0.9  # of a record, because sizes vary from slice to slice
_FIRST_ROWS = 16_384


class PartitionKey(StrEnum):
    """What selects the shard of an event."""

    CATEGORY_ID = "category_id"
    PRODUCT_ID = "product_id"
    USER_ID = "user_id"
    USER_SESSION = "user_session"
    RANDOM = "random"


def key_texts(events: pa.Table, key: PartitionKey) -> pa.DictionaryArray:
    """The key's text for each event, dictionary-encoded; the user id for events without a session.

    Args:
        events: at least the key's column and `user_id`.
        key: any key except `random`.
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
        """Index in `shards` for a key."""
        return bisect_right(self._firsts, hash_key(key)) - 1

    def of_each(self, keys: pa.DictionaryArray) -> npt.NDArray[np.int64]:
        """Index in `shards` for each key; each distinct key is hashed once."""
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
        router: router of the stream.
        ordinals: number of each event in the replay; selects the shard for the key `random`, also when a part is sent
            again.
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
    """Encoded slices within the limit of a record."""
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


CANDIDATES = (PartitionKey.CATEGORY_ID, PartitionKey.PRODUCT_ID, PartitionKey.USER_ID, PartitionKey.USER_SESSION)

_BLOCK_BYTES = 8 << 20
_PARQUET_ROWS = 65_536
_READ_RECORDS = 64
_READ_BYTES = 8 << 20
_NO_ARRIVAL_MS = 253_402_300_799_000
_MEMORY = "512MB"
_HOT = 1.25  # times an even share
_HOPELESS = 1.0  # a key above the even share of a shard cannot be spread


@dataclass(frozen=True, slots=True)
class KeySkew:
    """Skew of one candidate partition key.

    Args:
        key: its name.
        events, keys, users: number of events, distinct keys and distinct users.
        shards: number of shards.
        even_share: share of events per shard if all were equal.
        hottest_shard_share: share of the shard with most events.
        hottest_key_share: share of the key with most events.
        split_users: users with events in several shards.
        advice: conclusion, in a sentence.
    """

    key: PartitionKey
    events: int
    keys: int
    shards: int
    even_share: float
    hottest_shard_share: float
    hottest_key_share: float
    users: int
    split_users: int
    advice: str


def even_shards(count: int) -> list[Shard]:
    """Shards of equal hash-key ranges, as in a new stream."""
    edges = [HASH_KEY_SPACE * index // count for index in range(count + 1)]
    return [Shard(f"shard-{index}", edges[index], edges[index + 1] - 1) for index in range(count)]


def events_of_file(location: str) -> Iterator[pa.Table]:
    """Valid events of a file, block by block."""
    decoder = Decoder()
    with open_blocks(identify(location), block_bytes=_BLOCK_BYTES, parquet_rows=_PARQUET_ROWS) as blocks:
        for block in blocks:
            yield decoder.decode([block.payload], [_NO_ARRIVAL_MS], identify=False).events


def events_of_stream(stream: StreamReader) -> Iterator[pa.Table]:
    """Valid events in the stream now, shard by shard."""
    decoder = Decoder()
    for shard in stream.shards():
        position = TRIM_HORIZON
        while True:
            batch = stream.read(shard.shard_id, position, max_records=_READ_RECORDS, max_bytes=_READ_BYTES)
            if not batch.records:
                break
            position = batch.position
            payloads = [record.payload for record in batch.records]
            yield decoder.decode(payloads, [_NO_ARRIVAL_MS] * len(payloads), identify=False).events


def measure_skew(tables: Iterable[pa.Table], shards: Sequence[Shard]) -> list[KeySkew]:
    """Skew of each candidate key over these shards.

    Args:
        tables: events, with at least the columns of the candidates.
        shards: closed shards are ignored.

    Raises:
        ConfigurationError: there are no events.
    """
    router = Router(shards)
    per_shard = {key: np.zeros(len(router.shards), dtype=np.int64) for key in CANDIDATES}
    with TemporaryDirectory(prefix="shopstream-skew-") as folder, _store(Path(folder)) as sql:
        for events in tables:
            if not len(events):
                continue
            columns: dict[str, pa.Array] = {"user_id": events["user_id"]}
            for key in CANDIDATES:
                texts = key_texts(events, key)
                places = router.of_each(texts)
                per_shard[key] += np.bincount(places, minlength=len(router.shards))
                columns[key.value + "_shard"] = pa.array(places)
                counts = sql.from_arrow(pa.table({"text": texts}))
                counts.aggregate("text::VARCHAR AS text, count(*) AS events").insert_into(f"{key.value}_counts")
            sql.from_arrow(pa.table(columns)).aggregate(_USER_SPANS, "user_id").insert_into("users")
        total = int(per_shard[CANDIDATES[0]].sum())
        if not total:
            raise ConfigurationError("expected events to measure, got none; name a file or stream that holds some")
        users, *split = sql.execute(_USERS).fetchone() or (0,)
        return [
            _skew(sql, key, per_shard[key], int(users), int(torn)) for key, torn in zip(CANDIDATES, split, strict=True)
        ]


_USER_SPANS = "user_id, " + ", ".join(
    f"min({key.value}_shard) AS {key.value}_low, max({key.value}_shard) AS {key.value}_high" for key in CANDIDATES
)
_USERS = (
    "SELECT count(*), "
    + ", ".join(f"count(*) FILTER (low_{key.value} < high_{key.value})" for key in CANDIDATES)
    + " FROM (SELECT "
    + ", ".join(
        f"min({key.value}_low) AS low_{key.value}, max({key.value}_high) AS high_{key.value}" for key in CANDIDATES
    )
    + " FROM users GROUP BY user_id)"
)


def _store(folder: Path) -> duckdb.DuckDBPyConnection:
    sql = duckdb.connect(folder / "counts.duckdb", config={"memory_limit": _MEMORY, "temp_directory": str(folder)})
    spans = ", ".join(f"{key.value}_low BIGINT, {key.value}_high BIGINT" for key in CANDIDATES)
    sql.execute(f"CREATE TABLE users (user_id BIGINT, {spans})")
    for key in CANDIDATES:
        sql.execute(f"CREATE TABLE {key.value}_counts (text VARCHAR, events BIGINT)")
    return sql


def _skew(
    sql: duckdb.DuckDBPyConnection, key: PartitionKey, per_shard: np.ndarray, users: int, split_users: int
) -> KeySkew:
    keys, hottest = sql.execute(
        f"SELECT count(*), max(events) FROM (SELECT sum(events) AS events FROM {key.value}_counts GROUP BY text)"
    ).fetchone() or (0, 0)
    events = int(per_shard.sum())
    even = 1 / len(per_shard)
    shard_share, key_share = int(per_shard.max()) / events, int(hottest) / events
    return KeySkew(
        key=key,
        events=events,
        keys=int(keys),
        shards=len(per_shard),
        even_share=even,
        hottest_shard_share=shard_share,
        hottest_key_share=key_share,
        users=users,
        split_users=split_users,
        advice=_advice(even, shard_share, key_share, split_users / users),
    )


def _advice(even: float, shard_share: float, key_share: float, split: float) -> str:
    if key_share > even * _HOPELESS and even < 1:
        most = max(1, int(1 / key_share))
        spread = (
            f"Hot: one value alone holds {key_share:.0%} of events, more than a shard's even share of {even:.0%}; "
            f"more than {most} shard{'s' if most > 1 else ''} will not raise the throughput of this key."
        )
    elif shard_share > even * _HOT:
        spread = f"Uneven: the hottest shard gets {shard_share / even:.1f} times its share; provision for that one."
    else:
        spread = "Even."
    if split == 0:
        return f"{spread} Each user stays in one shard: per-user windows need no exchange between shards."
    return f"{spread} {split:.1%} of users lie in several shards: per-user windows must see all shards."
