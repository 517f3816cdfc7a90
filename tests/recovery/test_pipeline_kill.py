"""A killed pipeline goes on as if nothing had been: each event is in the lake once, incidents are the same."""

import random
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import duckdb
import pytest

from recovery.pipelines import SEED, Processes, new_home, outcome, write_rules
from shopstream.simulation.attacks import Scraper
from shopstream.simulation.synthesis import DEFAULT_START, OutOfOrder, Synthesis, SynthesisSettings

KILLS = 50


STEPS = [
    ("record", "before", 2),
    ("record", "after", 1),
    ("put", "before", 2),
    ("put", "after", 1),
    ("put", "after", 3),
    ("stage", "before", 2),
    ("stage", "after", 1),
    ("stage", "after", 3),
    ("append", "before", 4),
    ("append", "after", 1),
    ("append", "after", 4),
    ("append", "after", 5),
    ("append", "after", 6),
    ("promote", "before", 2),
    ("promote", "after", 2),
    ("acknowledge", "before", 1),
    ("acknowledge", "after", 3),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: "-".join(map(str, step)))
def test_a_kill_at_this_step_changes_nothing(step, stream_file, processes, undisturbed, tmp_path):
    home = new_home(tmp_path, stream_file)
    assert processes.run(home, die=step) == signal.SIGKILL
    assert processes.run(home) == 0
    assert outcome(home) == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_kills_of_the_pipeline_at_random_moments_change_nothing(stream_file, processes, undisturbed, tmp_path):
    chance = random.Random(SEED)  # noqa: S311  moments of death
    kills = 0
    for round_number in range(40):
        folder = tmp_path / str(round_number)
        folder.mkdir()
        home = new_home(folder, stream_file)
        while processes.run(home, kill_after=chance.uniform(0.3, 4.5)) == signal.SIGKILL:
            kills += 1
        assert outcome(home) == undisturbed
        if kills >= KILLS:
            return
    pytest.fail(f"expected at least {KILLS} kills in 40 rounds, got {kills}: make the delays shorter")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_kills_of_replay_and_pipeline_at_random_moments_lose_and_double_nothing(processes, tmp_path):
    """The way of the README: a file is replayed while it is processed, and both are killed again and again."""
    source = tmp_path / "day.csv"
    scraper = Scraper(DEFAULT_START + timedelta(hours=9), timedelta(minutes=5), 3, 0.4)
    Synthesis(SynthesisSettings(events=12_000, scenarios=(scraper,), out_of_order=OutOfOrder(0.02, 10))).write(source)
    homes = {name: tmp_path / name for name in ("calm", "killed")}
    for home in homes.values():
        home.mkdir()
        write_rules(home)
    home = homes["killed"]
    chance = random.Random(SEED)  # noqa: S311  moments of death
    replays = Processes()
    kills, unfinished = 0, True
    with ThreadPoolExecutor() as pool:
        while unfinished or kills < KILLS:
            both = [
                pool.submit(who.run, home, kill_after=chance.uniform(0.05, 2.0), replay=what)
                for who, what in ((replays, source), (processes, None))
            ]
            ends = [future.result() for future in both]
            kills += ends.count(signal.SIGKILL)
            unfinished = ends[0] == signal.SIGKILL
    replays.close()
    assert processes.run(home) == 0
    assert kills >= KILLS
    assert processes.run(homes["calm"], replay=source) == 0
    assert processes.run(homes["calm"]) == 0
    calm, killed = outcome(homes["calm"]), outcome(home)
    sent_again = killed["counters"].pop("events_read") - calm["counters"].pop("events_read")
    assert killed["counters"].pop("duplicates") - calm["counters"].pop("duplicates") == sent_again
    for came in (calm, killed):  # that a killed sender sends events again is true, and may be told
        for kind in ("detections", "incidents"):
            came[kind] = [one for one in came[kind] if one[1] != "duplicates"]
    assert killed == calm
    assert calm["incidents"]
    with duckdb.connect() as connection:
        distinct = connection.execute(
            "SELECT count(*) FROM (SELECT DISTINCT * FROM read_csv(?, all_varchar = true))", [str(source)]
        ).fetchall()
    assert len(killed["events"]) == distinct[0][0]
