"""Detector 9: many ids with one client software, one network, or one path."""

import json
from datetime import UTC, datetime
from itertools import pairwise

import duckdb
import pyarrow as pa
import pytest

from factories import make_signal
from shopstream.detection.detector import SITE_60S
from shopstream.detection.detector_runner import DetectorRunner
from shopstream.detection.detectors.coordination import (
    AGENT_60S,
    NET_60S,
    PATH_300S,
    CoordinationDetector,
)
from shopstream.engine.batch import batch_sql
from shopstream.events.schema import WIRE_SCHEMA

MINUTE = 60_000
START = 1_572_912_000_000  # a midnight, UTC
SITE = 1_200


def signal(window, minute, key, **measures):
    return make_signal(window.name, START + minute * MINUTE, key, size_ms=window.size_ms, measures=measures)


def site(minute, events=SITE):
    return signal(SITE_60S, minute, {}, events=events)


def agent(minute, name, events, ids=None, new_ids=0):
    ids = events if ids is None else ids
    return signal(AGENT_60S, minute, {"agent_hash": name}, events=events, actors=ids, new_ids=new_ids)


def net(minute, name, events, new_ids):
    return signal(NET_60S, minute, {"ip_net": name}, events=events, actors=new_ids, new_ids=new_ids)


def steps(minute, pairs, events, ids=None):
    """Pairs of products, each walked by so many."""
    return [
        signal(
            PATH_300S,
            minute,
            {"previous_product_id": before, "product_id": after},
            events=events,
            actors=events if ids is None else ids,
        )
        for before, after in pairs
    ]


def usual(minute):
    """A minute as always: three clients and one carrier."""
    return [
        site(minute),
        agent(minute, "chrome", 400 + minute % 5),
        agent(minute, "safari", 300),
        net(minute, "100.64.1.0/24", 36, 6),
    ]


def run(detector, minutes, extra=None):
    """Detections of minutes; `extra`: minute → what comes besides."""
    more = extra or {}
    found = []
    for minute in minutes:
        signals = usual(minute) + more.get(minute, [])
        found += detector.observe(START + minute * MINUTE, signals)
        for part in range(1, 6):
            found += detector.observe(START + minute * MINUTE + part * 10_000, [])
    return found


@pytest.fixture
def warm():
    detector = CoordinationDetector()
    assert run(detector, range(1, 181)) == []
    return detector


def test_a_client_that_was_never_seen_is_found_in_its_first_minute(warm):
    found = run(warm, range(181, 182), {181: [agent(181, "headless", 90)]})
    assert [(one.rule_id, dict(one.key), one.verdict) for one in found] == [
        ("coordination_agent", {"agent_hash": "headless"}, "bot")
    ]
    assert (found[0].start_ms, found[0].end_ms) == (START + 180 * MINUTE, START + 181 * MINUTE)


def test_a_detection_carries_its_evidence(warm):
    (found,) = run(warm, range(181, 182), {181: [agent(181, "headless", 90)]})
    assert found.measures["share"] == pytest.approx(90 / SITE)
    evidence = found.evidence
    assert evidence["low"] <= evidence["expected"] <= evidence["high"] < 90
    assert evidence["excess_events"] == pytest.approx(90 - evidence["expected"])
    assert evidence["genuine_share"] == 0
    assert 0 < evidence["confidence"] <= 1
    assert evidence["composition"]["share"] == pytest.approx([0.075, 0.002])


def test_more_of_a_usual_client_is_found_and_not_called_a_bot(warm):
    minute = 181
    signals = [site(minute, 2_400), agent(minute, "chrome", 1_600), agent(minute, "safari", 300)]
    (found,) = warm.observe(START + minute * MINUTE, signals)
    assert (dict(found.key), found.verdict) == ({"agent_hash": "chrome"}, None)
    assert 0.4 < found.evidence["genuine_share"] < 0.7


def test_a_busier_shop_with_the_same_shares_is_left_alone(warm):
    minute = 181
    signals = [site(minute, 12_000), agent(minute, "chrome", 4_000), agent(minute, "safari", 3_000)]
    assert warm.observe(START + minute * MINUTE, signals) == []


def test_one_busy_id_is_no_coordination(warm):
    assert run(warm, range(181, 200), {m: [agent(m, "curl", 200, ids=1)] for m in range(181, 200)}) == []


def test_a_network_that_changes_ids_slowly_is_found_within_ten_minutes(warm):
    extra = {m: [net(m, "198.51.100.0/24", 14, 3)] for m in range(181, 200)}
    found = run(warm, range(181, 200), extra)
    assert found[0].rule_id == "coordination_net"
    assert found[0].end_ms <= START + 190 * MINUTE
    assert found[0].end_ms - found[0].start_ms == 10 * MINUTE


def test_ongoing_coordination_gives_one_detection_a_minute_in_adjoining_windows(warm):
    found = run(warm, range(181, 191), {m: [agent(m, "headless", 90)] for m in range(181, 191)})
    assert [one.end_ms for one in found] == [START + m * MINUTE for m in range(181, 191)]
    assert all(before.end_ms == after.start_ms for before, after in pairwise(found))
    assert len({one.detection_id for one in found}) == len(found)


def test_an_attack_is_not_learned_and_found_again_after_a_pause(warm):
    first = {m: [agent(m, "headless", 90)] for m in range(181, 300)}
    assert run(warm, range(181, 300), first)
    assert run(warm, range(300, 320)) == []
    assert run(warm, range(320, 321), {320: [agent(320, "headless", 90)]})


def test_what_lasts_longer_than_a_day_is_learned(warm):
    minutes = range(181, 181 + 1_440 + 300)
    found = run(warm, minutes, {m: [agent(m, "new-browser", 90)] for m in minutes})
    assert found[-1].end_ms < START + minutes[-1] * MINUTE - 60 * MINUTE


def test_nothing_is_said_in_the_first_two_hours():
    detector = CoordinationDetector()
    assert run(detector, range(1, 120), {m: [agent(m, "headless", 90)] for m in range(60, 120)}) == []


def test_a_quiet_night_is_not_evaluated(warm):
    minute = 181
    assert warm.observe(START + minute * MINUTE, [site(minute, 40), agent(minute, "headless", 30)]) == []


def test_a_path_that_many_walk_is_found_and_drawn(warm):
    path = [(n, n + 1) for n in range(10, 22)]
    found = run(warm, range(181, 186), {185: steps(185, path, 40)})
    assert [one.rule_id for one in found] == ["coordination_path"]
    assert found[0].key == {}
    assert found[0].verdict is None
    assert found[0].evidence["path"] == [str(n) for n in range(10, 23)]


def test_a_sale_of_a_few_products_is_no_path(warm):
    products = range(1, 11)
    pairs = [(a, b) for a in products for b in products if a != b]
    assert run(warm, range(181, 186), {185: steps(185, pairs, 40)}) == []


def test_pairs_that_are_always_walked_are_no_path():
    path = [(n, n + 1) for n in range(10, 22)]
    detector = CoordinationDetector()
    minutes = range(1, 400)
    assert run(detector, minutes, {m: steps(m, path, 40) for m in minutes if m % 5 == 0}) == []


def test_without_addresses_and_clients_only_walks_are_watched():
    detector = CoordinationDetector()
    for minute in range(1, 200):
        extra = steps(minute, [(n, n + 1) for n in range(10, 22)], 40) if minute == 195 else []
        found = detector.observe(START + minute * MINUTE, [site(minute), *extra])
        assert [one.rule_id for one in found] == (["coordination_path"] if minute == 195 else [])


def test_a_restored_detector_continues_as_the_first(warm):
    run(warm, range(181, 184), {183: [agent(183, "headless", 90), net(183, "n", 14, 3)]})
    again = CoordinationDetector()
    again.restore(json.loads(json.dumps(warm.snapshot())))
    extra = {m: [agent(m, "headless", 70), net(m, "n", 14, 3)] for m in range(184, 200)}
    assert run(warm, range(184, 201), extra) == run(again, range(184, 201), extra)
    assert warm.snapshot() == again.snapshot()


def test_state_stays_small_however_many_keys_come():
    detector = CoordinationDetector()
    for minute in range(1, 60):
        keys = [net(minute, f"net {minute} {n}", 6, 6) for n in range(50)]
        detector.observe(START + minute * MINUTE, [site(minute), *keys])
    assert len(json.dumps(detector.snapshot())) < 100_000


def test_events_without_address_or_predecessor_are_in_no_window():
    rows = [
        {"event_time": datetime(2019, 11, 5, 0, 0, n, tzinfo=UTC), "event_type": "view", "product_id": n, "user_id": 1}
        for n in range(8)
    ]
    rows += [{**row, "user_id": 2, "ip": "192.0.2.9", "user_agent": "curl"} for row in rows]
    rows = [{"category_id": 7, "price": 1, "event_id": f"{n:03}", **row} for n, row in enumerate(rows)]
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("events", pa.Table.from_pylist(rows, schema=WIRE_SCHEMA))
        counts = {
            window.name: connection.execute(f"select count(*) from ({batch_sql(window, 'events')})").fetchall()[0][0]
            for window in DetectorRunner([CoordinationDetector()]).declarations
        }
    assert counts == {SITE_60S.name: 1, AGENT_60S.name: 1, NET_60S.name: 1, PATH_300S.name: 0}
