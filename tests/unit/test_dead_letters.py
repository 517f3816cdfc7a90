"""Dead letters: listed with their reasons, replayed once."""

from datetime import timedelta

import pytest

from shopstream.clock import ManualClock
from shopstream.errors import BackpressureError, PermanentError, RetryableError
from shopstream.lakehouse.deadletters import DeadLetters, ReplayStatus
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.ports import LakeTable
from shopstream.lakehouse.settings import LakehouseSettings
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import MAX_RECORD_BYTES, TRIM_HORIZON, PutOutcome
from shopstream.stream.settings import StreamSettings

CLOCK = ManualClock(1_600_000_000_000)
GOOD = b"2019-11-01 00:00:00 UTC,view,1,42,,nan,1.50,7,s"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "lake"


@pytest.fixture
def lakehouse(folder):
    return EmbeddedLakehouse(folder, LakehouseSettings(durable=False))


@pytest.fixture
def letters(lakehouse, folder):
    return DeadLetters(lakehouse, folder, CLOCK)


@pytest.fixture
def stream(tmp_path):
    with EmbeddedStream.open(tmp_path / "stream.db", StreamSettings(shards=4), CLOCK) as stream:
        yield stream


def held(stream):
    """Partition key and payload of each record of the stream."""
    batches = [
        stream.read(shard.shard_id, TRIM_HORIZON, max_records=10_000, max_bytes=1 << 30) for shard in stream.shards()
    ]
    return sorted((record.partition_key, record.payload) for batch in batches for record in batch.records)


def keep(lakehouse, rows, position=1):
    lakehouse.append(LakeTable.DEAD_LETTERS, rows, {"shard-0": position})


def test_an_empty_lakehouse_has_none(letters, stream):
    assert letters.newest(10) == []
    assert letters.by_reason() == []
    assert letters.replay_all(stream) == []


def test_they_are_listed_newest_first_without_bytes(lakehouse, letters, dead_letter_rows):
    keep(lakehouse, dead_letter_rows([b"a", b"b", b"c"]))
    rows = letters.newest(2)
    assert [row["dead_letter_id"] for row in rows] == ["d2", "d1"]
    assert "payload" not in rows[0]
    assert rows[0]["replayed_at_ms"] is None


def test_reasons_are_counted(lakehouse, letters, dead_letter_rows):
    keep(lakehouse, dead_letter_rows([b"a", b"b"]))
    keep(lakehouse, dead_letter_rows([b"c"], reason="not_utf8"), 2)
    assert [(row["reason"], row["dead_letters"]) for row in letters.by_reason()] == [("bad_price", 2), ("not_utf8", 1)]
    assert [row["reason"] for row in letters.newest(10, "not_utf8")] == ["not_utf8"]


def test_one_is_found_by_the_beginning_of_its_id(lakehouse, letters, dead_letter_rows):
    keep(lakehouse, dead_letter_rows([b"\xff\x00"]))
    assert letters.get("d")["payload"] == b"\xff\x00"


@pytest.mark.parametrize(("beginning", "fits"), [("d", "several"), ("x", "none"), ("d%", "none"), ("d'--", "none")])
def test_an_id_that_is_not_one_is_refused(lakehouse, letters, dead_letter_rows, beginning, fits):
    keep(lakehouse, dead_letter_rows([b"a", b"b"]))
    with pytest.raises(PermanentError, match=f"fits {fits}"):
        letters.get(beginning)


def test_a_replay_puts_the_original_bytes_back(lakehouse, letters, stream, dead_letter_rows):
    keep(lakehouse, dead_letter_rows([GOOD, b"\xff\x00"]))
    outcomes = letters.replay(["d0", "d1"], stream)
    assert [result.status for result in outcomes] == [ReplayStatus.SENT, ReplayStatus.SENT]
    assert held(stream) == [("42", GOOD), ("d1", b"\xff\x00")]


def test_a_second_replay_sends_nothing(lakehouse, letters, stream, dead_letter_rows):
    keep(lakehouse, dead_letter_rows([b"a", b"b"]))
    letters.replay(["d0"], stream)
    again = letters.replay(["d0", "d0"], stream) + letters.replay_all(stream)
    assert [(result.dead_letter_id, result.status) for result in again] == [
        ("d0", ReplayStatus.SENT_BEFORE),
        ("d0", ReplayStatus.SENT_BEFORE),
        ("d1", ReplayStatus.SENT),
    ]
    assert [payload for _, payload in held(stream)] == [b"a", b"b"]
    assert {row["dead_letter_id"]: row["replayed_at_ms"] for row in letters.newest(9)} == {
        "d0": CLOCK.now_ms(),
        "d1": CLOCK.now_ms(),
    }


def test_a_replay_is_remembered_by_another_process(lakehouse, folder, letters, stream, dead_letter_rows):
    keep(lakehouse, dead_letter_rows([b"a"]))
    letters.replay_all(stream)
    other = DeadLetters(EmbeddedLakehouse(folder), folder, CLOCK)
    assert [result.status for result in other.replay_all(stream)] == [ReplayStatus.SENT_BEFORE]


def test_one_reason_alone_is_replayed(lakehouse, letters, stream, dead_letter_rows):
    keep(lakehouse, dead_letter_rows([b"a", b"b"]))
    assert letters.replay_all(stream, "not_utf8") == []
    assert len(letters.replay_all(stream, "bad_price")) == 2


def test_corrected_bytes_are_sent_instead(lakehouse, letters, stream, dead_letter_rows):
    keep(lakehouse, dead_letter_rows([b"bad", b"worse"]))
    letters.replay(["d0"], stream, GOOD)
    assert held(stream) == [("42", GOOD)]
    with pytest.raises(PermanentError, match="one id for corrected bytes"):
        letters.replay(["d0", "d1"], stream, GOOD)


def test_an_unknown_id_prevents_the_whole_replay(lakehouse, letters, stream, dead_letter_rows):
    keep(lakehouse, dead_letter_rows([b"a"]))
    with pytest.raises(PermanentError, match="fits none"):
        letters.replay(["d0", "nope"], stream)
    assert held(stream) == []


def test_many_are_sent_in_puts_the_stream_takes(lakehouse, letters, stream, dead_letter_rows):
    payloads = [b"%d" % number for number in range(1200)] + [
        bytes([65 + n]) * (MAX_RECORD_BYTES - 300) for n in range(8)
    ]
    keep(lakehouse, dead_letter_rows(payloads))
    assert {result.status for result in letters.replay_all(stream)} == {ReplayStatus.SENT}
    assert sorted(payload for _, payload in held(stream)) == sorted(payloads)


class Unwilling:
    """Takes one put, then is full."""

    def __init__(self, stream):
        self.stream, self.puts = stream, 0

    def put(self, records):
        self.puts += 1
        if self.puts > 1:
            raise BackpressureError("full", timedelta(seconds=1))
        return self.stream.put(records)


def test_records_sent_before_the_stream_was_full_are_in_the_ledger(lakehouse, letters, stream, dead_letter_rows):
    keep(lakehouse, dead_letter_rows([b"%d" % number for number in range(600)]))
    with pytest.raises(BackpressureError):
        letters.replay_all(Unwilling(stream))
    outcomes = [result.status for result in letters.replay_all(stream)]
    assert outcomes.count(ReplayStatus.SENT_BEFORE) == 500
    assert len(held(stream)) == 600


def test_a_record_that_the_stream_refused_can_be_replayed_again(lakehouse, letters, stream, dead_letter_rows):
    class Refusing:
        def put(self, records):
            return [PutOutcome(error_code="Throttled", error_message="slow down") for _ in records]

    keep(lakehouse, dead_letter_rows([b"a"]))
    (result,) = letters.replay_all(Refusing())
    assert (result.status, result.detail) == (ReplayStatus.REFUSED, "Throttled: slow down")
    assert [result.status for result in letters.replay_all(stream)] == [ReplayStatus.SENT]


def test_a_crash_between_put_and_ledger_sends_the_bytes_again(lakehouse, letters, stream, dead_letter_rows):
    keep(lakehouse, dead_letter_rows([GOOD]))

    class Crashing:
        def put(self, records):
            stream.put(records)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        letters.replay_all(Crashing())
    assert [result.status for result in letters.replay_all(stream)] == [ReplayStatus.SENT]
    assert [payload for _, payload in held(stream)] == [GOOD, GOOD]


def test_a_concurrent_replay_is_refused(lakehouse, folder, letters, stream, dead_letter_rows):
    keep(lakehouse, dead_letter_rows([b"a"]))

    class Nested:
        def put(self, records):
            with pytest.raises(RetryableError, match="another replay"):
                DeadLetters(lakehouse, folder, CLOCK).replay_all(stream)
            return stream.put(records)

    assert [result.status for result in letters.replay_all(Nested())] == [ReplayStatus.SENT]
