"""A bulk load that is killed again and again ends as if it had never been."""

import random
import subprocess
import sys
import time
from pathlib import Path

import duckdb

from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.tables import create_views

LOADER = Path(__file__).with_name("lake_loader.py")


def row(number):
    price = "none" if number % 50 == 0 else "1.5"
    time_ = f"2019-11-0{number // 1500 + 1} 00:{number // 60 % 60:02}:{number % 60:02} UTC"
    return f"{time_},view,{number},7,,,{price},{number},s\n"


def load(folder, file, kill_after=None):
    with subprocess.Popen(
        [sys.executable, str(LOADER), str(folder), str(file)], stdout=subprocess.PIPE, text=True
    ) as loader:
        assert loader.stdout.readline() == "ready\n"
        if kill_after is not None:
            time.sleep(kill_after)
            loader.kill()
        return loader.stdout.read()


def test_a_load_killed_at_random_moments_neither_loses_nor_doubles(tmp_path):
    file, folder = tmp_path / "events.csv", tmp_path / "lake"
    file.write_text("".join(row(number) + (row(number) if number % 100 == 1 else "") for number in range(4500)))
    chance = random.Random(3)  # noqa: S311  moments, not secrets
    for _ in range(4):
        load(folder, file, chance.uniform(0, 1.5))
    assert load(folder, file).split() == ["4545", "4410", "45", "90"]
    with duckdb.connect() as connection:
        create_views(connection, EmbeddedLakehouse(folder))
        events = connection.execute("SELECT count(*), count(DISTINCT user_id) FROM events").fetchone()
        letters = connection.execute("SELECT count(*), count(DISTINCT payload) FROM dead_letters").fetchone()
    assert events == (4410, 4410)
    assert letters == (90, 90)
