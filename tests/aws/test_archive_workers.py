"""`shopstream archive` as processes: Kinesis on kinesalite, leases on DynamoDB Local, lake on moto's Glue and S3."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing

import pytest

from shopstream.adapters.ports import adapters_of
from shopstream.clock import SystemClock
from shopstream.config import load_settings
from shopstream.simulation.stream_sender import Lane, StreamSender
from shopstream.stream.aws import KinesisStream
from standins.numbered import archived, expected, numbered

pytestmark = [pytest.mark.aws, pytest.mark.timeout(280)]

KEYS = 16


class Workers:
    """Archive workers of one shop."""

    def __init__(self, stack):
        self._stack = stack

    def start(self, *arguments):
        worker = subprocess.Popen(
            [sys.executable, "-c", "from shopstream.cli import main; main()", "archive", "--quiet", *arguments],
            stderr=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(self._end, worker)
        return worker

    @staticmethod
    def _end(worker):
        if worker.poll() is None:
            worker.kill()
        worker.communicate()


def end_well(worker, timeout=120):
    _, told = worker.communicate(timeout=timeout)
    assert worker.returncode == 0, told[-3000:]


@pytest.fixture
def workers():
    with ExitStack() as stack:
        yield Workers(stack)


@pytest.fixture
def standins(aws_env, kinesalite, dynamodb_local, moto):
    aws_env(kinesis=kinesalite, dynamodb=dynamodb_local, s3=moto, glue=moto, sts=moto)


@pytest.fixture
def shop(request, standins, monkeypatch, tmp_path):  # noqa: ARG001  they must be there
    """Settings of a shop whose services are made anew; its programs find them in their environment."""
    make_stream, make_table, make_bucket, fresh_name = (
        request.getfixturevalue(name) for name in ("make_stream", "make_table", "make_bucket", "fresh_name")
    )
    for name, value in {
        "HOME": str(tmp_path / "home"),
        "PROFILE": "aws",
        "ENGINE__COMMIT_INTERVAL": "PT0.5S",
        "AWS__KINESIS__EVENTS": make_stream(4),
        "AWS__KINESIS__LEASES": make_table(),
        "AWS__KINESIS__LEASE_TIME": "PT3S",
        "AWS__GLUE__DATABASE": fresh_name("shop").replace("-", "_"),
        "AWS__GLUE__WAREHOUSE": f"s3://{make_bucket()}/lake",
    }.items():
        monkeypatch.setenv(f"SHOPSTREAM_{name}", value)
    return load_settings()


@pytest.fixture
def stream(shop):
    with KinesisStream.open(shop.aws.kinesis, SystemClock()) as stream:
        yield stream


@pytest.fixture
def lake(shop):
    with closing(adapters_of(shop).open_lakehouse()) as lake:
        yield lake


def send(stream, first, count):
    lanes = [
        Lane(f"key-{key}", [numbered(number, KEYS) for number in range(first, first + count) if number % KEYS == key])
        for key in range(KEYS)
    ]
    StreamSender(stream, SystemClock(), lambda _why, _wait: None).send(lanes)


def wait_until(holds, seconds=90):
    for _ in range(seconds * 4):
        if holds():
            return
        time.sleep(0.25)
    raise AssertionError("waited in vain")


def owners(stream):
    return [lease.owner for lease in stream.leases("archive").all() if lease.owner and not lease.ended]


def test_a_worker_archives_what_is_there_and_ends(stream, lake, workers):
    send(stream, 0, 400)
    end_well(workers.start("--until-caught-up"))
    assert archived(lake) == expected(400)
    assert owners(stream) == []


def test_of_workers_that_share_the_shards_one_is_killed_and_nothing_is_lost_or_doubled(stream, lake, workers):
    sending = threading.Thread(
        target=lambda: [send(stream, first, 100) or time.sleep(0.5) for first in range(0, 3000, 100)]
    )
    sending.start()
    first, second, third = (workers.start() for _ in range(3))
    try:
        wait_until(lambda: len(set(owners(stream))) == 3)
        wait_until(lambda: sum(archived(lake)[0].values()) > 100)
        os.kill(first.pid, signal.SIGKILL)
        wait_until(lambda: len(set(owners(stream))) == 2 and len(owners(stream)) == 4)
        os.kill(second.pid, signal.SIGSTOP)  # stands still, loses its shards, and wakes up thinking that it has them
        wait_until(lambda: len(set(owners(stream))) == 1)
        os.kill(second.pid, signal.SIGCONT)
    finally:
        sending.join()
    wait_until(lambda: archived(lake) == expected(3000))
    for worker in (second, third):
        worker.terminate()
        end_well(worker)
    assert archived(lake) == expected(3000)
    assert owners(stream) == []
