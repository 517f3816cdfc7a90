"""Append-to-incident latency: a paced producer writes to the stream while the engine runs, each in its own process.

One burst a second is planted in the traffic. Its latency runs from the moment the stream took in the record whose event
made the condition true (the stream's own arrival time) to the moment another process first sees the incident's row.
"""

import math
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import duckdb
import numpy as np
from measure import FailedError, Tree
from ours import SHOPSTREAM, Variant, environment
from windows import RULES
from workload import FIRST_BURST_USER, Workload

from shopstream.adapters.ports import adapters_of
from shopstream.config import load_settings
from shopstream.events.codec import decode
from shopstream.stream.ports import TRIM_HORIZON

POLL_S = 0.002
GRACE_S = 20


@dataclass(frozen=True, slots=True)
class Latency:
    """Result of the measurement.

    Args:
        rate: events a second that the producer kept up.
        bursts, seen: planted bursts, and those that became an incident.
        p50_ms, p99_ms, max_ms: append to visible row.
        engine_cpu_s, engine_wall_s: what the engine took of the machine meanwhile.
        engine_peak_mb: its peak resident memory.
    """

    rate: float
    bursts: int
    seen: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    engine_cpu_s: float
    engine_wall_s: float
    engine_peak_mb: float


def measure_latency(made: Workload, home: Path, variant: Variant, log: Path) -> Latency:
    """Run producer and engine in parallel and watch the incidents.

    Args:
        made: a workload with a burst a second.
        home: an empty folder.
        variant: what the engine does besides windows.
        log: file for what both print.
    """
    home.mkdir(parents=True)
    settings = load_settings(None, {"home": home})
    adapters_of(settings).open_stream().close()
    base = [SHOPSTREAM, "--home", str(home)]
    with log.open("wb") as out:
        engine = _start([*base, "run", "--quiet", *variant.flags], out)
        engine_tree, started = Tree(engine.pid), time.perf_counter()
        try:
            _wait_for(home / "incidents.db", engine)
            producer = _start([*base, "simulate", str(made.parquet), "--rebase", "now"], out)
            producer_tree = Tree(producer.pid)
            try:
                seen = _watch(home / "incidents.db", producer, engine_tree, made.bursts)
            finally:
                producer_tree.stop()
            if producer.wait() != 0:
                raise FailedError(f"the producer ended with code {producer.returncode}; see {log}")
            wall_s = time.perf_counter() - started
        finally:
            engine_tree.stop()
            engine.wait()
    appended, rate = _appended(made, home)
    gaps = np.array([seen[user] * 1000 - appended[user] for user in appended if user in seen])
    if not len(gaps):
        raise FailedError(f"expected {made.bursts} incidents while the producer ran, saw none; see {log}")
    return Latency(
        rate,
        made.bursts,
        len(gaps),
        float(np.percentile(gaps, 50)),
        float(np.percentile(gaps, 99)),
        float(gaps.max()),
        engine_tree.cpu_s,
        wall_s,
        engine_tree.peak_mb,
    )


def _start(command: list[str], out: BinaryIO) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=environment(),
    )


def _wait_for(path: Path, engine: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while not path.is_file():
        if engine.poll() is not None or time.monotonic() > deadline:
            raise FailedError(f"the engine did not make {path}")
        time.sleep(0.05)
    time.sleep(1)


def _watch(path: Path, producer: "subprocess.Popen[bytes]", engine: Tree, bursts: int) -> dict[str, float]:
    """User → seconds since the epoch when the incident was first seen."""
    seen: dict[str, float] = {}
    connection = sqlite3.connect(path.resolve().as_uri() + "?mode=ro", uri=True, timeout=5)
    ended: float | None = None
    sampled = 0.0
    version = None
    while len(seen) < bursts and (ended is None or time.monotonic() < ended + GRACE_S):
        if ended is None and producer.poll() is not None:
            ended = time.monotonic()
        now = time.monotonic()
        if now - sampled > 0.5:
            engine.sample()
            sampled = now
        newest = connection.execute("PRAGMA data_version").fetchone()[0]  # changes when another process commits
        if newest != version:
            version = newest
            rows = connection.execute(
                "SELECT json_extract(facts, '$.keys.user_id') FROM incidents WHERE rule = 'user_burst'"
            ).fetchall()
            moment = time.time()
            for (user,) in rows:
                seen.setdefault(str(user), moment)
        time.sleep(POLL_S)
    connection.close()
    producer.wait(timeout=60)
    return seen


def _appended(made: Workload, home: Path) -> tuple[dict[str, float], float]:
    """User → arrival (epoch ms) of the record that made the condition true; and the achieved rate."""
    needed = next(window.more_than for window in RULES if window.name == "user_burst") + 1
    arrivals: dict[str, list[float]] = {}
    first, last, events = math.inf, 0, 0
    with adapters_of(load_settings(None, {"home": home})).open_stream() as stream:
        for shard in stream.shards():
            position = TRIM_HORIZON
            while records := (
                batch := stream.read(shard.shard_id, position, max_records=500, max_bytes=8 << 20)
            ).records:
                position = batch.position
                decoded = decode([r.payload for r in records], [r.arrival_ms for r in records]).events
                events += decoded.num_rows
                first, last = min(first, records[0].arrival_ms), max(last, records[-1].arrival_ms)
                hits = duckdb.execute(
                    f"SELECT user_id::VARCHAR, record FROM decoded WHERE user_id >= {FIRST_BURST_USER}"
                ).fetchall()
                for user, record in hits:
                    arrivals.setdefault(user, []).append(records[record].arrival_ms)
    if events != made.events:
        raise FailedError(f"expected {made.events:,} events in the stream, found {events:,}")
    return {user: sorted(times)[needed - 1] for user, times in arrivals.items()}, events / max(
        1e-9, (last - first) / 1000
    )
