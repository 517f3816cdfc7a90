"""The line from records of signals to incidents: repeated, cut anyhow, killed between steps, poisoned, throttled."""

import json
import sys
from dataclasses import replace
from datetime import timedelta

import pytest
from aws_lambda_powertools import Logger
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambdas.hour import START_MS, rules, seen
from shopstream.alerting import AlertingSettings, EmbeddedIncidentStore
from shopstream.alerting.detector_state import SavedDetection
from shopstream.alerting.item import ItemTooLargeError
from shopstream.alerting.judging import Judging
from shopstream.alerting.table import ConflictError
from shopstream.clock import ManualClock
from shopstream.detection.allowlist import AllowList
from shopstream.detection.detectors import shipped_bank
from shopstream.detection.pack import pack_rules, unpack_rules
from shopstream.detection.settings import DetectionSettings
from shopstream.engine.signal_codec import encode_signals
from shopstream.errors import BackpressureError, ConfigurationError, PermanentError, StateError
from shopstream.lambdas.line import Line, PoisonedRecordError

PLENTY_MS = 100_000


class KilledError(BaseException):
    """The process ends here."""


class States:
    """Keeps JSON text, as a store does."""

    def __init__(self):
        self.saved = None
        self.fail = None

    def generation(self):
        return self.saved[0] if self.saved else 0

    def load(self):
        return SavedDetection(self.saved[0], *json.loads(self.saved[1])) if self.saved else None

    def save(self, state, positions, *, until_ms, expected_generation):
        fail, self.fail = self.fail, None
        if fail == "before":
            raise KilledError
        if isinstance(fail, Exception):
            raise fail
        if expected_generation != self.generation():
            raise StateError("another has saved meanwhile")
        self.saved = (expected_generation + 1, json.dumps([state, positions, until_ms]))
        if fail == "after":
            raise KilledError
        return self.saved[0]


class Gathered(list):
    """Final detections, or failed records."""

    fail = None

    def deliver(self, detections):
        fail, self.fail = self.fail, None
        if fail:
            raise fail
        self.extend(detections)

    def add(self, record, reason):
        self.append((record.sequence_number, reason))


class Shop:
    """A line over one folder; `line()` is another process that goes on where the last one was."""

    def __init__(self, folder):
        self.path = folder / "incidents.db"
        self.states, self.delivered, self.failed = States(), Gathered(), Gathered()
        self.rules = unpack_rules(pack_rules(rules()), "rules")
        self.opened = []

    def judging(self):
        store = EmbeddedIncidentStore(self.path, AlertingSettings(), ManualClock(START_MS))
        self.opened.append(store)
        return Judging(self.rules, shipped_bank(DetectionSettings()), AllowList(), store)

    def line(self, **changed):
        bank = shipped_bank(DetectionSettings())
        parts = {
            "build": self.judging,
            "known": frozenset([*self.rules, *bank.reads]),
            "states": self.states,
            "delivery": self.delivered,
            "failed": self.failed,
            "logger": Logger(service="test"),
        }
        return Line(**{**parts, **changed})

    def close(self):
        for store in self.opened:
            store.close()


@pytest.fixture
def shop(tmp_path):
    made = Shop(tmp_path)
    yield made
    made.close()


@pytest.fixture
def shops(tmp_path_factory):
    """One for each example of a property."""
    made = []

    def make():
        made.append(Shop(tmp_path_factory.mktemp("shop")))
        return made[-1]

    yield make
    for one in made:
        one.close()


def left():
    return PLENTY_MS


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


def poisoned(record, payload=b"\xff not signals"):
    return replace(record, payload=payload)


def test_a_poisoned_record_is_put_aside_with_its_reason_and_the_line_goes_on(shop, records, expected):
    bad = poisoned(records[0])
    good = [replace(one, sequence_number=one.sequence_number + 1) for one in records]
    taken = shop.line().take([*good[:7], replace(bad, sequence_number=good[6].sequence_number + 1), *good[7:]], left)
    assert (taken.failed, taken.poisoned) == (None, 1)
    ((number, reason),) = shop.failed
    assert number == good[6].sequence_number + 1
    assert "expected signals as JSON" in reason
    assert seen(shop.path) == expected


@pytest.mark.parametrize("payload", [b"", b"{}", b"[" * 100_000, b'{"format":99,"until_ms":1,"signals":[]}', b"\x80"])
def test_whatever_is_no_batch_of_signals_is_put_aside(shop, records, payload):
    assert shop.line().take([poisoned(records[0], payload), records[1]], left).failed is None
    assert len(shop.failed) == 1


def test_a_moment_that_lost_a_part_is_put_aside_and_the_next_one_is_judged(shop, moments, records):
    parts = [part for moment in moments[:6] for part in encode_signals(*moment, max_bytes=2_000)]
    cut = next(place for place, part in enumerate(parts) if b'"part":1,' in part)
    lost = [*parts[: cut - 1], b"torn", *parts[cut:]]
    told = [
        replace(records[0], payload=payload, sequence_number=records[0].sequence_number + number)
        for number, payload in enumerate(lost)
    ]
    taken = shop.line().take(told, left)
    assert taken.failed is None
    assert taken.poisoned == len(shop.failed) >= 2
    assert "those before it were lost" in shop.failed[1][1]
    assert taken.signals > 0


def test_without_a_queue_a_poisoned_record_is_given_back_once_those_before_it_are_done(shop, records):
    line = shop.line(failed=None)
    bad = replace(poisoned(records[2]), sequence_number=records[2].sequence_number + 1)
    batch = [*records[:3], bad, *records[3:9]]
    taken = line.take(batch, left)
    assert isinstance(taken.error, PoisonedRecordError)
    assert taken.failed == bad.sequence_number
    assert line.take(batch[3:], left).failed == bad.sequence_number
    assert line.take(records[3:9], left).failed is None  # Lambda gave the poisoned one up


def breaking(shop, error, window="breaks"):
    """A way to build judges that signals of one window break."""
    judging = shop.judging

    class Fragile:
        def __init__(self):
            self._judging = judging()
            self.snapshot, self.restore = self._judging.snapshot, self._judging.restore

        def judge(self, signals, until_ms):
            if any(signal.window == window for signal in signals):
                raise error
            return self._judging.judge(signals, until_ms)

    return Fragile


def of_window(record, window):
    document = json.loads(record.payload)
    document["signals"] = [
        {"window": window, "key": {}, "measures": {}, "final": True}
        | dict.fromkeys(("start_ms", "end_ms", "first_event_ms", "last_event_ms"), 0)
    ]
    return replace(record, payload=json.dumps(document).encode(), sequence_number=record.sequence_number - 1)


def test_a_record_that_breaks_the_judge_is_found_among_many_and_put_aside(shop, records, expected, capsys):
    bad = of_window(records[5], "breaks")
    line = shop.line(build=breaking(shop, KeyError(7 * 673)), logger=Logger(service="fragile", stream=sys.stdout))
    taken = line.take([*records[:5], bad, *records[5:]], left)
    log = capsys.readouterr().out
    assert ("KeyError" in log, "in judge" in log, "4711" in log) == (True, True, False)
    assert (taken.failed, taken.poisoned) == (None, 1)
    assert [number for number, _ in shop.failed] == [bad.sequence_number]
    assert seen(shop.path) == expected


def test_a_record_whose_incident_is_too_large_is_put_aside_with_its_reason_and_the_others_are_judged(
    shop, records, expected
):
    bad = of_window(records[5], "breaks")
    too_large = ItemTooLargeError("the episode of incident a-1 has 500000")
    taken = shop.line(build=breaking(shop, too_large)).take([*records[:5], bad, *records[5:]], left)
    assert (taken.failed, taken.error, taken.poisoned) == (None, None, 1)
    assert shop.failed == [(bad.sequence_number, str(too_large))]
    assert seen(shop.path) == expected


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("denied"),
        BackpressureError("throttled", timedelta(seconds=1)),
        ConflictError("another has written"),
        PermanentError("refused"),
    ],
)
def test_what_is_no_fault_of_a_record_is_never_put_aside(shop, records, error):
    taken = shop.line(build=breaking(shop, error)).take([*records[:5], of_window(records[5], "breaks")], left)
    assert (taken.failed, taken.error, shop.failed) == (records[0].sequence_number, error, [])


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
