"""Robots and wholesalers that live in the genuine traffic."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from shopstream.simulation.shoppers import _ROBOTS, CART, PURCHASE, VIEW, HeavyUsers
from shopstream.simulation.synthesis import Synthesis, SynthesisSettings


def _days(seeds, days=range(18_205, 18_210)):
    world = SynthesisSettings(products=1_000, seed=1_000).world()
    for seed in seeds:
        heavy = HeavyUsers(world.intensity, world.catalogue, world.population, seed)
        for day in days:
            yield heavy._ids(), heavy._day(day)


def test_resident_robots_are_part_of_the_genuine_traffic_and_named():
    synthesis = Synthesis(SynthesisSettings(days=7, events=1_400_000, products=3_000, seed=1_003))
    table = pa.concat_tables(
        (batch.select(["event_time", "event_type", "user_id", "user_session"]) for batch in synthesis.batches()),
        promote_options="default",
    ).unify_dictionaries()
    base = duckdb.connect()
    base.register("rows", table)
    residents = list(synthesis.residents())
    assert residents
    long = "select user_id from rows group by user_session, user_id having count(*) > 500"
    assert {row[0] for row in base.execute(long).fetchall()} <= set(residents)
    per_user = "select count(*) from rows where list_contains(?::bigint[], user_id) group by user_id"
    assert max(row[0] for row in base.execute(per_user, [residents]).fetchall()) > 500
    assert synthesis.truth()["genuine_events"] == table.num_rows
    assert synthesis.truth()["residents"] == residents


def test_robots_have_the_number_and_pace_of_real_ones():
    visits, paces, views = 0, [], 0
    for ids, block in _days(range(1_000, 1_040)):
        robots = block.take(np.isin(block.user, ids[:_ROBOTS]))
        for session in np.unique(robots.session):
            mine = robots.take(robots.session == session)
            if len(mine) > 400:
                minutes = (mine.time.max() - mine.time.min()) / 60_000
                visits += 1
                views += bool((mine.kind == VIEW).all())
                if minutes < 1_440:
                    paces.append(len(mine) / minutes)
    assert visits / 200 == pytest.approx(1.61, abs=0.3)
    assert np.median(paces) == pytest.approx(8.2, abs=1.5)
    assert views / visits == pytest.approx(0.815, abs=0.07)


def test_wholesalers_buy_many_products_at_a_shopper_s_pace():
    visits = 0
    for ids, block in _days(range(1_000, 1_005)):
        people = block.take(np.isin(block.user, ids[_ROBOTS:]))
        for session in np.unique(people.session):
            mine = people.take(people.session == session)
            visits += 1
            assert 2 <= (mine.kind == PURCHASE).sum() <= 15
            assert (mine.kind == CART).sum() == (mine.kind == PURCHASE).sum()
            assert np.diff(np.sort(mine.time)).mean() > 8_000
    assert visits / 25 == pytest.approx(3, abs=1.2)


def test_a_day_of_heavy_users_is_the_same_in_every_slice():
    world = SynthesisSettings(products=1_000, seed=1_001).world()
    one, two = (HeavyUsers(world.intensity, world.catalogue, world.population, 1_001) for _ in range(2))
    assert np.array_equal(one._day(18_206).time, two._day(18_206).time)
