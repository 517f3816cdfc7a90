"""The lakehouse after a crash: killed at each step of append, compaction and expiry, and at random moments."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.ports import LakeTable
from shopstream.lakehouse.settings import LakehouseSettings
from shopstream.lakehouse.tables import create_views

WRITER = Path(__file__).with_name("lake_writer.py")
EVENTS = LakeTable.EVENTS
ROWS = 60

STEPS = [
    "before the rows are written",
    "after the rows are written",
    "before the metadata is written",
    "between metadata and catalog",
    "after the catalog",
    "after files are merged",
    "before files are deleted",
    "between deletions",
    "between forgetting and deletion",
]


@pytest.fixture
def template(tmp_path, lake_events):
    """Rows of two days: a commit has two files."""
    rows = pa.concat_tables([lake_events(0, ROWS // 2), lake_events(0, ROWS // 2, start_ms=1_572_652_800_000)])
    path = tmp_path / "rows.parquet"
    pq.write_table(rows, path)
    return path


def start(folder, template, *step):
    writer = subprocess.Popen(
        [sys.executable, str(WRITER), str(folder), str(template), *map(str, step)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout.readline() == "ready\n"
    return writer


def last_committed(writer):
    """The last commit that the writer told of before it died."""
    lines = writer.communicate()[0].split("\n")
    assert writer.returncode == -signal.SIGKILL
    told = [int(line.split()[1]) for line in lines if line.startswith("committed ")]
    return told[-1] if told else -1


def check(folder, at_least):
    """Readable, each commit whole or not there, positions as the rows; returns the last commit that is there."""
    lakehouse = EmbeddedLakehouse(folder, LakehouseSettings(keep_snapshots=4))
    newest = lakehouse.positions(EVENTS).get("shard-0", -1)
    assert newest >= at_least
    with duckdb.connect() as connection:
        create_views(connection, lakehouse)
        rows = Counter(dict(connection.execute("SELECT user_id, count(*) FROM events GROUP BY 1").fetchall()))
    assert rows == Counter(dict.fromkeys(range(newest + 1), ROWS))
    for snapshot in lakehouse.catalog.load(EVENTS).snapshots():
        kept = lakehouse.catalog.load(EVENTS).scan(snapshot_id=snapshot.snapshot_id).to_arrow()
        assert set(Counter(kept["user_id"].to_pylist()).values()) <= {ROWS}
    return newest


def check_tidy(folder):
    """Whatever the crashes left can be removed, and nothing else goes."""
    lakehouse = EmbeddedLakehouse(folder)
    lakehouse.orphans(EVENTS, timedelta(0), delete=True)
    lakehouse.compact(EVENTS)
    lakehouse.expire(EVENTS, 1)
    data = {str(path) for path in Path(lakehouse.catalog.location(EVENTS)).rglob("*.parquet")}
    assert data == set(lakehouse.data_files(EVENTS))
    assert lakehouse.orphans(EVENTS, timedelta(0), delete=False) == []


def kill_at_step(folder, template, step, count):
    newest = check(folder, last_committed(start(folder, template, step, count)))
    check_tidy(folder)
    check(folder, newest)


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_leaves_whole_commits(tmp_path, template, step):
    kill_at_step(tmp_path / "lake", template, step, 2)


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("count", [1, 3, 5, 8])
def test_a_kill_at_any_turn_of_any_step_leaves_whole_commits(tmp_path, template, step, count):
    kill_at_step(tmp_path / "lake", template, step, count)


def kill_at_random(folder, template, times, seed):
    chance = random.Random(seed)  # noqa: S311  moments, not secrets
    newest = -1
    for _ in range(times):
        writer = start(folder, template)
        time.sleep(chance.uniform(0, 1.5))
        writer.kill()
        newest = check(folder, max(newest, last_committed(writer)))
    check_tidy(folder)
    check(folder, newest)
    assert newest > 0


def test_kills_at_random_moments_leave_whole_commits(tmp_path, template):
    kill_at_random(tmp_path / "lake", template, 3, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_at_random_moments_leave_whole_commits(tmp_path, template):
    kill_at_random(tmp_path / "lake", template, 50, seed=2)
