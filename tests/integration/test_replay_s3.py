"""Replays read from S3 as they read from a disk: a real HTTP server, real range requests."""

import gzip
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime, timedelta

import duckdb
import fsspec
import pytest

from shopstream.clock import SystemClock
from shopstream.errors import PermanentError
from shopstream.simulation.partitioning import even_shards, events_of_file, measure_skew
from shopstream.simulation.replay import ReplaySettings, replay
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.settings import StreamSettings

ROWS = 120_000
START = datetime(2019, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def endpoint():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=20)


@pytest.fixture(scope="module")
def bucket(endpoint, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").clear_instance_cache()
        files = fsspec.filesystem("s3")
        files.mkdir("shop-events")
        lines = [
            f"{START + timedelta(seconds=place):%Y-%m-%d %H:%M:%S} UTC,view,{place},{place % 5},,b,1.25,{place % 99},s"
            for place in range(ROWS)
        ]
        text = "\n".join(lines).encode()
        files.pipe("shop-events/day.csv", text)
        files.pipe("shop-events/day.csv.gz", gzip.compress(text, 1))
        folder = tmp_path_factory.mktemp("parquet")
        (folder / "day.csv").write_bytes(text)
        duckdb.execute(
            f"""COPY (SELECT strptime(column0, '%Y-%m-%d %H:%M:%S UTC') AS event_time, column1 AS event_type,
            column2::BIGINT AS product_id, column3::BIGINT AS category_id, column5 AS brand, column6::DOUBLE AS price,
            column7::BIGINT AS user_id, column8 AS user_session
            FROM read_csv('{folder / "day.csv"}', header = false, all_varchar = true)) TO '{folder / "day.parquet"}'"""
        )
        files.put(str(folder / "day.parquet"), "shop-events/day.parquet")
        yield "s3://shop-events"
        fsspec.filesystem("s3").clear_instance_cache()


@pytest.mark.parametrize("name", ["day.csv", "day.csv.gz", "day.parquet"])
def test_a_replay_reads_s3_and_continues_where_it_stopped(bucket, tmp_path, name):
    with EmbeddedStream.open(tmp_path / "stream.db", StreamSettings(), SystemClock()) as stream:
        calls = 0

        def stop_in_the_middle(_: object) -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise KeyboardInterrupt

        settings = ReplaySettings(rate=100_000)
        with pytest.raises(KeyboardInterrupt):
            replay(f"{bucket}/{name}", stream, settings, bookmarks=tmp_path, progress=stop_in_the_middle)
        summary = replay(f"{bucket}/{name}", stream, bookmarks=tmp_path)
        assert 0 < summary.earlier_events < ROWS
        assert summary.earlier_events + summary.events == ROWS
        assert (summary.rejected, summary.complete) == (0, True)


def test_the_command_reads_s3(bucket, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from shopstream.cli import main; main()", "--home", str(tmp_path)),
            *("simulate", f"{bucket}/day.parquet", "--format", "json"),
        ],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert json.loads(done.stdout)["events"] == ROWS


def test_skew_of_a_file_in_s3(bucket):
    by_key = {row.key.value: row for row in measure_skew(events_of_file(f"{bucket}/day.csv.gz"), even_shards(4))}
    assert by_key["category_id"].keys == 5
    assert by_key["user_id"].split_users == 0


def test_a_missing_object_is_reported(bucket, tmp_path):
    with (
        EmbeddedStream.open(tmp_path / "stream.db", StreamSettings(), SystemClock()) as stream,
        pytest.raises(PermanentError, match="found none"),
    ):
        replay(f"{bucket}/missing.csv", stream)
