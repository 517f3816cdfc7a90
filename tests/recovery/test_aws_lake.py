"""The lake on S3 when AWS, the network or a process fails in the middle: nothing lost, nothing twice, a clear error."""

import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from shopstream.errors import ConfigurationError, RetryableError, StateError
from shopstream.lakehouse import catalog, maintenance
from shopstream.lakehouse.aws import AwsLakehouse
from shopstream.lakehouse.catalog import OutcomeUnknownError
from shopstream.lakehouse.ports import LakeTable
from shopstream.lakehouse.settings import GlueSettings, LakehouseSettings
from shopstream.lakehouse.tables import create_views
from standins import faults

pytestmark = pytest.mark.aws

EVENTS = LakeTable.EVENTS
WRITER = Path(__file__).with_name("aws_lake_writer.py")


@pytest.fixture
def glue(aws_env, moto, make_bucket, fresh_name):
    aws_env(default=moto)
    return GlueSettings(warehouse=f"s3://{make_bucket()}/lake", database=fresh_name("lake").replace("-", "_"))


@pytest.fixture
def proxy(glue, aws_env, fault_proxy, moto):  # noqa: ARG001  the bucket is made past the proxy
    proxy = fault_proxy(moto)
    aws_env(default=proxy.url)
    return proxy


@pytest.fixture
def lake(proxy, glue):  # noqa: ARG001  what is opened talks to the proxy
    with closing(AwsLakehouse(LakehouseSettings(), glue)) as lakehouse:
        yield lakehouse


def numbers_of(lakehouse):
    with duckdb.connect() as connection:
        create_views(connection, lakehouse)
        return [number for (number,) in connection.execute("SELECT user_id FROM events ORDER BY 1").fetchall()]


def parquet_of(lakehouse):
    listing = lakehouse.catalog.storage.listing(lakehouse.catalog.location(EVENTS))
    return sorted(location for location, _ in listing if location.endswith(".parquet"))


@pytest.mark.parametrize("fault", ["lost_answer", "lost_request", "failing", "throttled"])
def test_a_commit_whose_answer_is_lost_or_an_error_happens_once(lake, proxy, lake_events, fault):
    proxy.on("UpdateTable", getattr(faults, fault)(), times=2)
    lake.append(EVENTS, lake_events(0, 10), {"a": 1}, after={})
    lake.append(EVENTS, lake_events(10, 10), {"a": 2}, after={"a": 1})
    assert numbers_of(lake) == list(range(20))
    assert lake.positions(EVENTS) == {"a": 2}
    assert parquet_of(lake) == sorted(lake.data_files(EVENTS))


def test_a_commit_that_glue_reports_as_timed_out_happens_once(lake, proxy, lake_events):
    def timed_out(call, forward):
        forward(call)
        return call.error("OperationTimeoutException", "The operation timed out.", 400)

    proxy.on("UpdateTable", timed_out, times=1)
    lake.append(EVENTS, lake_events(0, 10), {"a": 1}, after={})
    assert numbers_of(lake) == list(range(10))


def test_a_commit_of_unknown_outcome_is_reported_and_keeps_its_files(lake, proxy, lake_events, monkeypatch):
    monkeypatch.setattr(catalog, "_COMMIT_PATIENCE_S", 0.01)
    proxy.on("UpdateTable", faults.lost_answer(), times=1)
    with pytest.raises(OutcomeUnknownError, match="compare the positions"):
        lake.append(EVENTS, lake_events(0, 10), {"a": 1})
    assert lake.positions(EVENTS) == {"a": 1}
    assert numbers_of(lake) == list(range(10))


def test_a_commit_that_was_lost_while_another_writer_went_on_is_not_made_twice(lake, proxy, glue, lake_events):
    def lost_and_overtaken(call, forward):
        forward(call)
        with closing(AwsLakehouse(LakehouseSettings(), glue)) as other:
            other.append(EVENTS, lake_events(10, 10), {"b": 1})

    proxy.on("UpdateTable", lost_and_overtaken, times=1)
    lake.append(EVENTS, lake_events(0, 10), {"a": 1})
    assert numbers_of(lake) == list(range(20))
    assert lake.positions(EVENTS) == {"a": 1, "b": 1}


@pytest.mark.parametrize("operation", ["PutObject", "UpdateTable"])
def test_a_missing_permission_is_named_and_nothing_is_kept(lake, proxy, lake_events, operation):
    lake.append(EVENTS, lake_events(0, 10), {"a": 1})
    proxy.on(operation, faults.denied())
    with pytest.raises(ConfigurationError, match=r"denies permission .* grant it"):
        lake.append(EVENTS, lake_events(10, 10), {"a": 2})
    assert lake.positions(EVENTS) == {"a": 1}
    assert parquet_of(lake) == sorted(lake.data_files(EVENTS))


def test_a_missing_permission_to_read_is_named(lake, proxy):
    proxy.on("GetObject", faults.denied())
    with pytest.raises(ConfigurationError, match="denies permission"):
        lake.positions(EVENTS)


def test_a_wrong_clock_is_named(lake, proxy):
    proxy.on("GetTable", faults.skewed())
    with pytest.raises(ConfigurationError, match="clock"):
        lake.positions(EVENTS)


@pytest.mark.parametrize("operation", ["PutObject", "GetObject"])
@pytest.mark.parametrize("fault", ["throttled", "failing", "lost_request"])
def test_throttled_or_failing_s3_is_retried(lake, proxy, lake_events, operation, fault):
    proxy.on(operation, getattr(faults, fault)(), times=2)
    lake.append(EVENTS, lake_events(0, 10), {"a": 1})
    assert numbers_of(lake) == list(range(10))
    assert parquet_of(lake) == sorted(lake.data_files(EVENTS))


def test_a_bucket_that_is_not_there_is_named(proxy, glue, fresh_name):  # noqa: ARG001  as above
    elsewhere = glue.model_copy(update={"warehouse": f"s3://{fresh_name('none')}/lake", "database": "elsewhere"})
    with pytest.raises(StateError, match="bucket"):
        AwsLakehouse(LakehouseSettings(), elsewhere)


def test_without_a_place_the_setting_is_named():
    with pytest.raises(ConfigurationError, match=r"aws\.glue\.warehouse"):
        AwsLakehouse(LakehouseSettings(), GlueSettings())


def test_orphans_of_a_commit_that_was_cut_short_are_found_and_removed(lake, lake_events):
    lake.append(EVENTS, lake_events(0, 10), {"a": 1})
    (left,) = lake.write(EVENTS, lake_events(10, 10))
    assert lake.orphans(EVENTS, delete=True) == []
    assert lake.orphans(EVENTS, timedelta(seconds=-5), delete=True) == [left]
    assert lake.orphans(EVENTS, timedelta(seconds=-5), delete=False) == []
    assert numbers_of(lake) == list(range(10))


def test_two_concurrent_compactions_keep_every_row_once(lake, glue, lake_events, monkeypatch):
    for turn in range(4):
        lake.append(EVENTS, lake_events(turn * 10, 10), {"a": turn})
    merge = maintenance._merge

    def overtaken(*args):
        merge(*args)
        monkeypatch.setattr(maintenance, "_merge", merge)
        with closing(AwsLakehouse(LakehouseSettings(), glue)) as other:
            assert other.compact(EVENTS) == 3

    monkeypatch.setattr(maintenance, "_merge", overtaken)
    with pytest.raises(RetryableError, match="another program replaced files"):
        lake.compact(EVENTS)
    assert numbers_of(lake) == list(range(40))
    assert len(lake.data_files(EVENTS)) == 1
    lake.expire(EVENTS, 1)
    assert parquet_of(lake) == lake.data_files(EVENTS)


def start(glue, template, shard, commits, step=""):
    command = [sys.executable, WRITER, glue.warehouse, glue.database, template, shard, str(commits), step]
    process = subprocess.Popen(
        [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process):
    with process:
        process.communicate("go\n", timeout=120)
    return process.returncode


@pytest.fixture
def template(tmp_path, lake_events):
    pq.write_table(lake_events(0, 10), tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def test_concurrent_appends_of_two_processes_are_both_kept(glue, template):
    processes = [start(glue, template, shard, 6) for shard in "ab"]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [finish(process) for process in processes] == [0, 0]
    with closing(AwsLakehouse(LakehouseSettings(), glue)) as lake:
        assert lake.positions(EVENTS) == {"a": 5, "b": 5}
        assert numbers_of(lake) == sorted(list(range(10)) * 12)
        assert parquet_of(lake) == sorted(lake.data_files(EVENTS))


@pytest.mark.parametrize("step", ["rows are written", "metadata is written", "the catalog has it"])
def test_a_process_that_is_killed_leaves_whole_commits(glue, template, step):
    assert finish(start(glue, template, "a", 5, step)) == -9
    with closing(AwsLakehouse(LakehouseSettings(), glue)) as lake:
        whole = 3 if step == "the catalog has it" else 2
        assert lake.positions(EVENTS) == {"a": whole - 1}
        assert numbers_of(lake) == sorted(list(range(10)) * whole)
        lake.orphans(EVENTS, timedelta(seconds=-5), delete=True)
        assert parquet_of(lake) == sorted(lake.data_files(EVENTS))
        assert numbers_of(lake) == sorted(list(range(10)) * whole)
