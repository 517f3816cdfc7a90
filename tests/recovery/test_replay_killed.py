"""A replay in a process of its own is killed (SIGKILL) at random moments and started again: nothing may be lost."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

from shopstream.clock import SystemClock
from shopstream.events.codec import Decoder, decode
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import TRIM_HORIZON
from shopstream.stream.settings import StreamSettings

ROWS = 40_000
KILLS = 6

SCRIPT = """
import sys
from pathlib import Path
from shopstream.clock import SystemClock
from shopstream.simulation.replay import replay
from shopstream.simulation.replay import ReplaySettings
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.settings import StreamSettings

home, source, rate = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
settings = ReplaySettings(rate=float(rate) if rate != "none" else None)
with EmbeddedStream.open(home / "stream.db", StreamSettings(), SystemClock()) as stream:
    print("ready", flush=True)
    summary = replay(source, stream, settings, bookmarks=home / "replays")
    print(summary.earlier_events + summary.events, summary.rejected, summary.complete)
"""


def start(home: Path, source: Path, rate: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(home), str(source), rate], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def write_source(path: Path) -> None:
    begin = datetime(2019, 11, 1, tzinfo=UTC)
    with path.open("w") as file:
        for place in range(ROWS):
            moment = begin + timedelta(seconds=place // 10)
            file.write(f"{moment:%Y-%m-%d %H:%M:%S} UTC,view,{place},{place % 50},,b,1.25,{place % 999},s\n")
            if place % 10_000 == 5000:
                file.write(f"bad row {place}\n")


def test_a_replay_killed_at_random_moments_loses_no_event_and_doubles_none_that_deduplication_misses(tmp_path):
    source = tmp_path / "events.csv"
    write_source(source)
    dice = random.Random(2019)  # noqa: S311  a test's dice
    for _ in range(KILLS):
        process = start(tmp_path, source, "8000")
        time.sleep(dice.uniform(0.02, 0.7))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
    last = start(tmp_path, source, "none")
    output, _ = last.communicate(timeout=120)
    sent, _, complete = output.split()
    assert (int(sent), complete) == (ROWS, "True")

    expected = decode([source.read_bytes()], [2_000_000_000_000])
    kept: Counter[tuple[object, str]] = Counter()
    dead: set[bytes] = set()
    decoder = Decoder()
    with EmbeddedStream.open(tmp_path / "stream.db", StreamSettings(), SystemClock()) as stream:
        for shard in stream.shards():
            position = TRIM_HORIZON
            while (batch := stream.read(shard.shard_id, position, max_records=500, max_bytes=1 << 24)).records:
                position = batch.position
                decoded = decoder.decode([r.payload for r in batch.records], [r.arrival_ms for r in batch.records])
                events = decoded.events.select(["event_time", "event_id"]).to_pylist()
                kept.update((event["event_time"], event["event_id"]) for event in events)
                dead |= set(decoded.rejects["payload"].to_pylist())
    sources = expected.events.select(["event_time", "event_id"]).to_pylist()
    assert set(kept) == {(event["event_time"], event["event_id"]) for event in sources}
    assert dead == set(expected.rejects["payload"].to_pylist())
    assert kept.total() - ROWS < KILLS * 8000  # what was sent twice is what lay behind the last bookmark


def test_an_interrupted_command_can_be_continued(tmp_path):
    source = tmp_path / "events.csv"
    source.write_text("".join(f"2019-11-01 00:00:{place:02} UTC,view,{place},1,,b,1.25,7,s\n" for place in range(60)))
    command = [sys.executable, "-c", "from shopstream.cli import main; main()", "--home", str(tmp_path / "home")]
    command += ["simulate", str(source), "--format", "json"]
    with subprocess.Popen([*command, "--rate", "5"], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("home/replays/*.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Run the same command again to resume" in errors
    done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert done["earlier_events"] > 0
    assert done["earlier_events"] + done["events"] == 60
