"""One stream, and what an undisturbed pipeline makes of it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recovery.pipelines import EVENTS, SEED, SHARDS, Processes, arriving_events, new_home, outcome
from shopstream.clock import SystemClock
from shopstream.events.arrow_ipc import encode_arrow
from shopstream.events.schema import WIRE_SCHEMA
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import NewRecord
from shopstream.stream.settings import StreamSettings


@pytest.fixture(scope="module")
def stream_file(tmp_path_factory) -> Path:
    """A stream of events, duplicates, late events and lines that are none."""
    path = tmp_path_factory.mktemp("stream") / "stream.db"
    chance = np.random.default_rng(SEED)
    with EmbeddedStream.open(path, StreamSettings(shards=SHARDS), SystemClock()) as stream:
        shards = stream.shards()
        events = arriving_events(chance)
        for first in range(0, len(events), 500):
            part = events[first : first + 500]
            for number, shard in enumerate(shards):
                rows = [
                    {k: v for k, v in row.items() if k != "arrives"}
                    for row in part
                    if row["category_id"] % SHARDS == number
                ]
                payload = encode_arrow(pa.Table.from_pylist(rows, schema=WIRE_SCHEMA))
                stream.put([NewRecord(payload, "k", shard.first_hash_key)])
            stream.put([NewRecord(b"no event %d\n" % first, "k", shards[first % SHARDS].first_hash_key)])
    return path


@pytest.fixture(scope="module")
def processes():
    server = Processes()
    yield server
    server.close()


@pytest.fixture(scope="module")
def undisturbed(stream_file, processes, tmp_path_factory) -> dict:
    """What a run without a kill gives."""
    home = new_home(tmp_path_factory.mktemp("undisturbed"), stream_file)
    assert processes.run(home) == 0
    result = outcome(home)
    assert result["counters"]["events_read"] == EVENTS + 300 + result["counters"]["dead_letters"]
    assert result["counters"]["duplicates"] >= 290
    assert result["counters"]["late"] > 100
    assert len(result["incidents"]) >= 10
    assert len(result["dead_letters"]) == 25
    assert result["remembered"] > 100
    return result
