"""Reading through `SourceReader`, as the engine does, while shards are split and merged: on kinesis-local."""

import json
import threading
from collections import defaultdict
from contextlib import closing
from datetime import timedelta

import pytest

from shopstream.clock import SystemClock
from shopstream.engine.settings import EngineSettings
from shopstream.engine.source import SourceReader
from shopstream.engine.watermark import Watermarks
from shopstream.stream.aws import Pace
from shopstream.stream.ports import NewRecord
from standins.reshaping import ReshapingStream

pytestmark = pytest.mark.aws

KEYS, ROUNDS, TURNS = 10, 40, 3


@pytest.fixture
def open_stream(kinesis_local, dynamodb_local, aws_env, make_stream, make_table):
    """Opens one stream, as its writers, its reader and whoever reshapes it do."""
    aws_env(kinesis=kinesis_local, dynamodb=dynamodb_local)
    names = make_stream(2), make_table()
    pace = Pace(timedelta(milliseconds=1), timedelta(milliseconds=20))
    return lambda: ReshapingStream(*names, SystemClock(), pace=pace)


def event(key, number):
    row = {
        "event_time": f"2019-11-01T10:{number // 60:02d}:{number % 60:02d}Z",
        "event_type": "view",
        "product_id": number,
        "category_id": key,
        "user_id": key,
        "user_session": "s",
        "price": 1,
    }
    return NewRecord(json.dumps(row).encode() + b"\n", f"key-{key}")


def write(stream, due):
    """Go on while what it makes due happens."""
    for number in range(ROUNDS):
        if number and number % (ROUNDS // (TURNS + 1)) == 0:
            due.release()
        pending = [event(key, number) for key in range(KEYS)]
        while pending:
            outcomes = stream.put(pending)
            pending = [record for record, o in zip(pending, outcomes, strict=True) if o.error_code]


def reshape(stream, due):
    for turn in range(TURNS):
        due.acquire()
        opened = sorted((s for s in stream.shards() if not s.closed), key=lambda shard: shard.first_hash_key)
        if turn == TURNS - 1:
            stream.merge(opened[0].shard_id, opened[1].shard_id)
        else:
            widest = max(opened, key=lambda shard: shard.last_hash_key - shard.first_hash_key)
            stream.split(widest.shard_id, (widest.first_hash_key + widest.last_hash_key + 1) // 2)


@pytest.mark.parametrize("restarts", [0, 3], ids=["one process", "a consumer that starts again"])
def test_shards_split_and_merged_mid_stream_lose_double_and_reorder_nothing(open_stream, restarts):
    due = threading.Semaphore(0)
    writer = threading.Thread(target=write, args=(open_stream(), due))
    shaper = threading.Thread(target=reshape, args=(open_stream(), due))
    writer.start()
    shaper.start()
    settings = EngineSettings(max_drift=timedelta(days=1), batch_events=100)
    found, positions = defaultdict(list), {}
    for life in range(restarts + 1):
        stream = open_stream()
        with closing(SourceReader(stream, Watermarks(0, 60_000), settings, SystemClock(), readers=4)) as source:
            source.start_after(positions)
            for _ in range(2_000):
                batch = source.poll()
                for row in batch.decoded.events.select(["category_id", "product_id"]).to_pylist():
                    found[row["category_id"]].append(row["product_id"])
                positions |= batch.positions
                count = sum(map(len, found.values()))
                if count >= KEYS * ROUNDS * (life + 1) // (restarts + 1):
                    break
    writer.join()
    shaper.join()
    assert found == {key: list(range(ROUNDS)) for key in range(KEYS)}
    assert len({parent for shard in open_stream().shards() for parent in shard.parent_ids}) >= TURNS
