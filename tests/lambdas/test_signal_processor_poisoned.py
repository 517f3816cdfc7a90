"""Records of which the line can make nothing, and those that only seem so: what is set aside, and what goes on."""

import json
import sys
from dataclasses import replace
from datetime import timedelta

import pytest
from aws_lambda_powertools import Logger

from incident_desk import read_incidents
from lambdas.hour import seen
from lambdas.shop import left
from shopstream.engine.signals import encode_signals
from shopstream.errors import BackpressureError, ConfigurationError, PermanentError, RetryableError
from shopstream.incidents.aws import ItemTooLargeError
from shopstream.lambdas.signal_processor import PoisonedRecordError


def poisoned(record, payload=b"\xff not signals"):
    return replace(record, payload=payload)


def test_a_poisoned_record_is_set_aside_with_its_reason_and_processing_continues(shop, records, expected):
    bad = poisoned(records[0])
    good = [replace(one, sequence_number=one.sequence_number + 1) for one in records]
    done = shop.processor().process(
        [*good[:7], replace(bad, sequence_number=good[6].sequence_number + 1), *good[7:]], left
    )
    assert (done.failed, done.poisoned) == (None, 1)
    ((number, reason),) = shop.failed
    assert number == good[6].sequence_number + 1
    assert "expected signals as JSON" in reason
    assert seen(read_incidents(shop.path)) == expected


@pytest.mark.parametrize("payload", [b"", b"{}", b"[" * 100_000, b'{"format":99,"until_ms":1,"signals":[]}', b"\x80"])
def test_whatever_is_no_batch_of_signals_is_set_aside(shop, records, payload):
    assert shop.processor().process([poisoned(records[0], payload), records[1]], left).failed is None
    assert len(shop.failed) == 1


def test_a_moment_that_lost_a_part_is_set_aside_and_the_next_one_is_processed(shop, moments, records):
    parts = [part for moment in moments[:6] for part in encode_signals(*moment, max_bytes=2_000)]
    cut = next(place for place, part in enumerate(parts) if b'"part":1,' in part)
    lost = [*parts[: cut - 1], b"torn", *parts[cut:]]
    told = [
        replace(records[0], payload=payload, sequence_number=records[0].sequence_number + number)
        for number, payload in enumerate(lost)
    ]
    done = shop.processor().process(told, left)
    assert done.failed is None
    assert done.poisoned == len(shop.failed) >= 2
    assert "if it was a part of signals" not in shop.failed[0][1]
    assert "earlier parts were lost" in shop.failed[1][1]
    assert done.signals > 0


def test_without_a_queue_a_poisoned_record_is_given_back_once_those_before_it_are_done(shop, records):
    processor = shop.processor(failed=None)
    bad = replace(poisoned(records[2]), sequence_number=records[2].sequence_number + 1)
    batch = [*records[:3], bad, *records[3:9]]
    done = processor.process(batch, left)
    assert isinstance(done.error, PoisonedRecordError)
    assert done.failed == bad.sequence_number
    assert processor.process(batch[3:], left).failed == bad.sequence_number
    assert processor.process(records[3:9], left).failed is None  # Lambda gave the poisoned one up


def breaking(shop, error, window="breaks"):
    """A way to make runners that signals of one window break."""
    make = shop.runner

    class Fragile:
        def __init__(self):
            self._runner = make()
            self.snapshot, self.restore = self._runner.snapshot, self._runner.restore

        def run(self, signals, until_ms, quiet=None):
            if any(signal.window == window for signal in signals):
                raise error
            return self._runner.run(signals, until_ms, quiet)

    return Fragile


def of_window(record, window):
    document = json.loads(record.payload)
    document["signals"] = [
        {"window": window, "key": {}, "measures": {}, "final": True}
        | dict.fromkeys(("start_ms", "end_ms", "first_event_ms", "last_event_ms"), 0)
    ]
    return replace(record, payload=json.dumps(document).encode(), sequence_number=record.sequence_number - 1)


def test_a_record_that_breaks_detection_is_found_among_many_and_set_aside(shop, records, expected, capsys):
    bad = of_window(records[5], "breaks")
    processor = shop.processor(
        runner=breaking(shop, KeyError(7 * 673)), logger=Logger(service="fragile", stream=sys.stdout)
    )
    done = processor.process([*records[:5], bad, *records[5:]], left)
    log = capsys.readouterr().out
    assert ("KeyError" in log, "in run" in log, "4711" in log) == (True, True, False)
    assert (done.failed, done.poisoned) == (None, 1)
    assert [number for number, _ in shop.failed] == [bad.sequence_number]
    assert seen(read_incidents(shop.path)) == expected


def test_a_record_whose_incident_is_too_large_is_set_aside_with_its_reason_and_the_others_are_processed(
    shop, records, expected
):
    bad = of_window(records[5], "breaks")
    too_large = ItemTooLargeError("the episode of incident a-1 has 500000")
    done = shop.processor(runner=breaking(shop, too_large)).process([*records[:5], bad, *records[5:]], left)
    assert (done.failed, done.error, done.poisoned) == (None, None, 1)
    assert shop.failed == [(bad.sequence_number, str(too_large))]
    assert seen(read_incidents(shop.path)) == expected


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("denied"),
        BackpressureError("throttled", timedelta(seconds=1)),
        RetryableError("another has written"),
        PermanentError("refused"),
    ],
)
def test_what_is_no_fault_of_a_record_is_never_set_aside(shop, records, error):
    done = shop.processor(runner=breaking(shop, error)).process([*records[:5], of_window(records[5], "breaks")], left)
    assert (done.failed, done.error, shop.failed) == (records[0].sequence_number, error, [])


def in_three(record):
    """A moment in three parts, the last of which breaks runners of `breaking`."""
    document = json.loads(of_window(record, "breaks").payload)
    return [
        replace(
            record,
            payload=json.dumps(document | {"part": part, "parts": 3}).encode(),
            sequence_number=record.sequence_number - 3 + part,
        )
        for part in range(3)
    ]


@pytest.mark.parametrize("portion", [1, 100])
def test_parts_that_waited_for_one_that_is_set_aside_are_reported_and_counted(shop, records, portion):
    processor, told = shop.processor(runner=breaking(shop, ItemTooLargeError("too large"))), in_three(records[0])
    told.append(records[0])
    done = [processor.process(told[first : first + portion], left) for first in range(0, 4, portion)]
    assert sum(one.poisoned for one in done) == 3
    ((number, reason),) = shop.failed
    assert number == told[2].sequence_number
    assert reason == "too large; the 2 parts of the same moment before it are lost with it"


def test_parts_before_a_torn_one_or_a_gap_are_reported(shop, records):
    told = in_three(records[0])
    shop.processor().process([told[0], poisoned(told[1]), told[2]], left)
    assert "if it was a part of signals, the 1 before it are lost" in shop.failed[0][1]
    assert shop.failed[1][1].endswith("the 1 parts of the same moment before it are lost with it")
