"""How evenly a partition key would spread events over shards, and whose events it would tear apart.

Counts are kept in a DuckDB file of their own that is thrown away at the end, so that a month of events with millions
of keys needs no more memory than a minute.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import pyarrow as pa

from shopstream.errors import ConfigurationError
from shopstream.events.codec import Decoder
from shopstream.events.sources import identify, open_blocks
from shopstream.simulation.partitioning import PartitionKey, Router, key_texts
from shopstream.stream.ports import HASH_KEY_SPACE, TRIM_HORIZON, Shard, StreamReader

__all__ = ["KeySkew", "even_shards", "events_of_file", "events_of_stream", "measure_skew"]

CANDIDATES = (PartitionKey.CATEGORY_ID, PartitionKey.PRODUCT_ID, PartitionKey.USER_ID, PartitionKey.USER_SESSION)

_BLOCK_BYTES = 8 << 20
_PARQUET_ROWS = 65_536
_READ_RECORDS = 64
_READ_BYTES = 8 << 20
_NO_ARRIVAL_MS = 253_402_300_799_000
_MEMORY = "512MB"
_HOT = 1.25  # times an even share
_HOPELESS = 1.0  # a key with more than a shard's even share cannot be spread


@dataclass(frozen=True, slots=True)
class KeySkew:
    """One candidate partition key.

    Args:
        key: its name.
        events: counted.
        keys: distinct values.
        shards: the events would go to.
        even_share: of one shard, were all alike.
        hottest_shard_share: of the shard that gets most.
        hottest_key_share: of the key value with most events.
        users: distinct ones.
        split_users: users whose events would lie in several shards.
        advice: what that means, in a sentence.
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
    """That many shards of equal hash-key ranges, as a new stream has them."""
    edges = [HASH_KEY_SPACE * index // count for index in range(count + 1)]
    return [Shard(f"shard-{index}", edges[index], edges[index + 1] - 1) for index in range(count)]


def events_of_file(location: str) -> Iterator[pa.Table]:
    """Valid events of a file, block by block."""
    decoder = Decoder()
    with open_blocks(identify(location), block_bytes=_BLOCK_BYTES, parquet_rows=_PARQUET_ROWS) as blocks:
        for block in blocks:
            yield decoder.decode([block.payload], [_NO_ARRIVAL_MS], identify=False).events


def events_of_stream(stream: StreamReader) -> Iterator[pa.Table]:
    """Valid events that the stream holds now, shard by shard."""
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
        tables: events, at least the candidates' columns.
        shards: closed ones count for nothing.

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
            f"more than {most} shard{'s' if most > 1 else ''} will not help this key."
        )
    elif shard_share > even * _HOT:
        spread = f"Uneven: the hottest shard gets {shard_share / even:.1f} times its share; provision for that one."
    else:
        spread = "Even."
    if split == 0:
        return f"{spread} Each user stays in one shard: per-user windows need no exchange between shards."
    return f"{spread} {split:.1%} of users lie in several shards: per-user windows must see all shards."
