"""The line from records of signals to incidents: repeated, cut anyhow, killed between steps, throttled."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from incident_desk import read_incidents
from lambdas.hour import START_MS, seen
from lambdas.shop import KilledError, left
from shopstream.engine.signals import encode_signals
from shopstream.errors import BackpressureError, ConfigurationError


def test_the_hour_has_incidents_of_rules_and_detectors(expected):
    assert {"user_burst", "user_rate", "volume_surge"} <= {incident[1] for incident in expected}


def test_the_incidents_are_those_of_detection_in_process(shop, records, expected):
    done = shop.processor().process(records, left)
    assert done.failed is None
    assert seen(read_incidents(shop.path)) == expected
    assert done.opened.total() >= len(expected)


def test_the_same_records_again_change_nothing(shop, records, expected):
    processor = shop.processor()
    processor.process(records, left)
    delivered, saved = len(shop.delivered), shop.states.saved
    done = processor.process(records, left)
    assert (done.failed, done.repeated, done.signals) == (None, len(records), 0)
    assert (len(shop.delivered), shop.states.saved) == (delivered, saved)
    assert seen(read_incidents(shop.path)) == expected


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_signals_repeated_after_a_crash_change_nothing(shops, moments, records, expected, data):
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
        assert shop.processor().process(again[first : first + 25], left).failed is None
    assert shop.failed == []
    assert seen(read_incidents(shop.path)) == expected


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_cut_with_any_part_repeated_by_any_process_gives_the_same(shops, records, expected, data):
    shop = shops()
    processor, place = shop.processor(), 0
    while place < len(records):
        first = max(0, place - data.draw(st.integers(0, 30)))
        place = min(len(records), place + data.draw(st.integers(1, 120)))
        if data.draw(st.booleans()):
            processor = shop.processor()
        assert processor.process(records[first:place], left).failed is None
    assert seen(read_incidents(shop.path)) == expected


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_that_is_killed_around_the_save_loses_nothing_and_doubles_nothing(shop, records, expected, when):
    half = len(records) // 2
    shop.processor().process(records[:half], left)
    shop.states.fail = when
    with pytest.raises(KilledError):
        shop.processor().process(records[half:], left)
    assert shop.processor().process(records[half:], left).failed is None
    assert seen(read_incidents(shop.path)) == expected


def test_every_final_detection_is_delivered(shop, records):
    shop.processor().process(records, left)
    first = [detection.detection_id for detection in shop.delivered]
    assert first
    assert len(first) == len(set(first))


def test_what_cannot_be_delivered_comes_again_with_its_records(shop, records, expected):
    processor = shop.processor()
    shop.delivered.fail = BackpressureError("full", timedelta(seconds=1))
    done = processor.process(records, left)
    assert isinstance(done.error, BackpressureError)
    assert done.failed == records[0].sequence_number
    assert processor.process(records, left).failed is None
    assert seen(read_incidents(shop.path)) == expected


def test_a_throttled_store_gives_back_the_records_from_the_first_one_that_is_not_done(shop, records):
    processor = shop.processor()
    processor.process(records[:10], left)
    shop.states.fail = BackpressureError("throttled", timedelta(seconds=1))
    assert processor.process(records[5:30], left).failed == records[10].sequence_number


def test_a_denied_permission_is_no_fault_of_the_records(shop, records):
    shop.states.fail = ConfigurationError("denied")
    done = shop.processor().process(records[:5], left)
    assert (done.failed, shop.failed) == (records[0].sequence_number, [])


def test_who_was_overdone_begins_from_what_the_other_saved(shop, records, expected):
    slow, half = shop.processor(), len(records) // 2
    slow.process(records[:10], left)
    shop.processor().process(records[:half], left)
    done = slow.process(records[10:], left)
    assert (done.failed, done.repeated) == (None, half - 10)
    assert seen(read_incidents(shop.path)) == expected


def test_a_save_over_another_is_refused_and_the_records_come_again(shop, records, expected):
    slow = shop.processor()
    slow.process(records[:10], left)
    generation = shop.states.generation
    shop.states.generation = lambda: 1  # read just before the other one saved
    shop.processor().process(records[10:20], left)
    saved = shop.states.saved
    done = slow.process(records[10:20], left)
    shop.states.generation = generation
    assert (done.failed, shop.states.saved) in {(records[10].sequence_number, saved), (None, shop.states.saved)}
    assert slow.process(records[10:], left).failed is None
    assert seen(read_incidents(shop.path)) == expected


def test_no_portion_is_begun_shortly_before_the_deadline(shop, records):
    done = shop.processor().process(records, lambda: 9_000)
    assert (done.failed, shop.states.saved) == (records[0].sequence_number, None)


def test_what_was_done_before_the_deadline_stays_done(shop, records, expected):
    clock = iter([50_000, 30_000, 5_000])
    processor = shop.processor(failed=None)  # then each record is a portion of its own
    done = processor.process(records, lambda: next(clock))
    assert done.failed == records[2].sequence_number
    shop.processor().process(records[2:], left)
    assert seen(read_incidents(shop.path)) == expected


def test_unread_signals_are_counted_by_window(shop, records):
    document = json.loads(records[0].payload)
    document["signals"] = [
        {"window": "not_packed", "key": {}, "measures": {}, "final": True}
        | dict.fromkeys(("start_ms", "end_ms", "first_event_ms", "last_event_ms"), START_MS)
    ]
    done = shop.processor().process([replace(records[0], payload=json.dumps(document).encode())], left)
    assert dict(done.unknown) == {"not_packed": 1}


def test_a_state_of_another_format_is_an_error_that_says_so(shop, records):
    shop.states.saved = (1, json.dumps([{"format": 2}, {}, None]))
    done = shop.processor().process(records[:1], left)
    assert "format 1" in str(done.error)
    assert done.failed == records[0].sequence_number
