"""The line from records of signals to incidents: repeated, cut anyhow, killed between steps, throttled."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambdas.hour import START_MS, seen
from lambdas.shop import KilledError, left
from shopstream.engine.signals import encode_signals
from shopstream.errors import BackpressureError, ConfigurationError


def test_the_hour_has_incidents_of_rules_and_detectors(expected):
    assert {"user_burst", "user_rate", "volume_surge"} <= {incident[1] for incident in expected}


def test_the_incidents_are_those_of_judging_in_process(shop, records, expected):
    taken = shop.line().take(records, left)
    assert taken.failed is None
    assert seen(shop.path) == expected
    assert taken.opened.total() >= len(expected)


def test_the_same_records_again_change_nothing(shop, records, expected):
    line = shop.line()
    line.take(records, left)
    delivered, saved = len(shop.delivered), shop.states.saved
    taken = line.take(records, left)
    assert (taken.failed, taken.repeated, taken.signals) == (None, len(records), 0)
    assert (len(shop.delivered), shop.states.saved) == (delivered, saved)
    assert seen(shop.path) == expected


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_an_engine_tells_again_after_a_crash_changes_nothing(shops, moments, records, expected, data):
    shop, killed = shops(), data.draw(st.integers(1, len(moments) - 1))
    checkpoint = data.draw(st.integers(0, killed - 1))
    size = data.draw(st.integers(5_000, 60_000))
    told = [part for moment in moments[:killed] for part in encode_signals(*moment, max_bytes=20_000)]
    told = told[: len(told) - data.draw(st.integers(0, 1))]  # maybe in the middle of a moment
    told += [part for moment in moments[checkpoint:] for part in encode_signals(*moment, max_bytes=size)]
    again = [
        replace(records[0], payload=payload, sequence_number=records[0].sequence_number + number)
        for number, payload in enumerate(told)
    ]
    for first in range(0, len(again), 25):
        assert shop.line().take(again[first : first + 25], left).failed is None
    assert shop.failed == []
    assert seen(shop.path) == expected


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_cut_with_any_part_repeated_by_any_process_gives_the_same(shops, records, expected, data):
    shop = shops()
    line, place = shop.line(), 0
    while place < len(records):
        first = max(0, place - data.draw(st.integers(0, 30)))
        place = min(len(records), place + data.draw(st.integers(1, 120)))
        if data.draw(st.booleans()):
            line = shop.line()
        assert line.take(records[first:place], left).failed is None
    assert seen(shop.path) == expected


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_that_is_killed_around_the_save_loses_nothing_and_doubles_nothing(shop, records, expected, when):
    half = len(records) // 2
    shop.line().take(records[:half], left)
    shop.states.fail = when
    with pytest.raises(KilledError):
        shop.line().take(records[half:], left)
    assert shop.line().take(records[half:], left).failed is None
    assert seen(shop.path) == expected


def test_every_final_detection_is_delivered(shop, records):
    shop.line().take(records, left)
    first = [detection.detection_id for detection in shop.delivered]
    assert first
    assert len(first) == len(set(first))


def test_what_cannot_be_delivered_comes_again_with_its_records(shop, records, expected):
    line = shop.line()
    shop.delivered.fail = BackpressureError("full", timedelta(seconds=1))
    taken = line.take(records, left)
    assert isinstance(taken.error, BackpressureError)
    assert taken.failed == records[0].sequence_number
    assert line.take(records, left).failed is None
    assert seen(shop.path) == expected


def test_a_throttled_store_gives_back_the_records_from_the_first_one_that_is_not_done(shop, records):
    line = shop.line()
    line.take(records[:10], left)
    shop.states.fail = BackpressureError("throttled", timedelta(seconds=1))
    assert line.take(records[5:30], left).failed == records[10].sequence_number


def test_a_denied_permission_is_no_fault_of_the_records(shop, records):
    shop.states.fail = ConfigurationError("denied")
    taken = shop.line().take(records[:5], left)
    assert (taken.failed, shop.failed) == (records[0].sequence_number, [])


def test_who_was_overtaken_begins_from_what_the_other_saved(shop, records, expected):
    slow, half = shop.line(), len(records) // 2
    slow.take(records[:10], left)
    shop.line().take(records[:half], left)
    taken = slow.take(records[10:], left)
    assert (taken.failed, taken.repeated) == (None, half - 10)
    assert seen(shop.path) == expected


def test_a_save_over_another_is_refused_and_the_records_come_again(shop, records, expected):
    slow = shop.line()
    slow.take(records[:10], left)
    generation = shop.states.generation
    shop.states.generation = lambda: 1  # read just before the other one saved
    shop.line().take(records[10:20], left)
    saved = shop.states.saved
    taken = slow.take(records[10:20], left)
    shop.states.generation = generation
    assert (taken.failed, shop.states.saved) in {(records[10].sequence_number, saved), (None, shop.states.saved)}
    assert slow.take(records[10:], left).failed is None
    assert seen(shop.path) == expected


def test_no_portion_is_begun_shortly_before_the_deadline(shop, records):
    taken = shop.line().take(records, lambda: 9_000)
    assert (taken.failed, shop.states.saved) == (records[0].sequence_number, None)


def test_what_was_done_before_the_deadline_stays_done(shop, records, expected):
    clock = iter([50_000, 30_000, 5_000])
    line = shop.line(failed=None)  # then each record is a portion of its own
    taken = line.take(records, lambda: next(clock))
    assert taken.failed == records[2].sequence_number
    shop.line().take(records[2:], left)
    assert seen(shop.path) == expected


def test_signals_that_nobody_reads_are_counted_by_window(shop, records):
    document = json.loads(records[0].payload)
    document["signals"] = [
        {"window": "not_packed", "key": {}, "measures": {}, "final": True}
        | dict.fromkeys(("start_ms", "end_ms", "first_event_ms", "last_event_ms"), START_MS)
    ]
    taken = shop.line().take([replace(records[0], payload=json.dumps(document).encode())], left)
    assert dict(taken.unknown) == {"not_packed": 1}


def test_a_state_of_another_format_is_an_error_that_says_so(shop, records):
    shop.states.saved = (1, json.dumps([{"format": 2}, {}, None]))
    taken = shop.line().take(records[:1], left)
    assert "format 1" in str(taken.error)
    assert taken.failed == records[0].sequence_number
