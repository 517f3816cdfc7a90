"""Signals as bytes, and the way through a stream to a judge elsewhere."""

import json
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shopstream.clock import ManualClock
from shopstream.detection.runner import SignalPublisher
from shopstream.engine.signals import Quiet, Signal, SignalAssembler, SignalBatch, decode_signals, encode_signals
from shopstream.errors import BackpressureError, DecodeError, PermanentError, RetryableError, StateError
from shopstream.stream.ports import PutOutcome

NUMBERS = st.integers(-(10**15), 10**15)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | NUMBERS
    | st.text(max_size=8)
    | st.floats(allow_nan=False)
    | st.decimals(allow_nan=False, allow_infinity=False, places=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
SIGNALS = st.builds(
    Signal,
    window=st.text(max_size=12),
    key=st.dictionaries(st.text(max_size=6), NUMBERS | st.text(max_size=9), max_size=2),
    start_ms=NUMBERS,
    end_ms=NUMBERS,
    first_event_ms=NUMBERS,
    last_event_ms=NUMBERS,
    measures=st.dictionaries(st.text(max_size=6), VALUES, max_size=4),
    final=st.booleans(),
)


def one(**changed):
    return Signal(
        **{
            "window": "user_burst",
            "key": {"user_id": 7},
            "start_ms": 0,
            "end_ms": 10_000,
            "first_event_ms": 1,
            "last_event_ms": 9_999,
            "measures": {"events": 31},
            "final": True,
            **changed,
        }
    )


@given(st.lists(SIGNALS, max_size=12), NUMBERS)
def test_signals_come_back_in_order_whatever_the_parts(signals, until_ms):
    batches = [decode_signals(part) for part in encode_signals(signals, until_ms, max_bytes=4096)]
    assert [signal for batch in batches for signal in batch.signals] == signals
    assert [(batch.until_ms, batch.part, batch.parts) for batch in batches] == [
        (until_ms, place, len(batches)) for place in range(len(batches))
    ]


@given(st.lists(SIGNALS, max_size=12))
def test_no_part_is_larger_than_a_record(signals):
    assert all(len(part) <= 4096 for part in encode_signals(signals, 0, max_bytes=4096))


@given(st.lists(SIGNALS, min_size=1, max_size=9), st.data())
def test_moments_are_whole_after_repetitions_and_saves(signals, data):
    """A writer that is killed anywhere begins the moment again, cut otherwise; a put may come twice."""
    told = []
    for until_ms in (10_000, 20_000):
        for size in (data.draw(st.sampled_from([2800, 3400, 4096])), 4096):
            parts = encode_signals(signals, until_ms, max_bytes=size)
            told += parts[: data.draw(st.integers(0, len(parts))) if size != 4096 else len(parts)]
    assembly, moments = SignalAssembler(), []
    for payload in told:
        for _ in range(data.draw(st.integers(1, 2))):
            if data.draw(st.booleans()):
                saved = json.loads(json.dumps(assembly.snapshot()))
                assembly = SignalAssembler()
                assembly.restore(saved)
            if (moment := assembly.add(decode_signals(payload))) is not None:
                moments.append(moment)
    assert {moment.until_ms for moment in moments} == {10_000, 20_000}
    assert all(list(moment.signals) == signals for moment in moments)


def test_a_part_whose_first_parts_are_lost_is_refused():
    assembly = SignalAssembler()
    with pytest.raises(StateError, match="part 1"):
        assembly.add(SignalBatch((one(),), 10_000, part=1, parts=2))


def test_discarded_parts_are_counted_and_the_next_batch_is_whole():
    assembly = SignalAssembler()
    for part in range(2):
        assembly.add(SignalBatch((one(),), 10_000, part=part, parts=3))
    assert (assembly.waiting, assembly.discard(), assembly.waiting) == (2, 2, 0)
    with pytest.raises(StateError, match="part 2"):
        assembly.add(SignalBatch((one(),), 10_000, part=2, parts=3))
    assert assembly.add(SignalBatch((one(),), 20_000)) is not None


def test_money_keeps_its_digits_and_what_is_no_number_its_name():
    (part,) = encode_signals([one(measures={"spent": Decimal("1.10"), "odds": float("inf")})], 5)
    assert decode_signals(part).signals[0].measures == {"spent": Decimal("1.10"), "odds": float("inf")}
    assert '"1.10"' in part.decode()


def test_a_signal_larger_than_a_record_says_whose_it_is():
    with pytest.raises(PermanentError, match="user_burst"):
        encode_signals([one(measures={"urls": "x" * 5000})], 0, max_bytes=4096)


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff\xfe",
        b"[]",
        b'{"format":2,"until_ms":0,"signals":[]}',
        b'{"format":1,"until_ms":"0","part":0,"parts":1,"signals":[]}',
        b'{"format":1,"until_ms":0,"part":0,"parts":1,"signals":[{}]}',
        b'{"format":1,"until_ms":true,"part":0,"parts":1,"signals":[]}',
        b'{"format":1,"until_ms":0,"part":1,"parts":1,"signals":[]}',
        b'{"format":1,"until_ms":0,"signals":[]}',
        b'{"format":1,"until_ms":0,"part":0,"parts":1,"quiet":[1],"signals":[]}',
        b'{"format":1,"until_ms":0,"part":0,"parts":1,"quiet":[1,true],"signals":[]}',
        encode_signals([one(final=1)], 0)[0],
        encode_signals([one(start_ms=1.5)], 0)[0],
        encode_signals([one(key={"user_id": True})], 0)[0],
        encode_signals([one()], 0)[0].replace(b"31", b'{"decimal":"x"}'),
        encode_signals([one()], 0)[0].replace(b"31", b'{"map":[1]}'),
        encode_signals([one()], 0)[0].replace(b"31", b'{"map":[[[1],2]]}'),
        encode_signals([one()], 0)[0].replace(b"31", b'{"other":1}'),
    ],
)
def test_other_bytes_are_refused(payload):
    with pytest.raises(DecodeError):
        decode_signals(payload)


class Stream:
    """A stream that answers as told, then takes everything."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.taken = []

    def put(self, records):
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        if answer:
            return [PutOutcome(error_code=answer)]
        self.taken += records
        return [PutOutcome("shardId-000000000000", len(self.taken))]

    @property
    def batches(self):
        return [decode_signals(record.payload) for record in self.taken]


def test_signals_are_sent_with_their_moment():
    stream = Stream()
    SignalPublisher(stream, ManualClock(0)).run([one()], 12_345)
    assert stream.batches == [SignalBatch((one(),), 12_345)]


def test_without_signals_only_a_new_bin_is_sent():
    stream = Stream()
    publisher = SignalPublisher(stream, ManualClock(0))
    for until_ms in (9_000, 9_999, 10_000, 19_000, 25_000):
        publisher.run([], until_ms)
    assert [batch.until_ms for batch in stream.batches] == [9_000, 10_000, 25_000]


def test_without_signals_a_new_bin_of_the_clock_is_sent():
    stream = Stream()
    publisher = SignalPublisher(stream, ManualClock(0))
    for until_ms in (29_000, 29_999, 30_000):
        publisher.run([], 9_000, Quiet(14_000, until_ms))
    publisher.run([], 9_000)
    publisher.run([], 9_000)
    told = [SignalBatch((), 9_000, quiet=Quiet(14_000, until_ms)) for until_ms in (29_000, 30_000)]
    assert stream.batches == [*told, SignalBatch((), 9_000)]


def test_what_the_clock_says_comes_back_with_the_whole_moment():
    signals, quiet, assembly = [one()] * 30, Quiet(14_000, 29_000), SignalAssembler()
    parts = [decode_signals(part) for part in encode_signals(signals, 9_000, quiet, max_bytes=4096)]
    assert len(parts) > 1
    whole = [assembly.add(part) for part in parts][-1]
    assert whole == SignalBatch(tuple(signals), 9_000, quiet=quiet)
    assembly.add(parts[0])
    restored = SignalAssembler()
    restored.restore(json.loads(json.dumps(assembly.snapshot())))
    assert [restored.add(part) for part in parts[1:]][-1] == whole


def test_signals_refused_by_the_stream_are_sent_again():
    clock = ManualClock(0)
    stream = Stream(BackpressureError("full", timedelta(seconds=3)), "ProvisionedThroughputExceededException")
    SignalPublisher(stream, clock).run([one()], 0)
    assert stream.batches == [SignalBatch((one(),), 0)]
    assert clock.now_ms() >= 3_000


def test_a_stream_that_never_takes_them_ends_the_engine(monkeypatch):
    clock = ManualClock(0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now_ms() / 1000)
    stream = Stream(*[RetryableError("no answer")] * 1000)
    with pytest.raises(RetryableError, match="no answer"):
        SignalPublisher(stream, clock).run([one()], 0)
    assert clock.now_ms() <= 150_000


def test_the_format_is_plain_json():
    assert json.loads(encode_signals([one()], 5)[0]) == {
        "format": 1,
        "until_ms": 5,
        "part": 0,
        "parts": 1,
        "signals": [
            {
                "window": "user_burst",
                "key": {"user_id": 7},
                "start_ms": 0,
                "end_ms": 10_000,
                "first_event_ms": 1,
                "last_event_ms": 9_999,
                "measures": {"events": 31},
                "final": True,
            }
        ],
    }
