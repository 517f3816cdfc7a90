"""A shop in real time: its traffic around this very moment, and the processes that a person would start."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any, Self

import duckdb
import httpx

from incident_desk import read_incidents
from shopstream.detection.baseline_builder import build_baselines
from shopstream.events.columns import REES46_COLUMNS
from shopstream.incidents.incident import Incident
from shopstream.simulation.attacks import Flood
from shopstream.simulation.faults_and_surges import Outage
from shopstream.simulation.synthesis import Synthesis, SynthesisSettings

PROGRAM = (sys.executable, "-c", "from shopstream.cli import main; main()")
NOON = datetime(2019, 11, 12, 13, tzinfo=UTC)  # an ordinary Tuesday
AT_NOON = 0.06036 / 3600  # share of a day's events that come in a second there
HISTORY = timedelta(days=2)  # a whole day is in it, wherever noon is moved to
PAST = timedelta(minutes=20)
END = timedelta(seconds=182)
FLOOD = Flood(NOON + timedelta(seconds=30), timedelta(seconds=65), 6, 2_000)
OUTAGE = Outage(NOON + timedelta(seconds=100), timedelta(seconds=75))
PATIENCE_S = 90


class Traffic:
    """A shop's days before, and its minutes around noon with a flood and an outage; moved so that noon is now."""

    def __init__(self, events_a_second: float) -> None:
        midnight = NOON.replace(hour=0)
        days = HISTORY.days + 1
        shop = SynthesisSettings(
            start=midnight - HISTORY,
            days=days,
            events=round(events_a_second / AT_NOON) * days,
            products=20_000,
            scenarios=(FLOOD, OUTAGE),
        )
        self._connection = duckdb.connect()
        self._connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        self._load("history", Synthesis(shop, between=(midnight - HISTORY, midnight)))
        self._load("minutes", Synthesis(shop, between=(NOON - PAST, NOON + END)))

    def _load(self, table: str, synthesis: Synthesis) -> None:
        for number, batch in enumerate(synthesis.batches()):
            self._connection.register("incoming", batch.select(list(REES46_COLUMNS)))
            verb = f"INSERT INTO {table}" if number else f"CREATE TABLE {table} AS"
            self._connection.execute(f"{verb} FROM incoming")

    def _moved(self, table: str, moved: timedelta) -> str:
        seconds = moved // timedelta(seconds=1)
        return f"SELECT * REPLACE (event_time + INTERVAL {seconds} SECOND AS event_time) FROM {table}"

    def learn(self, path: Path, moved: timedelta) -> None:
        """Write the baselines of the days before."""
        self._connection.execute(f"CREATE OR REPLACE VIEW normal AS {self._moved('history', moved)}")
        build_baselines(self._connection, "normal").save(path)

    def write(self, path: Path, moved: timedelta) -> int:
        """Write the minutes around noon; returns the number of events."""
        self._connection.execute(f"COPY ({self._moved('minutes', moved)}) TO '{path}' (FORMAT parquet)")
        return self._connection.execute("SELECT count(*) FROM minutes").fetchone()[0]


def moved_to_now() -> timedelta:
    """From noon to 10 or 20 seconds from now, in whole bins: detectors see the same ones whenever the test runs."""
    return timedelta(seconds=((datetime.now(UTC) - NOON) // timedelta(seconds=10) + 2) * 10)


def wait_for(what: str, look: Callable[[], object], seconds: float = PATIENCE_S) -> Any:
    """Look until there is something to see."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.2)
    return seen


class Folder:
    """A working folder, and the commands given in it; all that still run are killed at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.home = path / ".shopstream"
        self._stack = ExitStack()
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("SHOPSTREAM_")}
        self._environment["SHOPSTREAM_DASHBOARD__PORT"] = "0"
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def do(self, *arguments: str) -> str:
        """A command that ends; returns what it prints."""
        done = subprocess.run(
            [*PROGRAM, *arguments], cwd=self.path, env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    def start(self, *arguments: str) -> "Running":
        """A command that goes on."""
        self._started += 1
        log = self.path / f"{self._started}-{arguments[0]}.log"
        process = Running([*PROGRAM, *arguments], self.path, self._environment, log)
        self._stack.callback(process.kill)
        return process

    def status(self) -> dict:
        return json.loads(self.do("status", "--format", "json"))

    def incidents(self) -> list[Incident]:
        return read_incidents(self.home / "incidents.db")


class Running:
    """A process, and what it wrote."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )

    def send(self, number: int) -> None:
        assert self._process.poll() is None, self.written()
        self._process.send_signal(number)

    def ended(self) -> int:
        """Its exit code."""
        return self._process.wait(PATIENCE_S)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.send(number)
        return self.ended()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def written(self) -> str:
        return self._log.read_text()

    def address(self) -> str:
        """Of a dashboard, with the token."""
        page = re.compile(r"http://127\.0\.0\.1:\d+/\?token=\S+")
        return wait_for("the page's address", lambda: page.search(self.written()))[0]


class Reader:
    """Keeps the page open as a browser does: follows its feed, and knows each panel's newest state."""

    def __init__(self, address: str) -> None:
        self.panels: dict[str, object] = {}
        self.incidents_at: dict[str, float] = {}
        self._client = httpx.Client(trust_env=False, timeout=60, follow_redirects=True)
        answer = self._client.get(address)
        assert answer.status_code == 200, answer
        self._feed = httpx.URL(address).copy_with(path="/events", query=None)
        self._thread = Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        name = ""
        with self._client.stream("GET", self._feed) as feed:
            for line in feed.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    self._note(name, json.loads(line.removeprefix("data: ")))

    def _note(self, name: str, panel: object) -> None:
        self.panels[name] = panel
        for row in panel["rows"] if name == "incidents" else ():
            self.incidents_at.setdefault(row["rule"], time.time())

    @property
    def reading(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """Once the server has ended the feed."""
        self._thread.join(PATIENCE_S)
        self._client.close()

    def shoppers(self) -> int:
        """Those of the present: a home may still show those of a file that was replayed before."""
        live = self.panels.get("live")
        present = live and datetime.now(UTC) - datetime.fromisoformat(live["as_of"]) < timedelta(minutes=1)
        return live["sessions"]["shoppers"] if present else 0


def replayed(folder: Path, live: Path) -> list[Incident]:
    """The incidents that a fresh engine finds in the records of a live one's stream, at once."""
    with Folder(folder) as again:
        again.home.mkdir(parents=True)
        for file in (*live.glob("stream.db*"), *live.glob("baselines*")):
            shutil.copy(file, again.home)
        again.do("run", "--until-caught-up")
        return again.incidents()
