"""Shops in real time: real processes, the machine's clock, and a flood and an outage that happen while one looks.

All shops live side by side, for they mostly wait. In each, the sender is held up for 5 s and the engine for 20 s
before a flood of 6x for a minute; then nothing comes for longer than a minute. Two more do what the README says.
"""

import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from live.shop import END, FLOOD, NOON, OUTAGE, PATIENCE_S, Folder, Reader, Traffic, moved_to_now, replayed, wait_for
from pages import arguments_of, blocks, section, shell_lines
from shopstream.clock import to_ms
from shopstream.incidents.incident import Incident

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("live"), pytest.mark.timeout(900)]

SHOPS = {"1 event a second": (1, False), "20 events a second": (20, False), "60, and a page open": (60, True)}
HELD_UP = (
    (2, "simulate", signal.SIGSTOP),
    (7, "simulate", signal.SIGCONT),
    (8, "run", signal.SIGSTOP),
    (28, "run", signal.SIGCONT),
)
SHOPPERS_WITHIN_S = 30  # on a machine with nothing else to do
WATCHED_S = 45


@dataclass(frozen=True, slots=True)
class Lived:
    """What a shop in real time left.

    Args:
        noon: when its noon was, in seconds since the epoch.
        seen: rule → when its first incident could be seen.
        incidents: those at the end, and those of a replay of its stream.
        counters: as `status` tells.
        page: when the open page showed each rule's incident; None where none was open.
    """

    noon: float
    seen: Mapping[str, float]
    incidents: list[Incident]
    replayed: list[Incident]
    counters: Mapping[str, object]
    page: Mapping[str, float] | None


def live(traffic: Traffic, path: Path, *, page: bool) -> Lived:
    with Folder(path) as folder:
        folder.home.mkdir(parents=True)
        traffic.learn(folder.home / "baselines.json", moved_to_now())
        engine = folder.start("run", "--quiet")
        dashboard = folder.start("dashboard") if page else None
        wait_for("the engine", (folder.home / "incidents.db").is_file)
        reader = Reader(dashboard.address()) if dashboard else None
        moved = moved_to_now()
        events = traffic.write(path / "shop.parquet", moved)
        noon = to_ms(NOON + moved) / 1000
        processes = {"run": engine, "simulate": folder.start("simulate", "shop.parquet", "--rebase", "today")}
        wait_for("the sender", lambda: list(folder.home.glob("replays/*.json")))
        seen: dict[str, float] = {}
        held_up = list(HELD_UP)
        while time.time() < noon + END.total_seconds():
            while held_up and time.time() >= noon + held_up[0][0]:
                _, name, number = held_up.pop(0)
                processes[name].send(number)
            for incident in folder.incidents():
                seen.setdefault(incident.rule, time.time())
            time.sleep(0.2)
        assert processes["simulate"].ended() == 0
        wait_for("the last event", lambda: folder.status()["events_read"] == events)
        if dashboard and reader:
            assert reader.reading
            assert dashboard.stop() == 0
            reader.close()
        assert engine.stop() == 0
        again = replayed(path / "again", folder.home)
        return Lived(
            noon, seen, folder.incidents(), again, folder.status(), None if reader is None else reader.incidents_at
        )


@dataclass(frozen=True, slots=True)
class Followed:
    """What the README's steps gave.

    Args:
        own_file: steps on a file that were taken before.
        reports: whether reports were built.
        shoppers_after_s: when the page showed shoppers, from the start of the three processes on.
        behind_s: how far the newest event was behind the clock at the end.
        load: processes that wanted each core meanwhile, 1 or more.
    """

    own_file: int
    reports: bool
    shoppers_after_s: float
    incidents: list[Incident]
    status: Mapping[str, object]
    behind_s: float
    load: float


def follow(path: Path, *, own_file: bool) -> Followed:
    steps = []
    with Folder(path) as folder:
        if own_file:
            text = section("On your own file")
            steps = [*shell_lines(blocks(text, "console")[0]), *re.findall(r"`(shopstream lake ingest [^`]+)`", text)]
            for line in steps:
                folder.do(*arguments_of(line))
        first, together = blocks(section("As a live system"), "console")
        for line in shell_lines(first):
            folder.do(*arguments_of(line))
        commands = [arguments_of(line) for line in shell_lines(together)]
        assert {command[0] for command in commands} == {"simulate", "run", "dashboard"}
        began = time.time()
        running = {command[0]: folder.start(*command) for command in commands}
        reader = Reader(running["dashboard"].address())
        wait_for("shoppers on the page", reader.shoppers, 2 * PATIENCE_S)
        shown = time.time()
        load = max(1.0, os.getloadavg()[0] / os.cpu_count())
        folder.do("build")
        wait_for("the end of watching", lambda: time.time() > shown + WATCHED_S)
        assert reader.reading
        status, now = folder.status(), time.time()
        assert running["dashboard"].stop(signal.SIGINT) == 0
        reader.close()
        assert running["simulate"].stop(signal.SIGINT) == 130
        assert running["run"].stop(signal.SIGINT) == 0
        watermark = datetime.fromisoformat(status["watermark"])
        reports = (folder.home / "reports.duckdb").is_file()
        behind_s = now - watermark.timestamp()
        return Followed(len(steps), reports, shown - began, folder.incidents(), status, behind_s, load)


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> Iterator[dict[str, Future]]:
    """All of them, under way."""
    folder = tmp_path_factory.mktemp("live")
    names = [*SHOPS, "empty folder", "after a file"]
    paths = {name: folder / str(number) for number, name in enumerate(names)}
    for path in paths.values():
        path.mkdir()
    traffic = {name: Traffic(rate) for name, (rate, _) in SHOPS.items()}
    with ThreadPoolExecutor(len(names)) as pool:
        under_way = {
            name: pool.submit(live, traffic[name], paths[name], page=page) for name, (_, page) in SHOPS.items()
        }
        for name, own_file in (("empty folder", False), ("after a file", True)):
            under_way[name] = pool.submit(follow, paths[name], own_file=own_file)
        yield under_way


@pytest.fixture(params=SHOPS)
def shop(request, started) -> Lived:
    return started[request.param].result()


@pytest.fixture(params=["empty folder", "after a file"])
def followed(request, started) -> Followed:
    return started[request.param].result()


def told(incidents: list[Incident]) -> list[tuple]:
    return sorted(
        (i.id, i.rule, dict(i.keys), i.severity, i.first_event_time, i.detected_at_event_time) for i in incidents
    )


def test_the_flood_is_found_while_it_lasts(shop):
    assert shop.seen["volume"] < shop.noon + (FLOOD.start + FLOOD.duration - NOON).total_seconds()


def test_a_sender_that_stops_for_a_minute_is_a_silence_while_it_lasts(shop):
    from_s = (OUTAGE.start - NOON).total_seconds()
    assert shop.noon + from_s < shop.seen["silence"] < shop.noon + from_s + OUTAGE.duration.total_seconds()


def test_nothing_else_is_an_incident(shop):
    assert [(i.rule, i.severity.value, dict(i.keys)) for i in shop.incidents] == [
        ("silence", "high", {}),
        ("volume", "critical", {}),
    ]


def test_the_incidents_are_those_of_a_replay(shop):
    assert told(shop.incidents) == told(shop.replayed)


def test_no_signal_and_no_event_is_late(shop):
    assert (shop.counters["late_signals"], shop.counters["late"]) == (0, 0)


def test_an_open_page_shows_flood_and_silence_while_they_last(started):
    shop = started["60, and a page open"].result()
    assert shop.page["volume"] < shop.noon + (FLOOD.start + FLOOD.duration - NOON).total_seconds()
    assert shop.page["silence"] < shop.noon + (OUTAGE.start + OUTAGE.duration - NOON).total_seconds()


def test_the_steps_on_your_own_file_work_as_they_stand(started):
    followed = started["after a file"].result()
    assert followed.own_file > 5
    assert followed.reports


def test_the_live_system_of_the_readme_shows_shoppers_within_half_a_minute(followed):
    assert followed.shoppers_after_s < SHOPPERS_WITHIN_S * followed.load


def test_the_live_system_of_the_readme_has_no_false_incident(followed):
    assert followed.incidents == []
    assert followed.status["late_signals"] == 0
    assert followed.status["dead_letters"] == 0


def test_the_live_system_of_the_readme_keeps_up_with_the_clock(followed):
    assert 0 < followed.behind_s < 60 * followed.load
