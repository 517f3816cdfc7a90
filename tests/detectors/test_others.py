"""Pulses, crowds, silence, collapses, bad data, floods of keys: each is found by its detector, and nothing else is."""

import re
from dataclasses import replace

import numpy as np
import pytest

from factories import make_signal
from shopstream.detection.baseline import KeyRate
from shopstream.detection.detection import Nature
from shopstream.detection.detector import BIN_MS, DUPLICATE_SIGNAL, PRICE_SIGNAL
from shopstream.detection.detector_runner import DetectorRunner
from shopstream.detection.detectors.shipped import shipped_detectors
from shopstream.detection.settings import DetectionSettings


@pytest.fixture(scope="module")
def judge(shop):
    def judge(signals, baselines=None, off=()):
        detectors = shipped_detectors(DetectionSettings(detectors_off=off), baselines or shop.baselines())
        found = DetectorRunner(detectors).advance(signals, max(one.end_ms for one in signals))
        assert [one.headline for one in found if "{" in one.headline] == []
        return found

    return judge


@pytest.fixture(scope="module")
def hours(shop):
    """Signals of some hours from midnight; `change` maps bins and expected counts to (genuine, hostile)."""

    def hours(count, change, seed=1, **options):
        bins = np.arange(count * 360)
        genuine, hostile = change(bins, shop.rate(bins / 360 % 24) * 10)
        return shop.signals(np.random.default_rng(seed), genuine, hostile, **options)

    return hours


def after(found, shop, bins):
    """Rule ids of what was detected after a bin, with seconds since."""
    waits = {}
    for one in found:
        waits.setdefault(one.rule_id, (one.end_ms - shop.start_ms) / 1000 - bins * 10)
    return waits


def changed(one, **measures):
    return replace(one, measures={**one.measures, **measures})


def test_pulses_are_found_within_ten_minutes(shop, judge, hours):
    signals = hours(11, lambda b, g: (g, np.where((b >= 3600) & (b % 6 == 0), g * 3, 0)))
    found = [one for one in judge(signals) if one.rule_id == "burst"]
    assert (found[0].end_ms - shop.start_ms) / 1000 - 36_000 <= 600
    assert found[0].measures["burstiness"] > 4
    assert found[0].nature is Nature.ATTACK


def test_a_step_and_a_ramp_are_no_pulses(judge, hours):
    for shape in (lambda b: np.where(b >= 3600, 4, 1), lambda b: 1 + np.clip((b - 3600) / 60, 0, 4)):
        signals = hours(11, lambda b, g, shape=shape: (g * shape(b), g * 0))
        assert "burst" not in {one.rule_id for one in judge(signals)}


@pytest.mark.parametrize(("share", "within"), [(0.1, 300), (0.3, 180)])
def test_a_crowd_of_ids_is_found_within_five_minutes(shop, judge, hours, share, within):
    signals = hours(11, lambda b, g: (g, np.where(b >= 3600, g * share, 0)), new=0.33)
    found = [one for one in judge(signals) if one.rule_id == "composition"]
    assert 0 < (found[0].end_ms - shop.start_ms) / 1000 - 36_000 <= within
    observed, usual = found[0].evidence["composition"]["tail"]
    assert observed > 1.2 * usual
    assert sum(found[0].evidence["contributions"].values()) == pytest.approx(1, abs=0.01)


def test_rotating_ids_at_three_per_cent_are_found_within_half_an_hour(shop, judge, hours):
    signals = hours(12, lambda b, g: (g, np.where(b >= 3600, g * 0.03, 0)), new=0.1)
    found = [one for one in judge(signals) if one.rule_id == "composition"]
    assert 0 < (found[0].end_ms - shop.start_ms) / 1000 - 36_000 <= 1_800


def test_silence_of_the_site_is_found_within_a_minute_and_said_once(shop, judge, hours):
    signals = hours(12, lambda b, g: (np.where((b >= 3600) & (b < 3700), 0, g), g * 0))
    found = judge(signals)
    assert after(found, shop, 3600).keys() == {"silence"}
    assert 0 < after(found, shop, 3600)["silence"] <= 60
    assert found[0].nature is Nature.FAULT
    assert found[-1].measures["silence_seconds"] >= 900
    assert re.fullmatch(r"No data for 1\d min( \d+ s)?", found[-1].headline)


@pytest.mark.parametrize("kind", ["carts", "purchases"])
def test_silence_of_a_type_is_found(shop, judge, hours, kind):
    start_ms = shop.start_ms + 36_000_000
    signals = [
        changed(one, **{kind: 0}) if kind in one.measures and one.start_ms >= start_ms else one
        for one in hours(11, lambda _, g: (g, g * 0))
    ]
    found = [one for one in judge(signals) if one.rule_id == "silence_type"]
    assert found[0].key == {"event_type": kind.removesuffix("s")}
    assert 0 < after(found, shop, 3600)["silence_type"] <= 120


@pytest.mark.parametrize(("left", "within"), [(0.5, 1_800), (0.1, 600)])
def test_a_collapse_of_purchases_is_found(shop, judge, hours, left, within):
    start_ms = shop.start_ms + 36_000_000
    signals = [
        changed(one, purchases=round(one.measures["purchases"] * left))
        if "purchases" in one.measures and one.start_ms >= start_ms
        else one
        for one in hours(12, lambda _, g: (g, g * 0))
    ]
    found = after(judge(signals), shop, 3600)
    assert 0 < found["conversion"] <= within


def test_a_surge_of_views_is_no_collapse_of_purchases(shop, judge, hours):
    signals = hours(11, lambda b, g: (g, np.where(b >= 3600, g, 0)))
    assert "conversion" not in after(judge(signals), shop, 3600)


def test_a_duplicate_storm_is_found_within_a_minute(shop, judge, hours):
    signals = hours(11, lambda _, g: (g, g * 0))
    for place in range(11 * 360):
        end_ms = shop.start_ms + (place + 1) * BIN_MS
        signals.append(
            make_signal(DUPLICATE_SIGNAL, end_ms, measures={"duplicates": 100 if place >= 3600 else place % 2})
        )
    found = judge(signals)
    assert found[0].rule_id == "duplicates"
    assert 0 < after(found, shop, 3600)["duplicates"] <= 60


def test_a_field_that_is_suddenly_empty_is_named(shop, judge, hours):
    start_ms = shop.start_ms + 36_000_000
    signals = [
        changed(one, no_brand=one.measures["events"] // 2)
        if "no_brand" in one.measures and one.start_ms >= start_ms
        else one
        for one in hours(11, lambda _, g: (g, g * 0))
    ]
    assert after(judge(signals), shop, 3600).keys() == {"nulls_brand"}


@pytest.mark.parametrize(("price", "low", "high"), [(1.0, 100.0, 120.0), (1_000.0, 90.0, 100.0)])
def test_a_price_that_cannot_be_is_reported_at_its_first_event(shop, judge, price, low, high):
    end_ms = shop.start_ms + BIN_MS
    values = {"events": 1, "lowest": price, "highest": price, "low": low, "high": high}
    (found,) = judge([make_signal(PRICE_SIGNAL, end_ms, {"product_id": 7}, measures=values)])
    assert (found.rule_id, dict(found.key)) == ("price", {"product_id": "7"})
    assert found.measures["price"] == price


@pytest.mark.parametrize("column", ["category_id", "product_id"])
def test_a_flood_of_a_key_is_found_within_three_minutes_and_those_of_one_robot_not(shop, judge, column):
    known = shop.baselines()
    object.__setattr__(known, "keys", {column: {"5": KeyRate(0.05, 0.1)}})

    def minute(place, events, users):
        end_ms = shop.start_ms + (place + 1) * 60_000
        measures = {"events": events, "users": users, "buys": 0}
        return make_signal(f"detect_{column}_60s", end_ms, {column: 5}, size_ms=60_000, measures=measures)

    site = shop.minutes(60)
    found = judge([*site, *(minute(place, 150 if place >= 40 else 30, 100) for place in range(60))], known)
    floods = [one for one in found if one.key == {column: "5"}]
    assert 0 < (floods[0].end_ms - shop.start_ms) / 1000 - 2_400 <= 180
    assert floods[0].evidence["genuine_share"] < 0.4
    alone = judge([*site, *(minute(place, 150 if place >= 40 else 30, 21) for place in range(60))], known)
    assert [one for one in alone if one.key == {column: "5"}] == []


def test_a_detector_that_is_off_is_not_heard(judge, shop):
    signals = shop.minutes(90, flood=(60, 80))
    assert "volume" in {one.rule_id for one in judge(signals)}
    assert "volume" not in {one.rule_id for one in judge(signals, off=("volume",))}
