"""The stream after a crash: processes killed at random moments, torn logs of changes."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from shopstream.clock import ManualClock, SystemClock
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import TRIM_HORIZON, NewRecord
from shopstream.stream.settings import StreamSettings

WRITER = Path(__file__).with_name("stream_writer.py")
PLENTY = {"max_records": 10_000, "max_bytes": 64 << 20}


def payload_of(number: int) -> bytes:
    return b"%d:" % number + bytes([number % 251]) * (number * 7919 % 16_384)


def integrity(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]
    finally:
        connection.close()


class Crashes:
    """Starts writers, kills them, and reads what the stream holds afterwards."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.acknowledged: set[int] = set()
        self.held: list[int] = []
        self.positions: dict[str, int] = {}
        self.writers = subprocess.Popen(
            [sys.executable, str(WRITER), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def order(self, line: str) -> None:
        self.writers.stdin.write(f"{line}\n")
        self.writers.stdin.flush()

    def hear(self) -> list[str]:
        line = self.writers.stdout.readline().split()
        assert line, "the writers' parent died"
        if line[0] == "ack":
            first, count = int(line[1]), int(line[2])
            self.acknowledged.update(range(first, first + count))
        return line

    def run_and_kill(self, firsts: list[int], seconds: float, *, after_first_ack: bool) -> None:
        pids = []
        for first in firsts:
            self.order(str(first))
        heard_ack = False
        while len(pids) < len(firsts) or (after_first_ack and not heard_ack):
            line = self.hear()
            pids += [int(line[1])] if line[0] == "pid" else []
            heard_ack |= line[0] == "ack"
        time.sleep(seconds)  # the moment of the kill has to be a real one
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.order("wait")
        dead = 0
        while dead < len(pids):
            dead += self.hear()[0] == "dead"

    def read_on(self) -> None:
        with EmbeddedStream.open(self.path, StreamSettings(), SystemClock()) as stream:
            for shard in stream.shards():
                after = self.positions.get(shard.shard_id, TRIM_HORIZON)
                while (batch := stream.read(shard.shard_id, after, **PLENTY)).records:
                    for record in batch.records:
                        number = int(record.payload.partition(b":")[0])
                        assert record.payload == payload_of(number)
                        self.held.append(number)
                    assert all(a.sequence_number < b.sequence_number for a, b in pairwise(batch.records))
                    after = batch.position
                self.positions[shard.shard_id] = after

    def stop(self) -> None:
        self.writers.stdin.close()
        self.writers.wait(timeout=30)
        self.writers.stdout.close()


@pytest.mark.parametrize("at_once", [1, 2])
def test_each_acknowledged_record_is_held_once_after_thirty_kills(tmp_path, at_once):
    path = tmp_path / "stream.db"
    chance = random.Random(at_once)  # noqa: S311  moments of the kills
    crashes = Crashes(path)
    try:
        for kill in range(30):
            firsts = [(kill * at_once + writer) * 1_000_000 for writer in range(at_once)]
            crashes.run_and_kill(firsts, chance.uniform(0, 0.05), after_first_ack=kill % 5 != 0)
            crashes.read_on()
    finally:
        crashes.stop()
    doubled = [number for number, times in Counter(crashes.held).items() if times > 1]
    assert not doubled
    assert crashes.acknowledged <= set(crashes.held)
    assert len(crashes.acknowledged) > 30
    assert integrity(path) == "ok"


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    """Files as a crash leaves them, and the log's size after each put; put number n holds payload_of(n)."""
    folder = tmp_path_factory.mktemp("crashed")
    settings = StreamSettings(shards=1)
    with EmbeddedStream.open(folder / "live.db", settings, ManualClock(1000)) as stream:
        sizes = []
        for number in range(40):
            stream.put([NewRecord(payload_of(number) * 5, "key")])
            sizes.append((folder / "live.db-wal").stat().st_size)
        shutil.copy(folder / "live.db", folder / "stream.db")
        shutil.copy(folder / "live.db-wal", folder / "stream.db-wal")
    return folder, sizes


def survivors(path: Path) -> list[int]:
    """Numbers that the stream holds when opened, in order; it must take new records and be sound."""
    with EmbeddedStream.open(path, StreamSettings(shards=1), ManualClock(2000)) as stream:
        (shard,) = stream.shards()
        batch = stream.read(shard.shard_id, TRIM_HORIZON, **PLENTY)
        numbers = [int(record.payload.partition(b":")[0]) for record in batch.records]
        assert [record.payload for record in batch.records] == [payload_of(number) * 5 for number in numbers]
        stream.put([NewRecord(b"after the crash", "key")])
        assert stream.read(shard.shard_id, batch.position, **PLENTY).records[0].payload == b"after the crash"
    assert integrity(path) == "ok"
    return numbers


@pytest.mark.parametrize("seed", range(15))
def test_a_log_cut_short_loses_only_the_puts_behind_the_cut(tmp_path, crashed, seed):
    folder, sizes = crashed
    cut = random.Random(seed).randint(0, sizes[-1])  # noqa: S311  places of the cut
    for name in ("stream.db", "stream.db-wal"):
        shutil.copy(folder / name, tmp_path / name)
    os.truncate(tmp_path / "stream.db-wal", cut)
    whole = sum(size <= cut for size in sizes)
    assert survivors(tmp_path / "stream.db") == list(range(whole))


@pytest.mark.parametrize("seed", range(15))
def test_a_garbled_log_loses_only_the_puts_from_the_damage_on(tmp_path, crashed, seed):
    folder, sizes = crashed
    chance = random.Random(seed)  # noqa: S311  places of the damage
    for name in ("stream.db", "stream.db-wal"):
        shutil.copy(folder / name, tmp_path / name)
    start = chance.randint(sizes[0], sizes[-1] - 1)
    with (tmp_path / "stream.db-wal").open("r+b") as log:
        log.seek(start)
        log.write(chance.randbytes(min(chance.choice([1, 100, 100_000]), sizes[-1] - start)))
    whole = sum(size <= start for size in sizes)
    kept = survivors(tmp_path / "stream.db")
    assert kept == list(range(len(kept)))
    assert len(kept) >= whole
