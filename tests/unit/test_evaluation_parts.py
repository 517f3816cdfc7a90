"""Pieces of an evaluation: stretches of events, what a run's events say, and how good a forecast was."""

from contextlib import closing
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from factories import make_event
from shopstream.detection.baseline import SLOTS, Baselines, KeyRate, SeriesProfile
from shopstream.detection.detection import Nature
from shopstream.evaluation.results import FoundIncident, Truth
from shopstream.evaluation.run_events import RunEvents
from shopstream.evaluation.system_under_test import cut
from shopstream.evaluation.timelines import (
    HOUR_MS,
    HourCounts,
    expected_series,
    forecast_errors,
    level_of,
    timeline_of_false,
    timeline_of_miss,
)
from shopstream.events.schema import WIRE_SCHEMA

START = datetime(2019, 11, 18, tzinfo=UTC)
START_MS = round(START.timestamp() * 1000)
BOT = 900


def events(seconds, *, user=1, kind="view", category=7):
    columns = {"event_type": kind, "category_id": category, "ip": "198.18.0.7"}
    rows = [make_event(START + timedelta(seconds=second), user, **columns) for second in seconds]
    return pa.Table.from_pylist(rows, schema=WIRE_SCHEMA)


def flat(rate, error=0.05):
    return SeriesProfile(slots=(rate,) * SLOTS, weekdays=(1.0,) * 7, error=error, days=14)


def baselines(rate=1.0):
    series = {"site": flat(rate), "event_type=cart": flat(rate / 10)}
    return Baselines(0, 1, 1, series=series, keys={"category_id": {"7": KeyRate(share=0.5, error=0.1)}})


def pieces(tables, *seconds):
    moments = [START + timedelta(seconds=second) for second in seconds]
    return [(piece.num_rows, moment and (moment - START).seconds) for piece, moment in cut(tables, moments)]


def test_tables_are_cut_at_moments_without_losing_events():
    tables = [events(range(10)), events(range(10, 20))]
    assert pieces(tables, 4, 10, 15) == [(4, 4), (6, None), (0, 10), (5, 15), (5, None)]


def test_a_moment_after_the_last_event_is_returned():
    assert pieces([events(range(3))], 100) == [(3, None), (0, 100)]


def test_moments_without_events_between_them_are_returned_in_order():
    assert pieces([events([0, 60])], 10, 20) == [(1, 10), (0, 20), (1, None)]


def test_a_series_includes_empty_bins():
    with closing(RunEvents([events([0, 1, 25]), events([2], user=BOT)], [BOT])) as traffic:
        times, counts, hostile = traffic.series({}, START_MS, START_MS + 40_000, 10_000)
    assert [time - START_MS for time in times] == [0, 10_000, 20_000, 30_000]
    assert (counts, hostile) == ([3, 0, 1, 0], [1, 0, 0, 0])


def test_a_series_of_a_key_that_is_derived_is_found():
    with closing(RunEvents([events([0, 1])])) as traffic:
        assert traffic.key_totals({"ip_net": "198.18.0.0/24"}, START_MS, START_MS + 10_000) == (2, 0)
        assert traffic.key_totals({"ip_net": "198.18.1.0/24"}, START_MS, START_MS + 10_000) == (0, 0)


def test_habits_contain_no_user_ids():
    with closing(RunEvents([events(range(0, 600, 10), user=BOT)], [BOT])) as traffic:
        said = traffic.habits([BOT])
        assert traffic.habits([5]) == "no events"
    assert said == "60 events in 9 min, 1 products, 0 carts, 0 purchases"


def test_an_exact_forecast_has_no_error():
    counts = HourCounts({"site": dict.fromkeys(range(START_MS // HOUR_MS, START_MS // HOUR_MS + 8), 7_200)})
    assert forecast_errors(baselines(), counts)["site"] == pytest.approx(0, abs=1e-9)


def test_a_forecast_error_is_relative():
    first = START_MS // HOUR_MS
    counts = HourCounts({"site": {first: 1_000, first + 1: 1_000, first + 2: 1_000, first + 3: 1_100}})
    assert forecast_errors(baselines(), counts) == {"site": pytest.approx(0.1)}


def test_hours_are_counted_by_event_type():
    counts = HourCounts()
    counts.add(events([0, 10]))
    counts.add(events([20, 4_000], kind="cart"))
    hour = START_MS // HOUR_MS
    assert counts.counts == {
        "site": {hour: 3, hour + 1: 1},
        "event_type=view": {hour: 2},
        "event_type=cart": {hour: 1, hour + 1: 1},
    }


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ({}, [20.0, 20.0]),
        ({"event_type": "cart"}, [2.0, 2.0]),
        ({"category_id": "7"}, [10.0, 10.0]),
        ({"category_id": "8"}, []),
        ({"user_id": "1"}, []),
    ],
)
def test_what_a_baseline_expects_depends_on_the_key(key, expected):
    times = [START_MS, START_MS + 10_000]
    assert expected_series(baselines(), key, times, 10_000, level=2.0) == pytest.approx(expected)


def test_the_level_is_observed_divided_by_expected():
    minutes = [(START_MS + minute * 60_000, 90) for minute in range(10)]
    assert level_of(baselines(), minutes) == pytest.approx(1.5)
    assert level_of(baselines(), []) == 1.0


def test_charts_show_attack_baseline_and_detections():
    truth = Truth("some", START_MS + 3_600_000, START_MS + 4_200_000, Nature.ATTACK, START_MS, actors=frozenset({BOT}))
    moment = START_MS + 3_700_000
    found = FoundIncident("id", "rule", "high", "attack", {}, moment - 10_000, moment, moment)
    with closing(RunEvents([events(range(0, 5_400, 2)), events(range(3_600, 4_200, 5), user=BOT)], [BOT])) as traffic:
        miss = timeline_of_miss(truth, [found], traffic, baselines(), "near")
        false = timeline_of_false(found, traffic, baselines(), truth)
    assert miss.missed
    assert not false.missed
    assert sum(miss.hostile) == 120
    assert miss.attack == (truth.from_ms, truth.until_ms)
    assert len(miss.expected) == len(miss.times_ms) == len(miss.events)
    assert false.marks == [(moment, "high rule")]
