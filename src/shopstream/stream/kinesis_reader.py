"""Shards of a Kinesis stream, as ListShards tells them.

Reads one shard of a Kinesis stream: iterators, pace, and what was fetched beyond what was asked for.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock
from typing import Any, Final, Protocol

from shopstream.aws.clients import explained
from shopstream.clock import Clock, to_ms
from shopstream.errors import BackpressureError, PermanentError, StateError
from shopstream.stream.ports import TRIM_HORIZON, Position, ReadBatch, Record, Shard

__all__ = ["Pace", "ShardReader", "TipNotes", "check_limits", "listed", "shard_number"]


def listed(items: Sequence[Mapping[str, Any]]) -> list[Shard]:
    """All shards, parents before children: their numbers count up as they are made.

    A parent that retention removed from the list is no longer named by its children.
    """
    known = {item["ShardId"] for item in items}
    shards = []
    for item in sorted(items, key=lambda item: shard_number(item["ShardId"])):
        bounds = item["HashKeyRange"]
        parents = (item.get("ParentShardId"), item.get("AdjacentParentShardId"))
        shards.append(
            Shard(
                shard_id=item["ShardId"],
                first_hash_key=int(bounds["StartingHashKey"]),
                last_hash_key=int(bounds["EndingHashKey"]),
                parent_ids=tuple(str(parent) for parent in parents if parent in known),
                closed="EndingSequenceNumber" in item["SequenceNumberRange"],
            )
        )
    return shards


def shard_number(shard_id: str) -> int:
    """The number in a shard id such as shardId-000000000007; -1 for a text that is no shard id."""
    digits = shard_id.removeprefix("shardId-")
    return int(digits) if digits.isdecimal() and digits != shard_id else -1


_LOGGER = logging.getLogger(__name__)

_MOST_RECORDS: Final = 10_000
_LEAST_RECORDS: Final = 100
_PATIENCE_S: Final = 60.0
"""How long one read goes on behind the tip without records, or while it is throttled."""

_OLDEST_ITERATOR_S: Final = 240.0
"""Kinesis lets an iterator expire after 300 s; a new one is cheaper than the error."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a shard is asked; Kinesis takes five calls a second and shard, of all consumers together.

    Args:
        behind: between two calls while there is more to read.
        at_tip: between two calls at the tip.
    """

    behind: timedelta = timedelta(milliseconds=250)
    at_tip: timedelta = timedelta(milliseconds=500)


class TipNotes(Protocol):
    """Remembers that nothing had come after a position at some time, whoever saw it.

    Kinesis does not tell whether records between a position and its oldest record were trimmed. They were not when
    the position was the newest less than the retention ago.
    """

    def note(self, shard_id: str, position: Position) -> None:
        """Nothing comes after this position now."""
        ...

    def still_newest(self, shard_id: str, position: Position) -> bool:
        """Whether nothing that came after this position can have been dropped by retention."""
        ...


@dataclass(slots=True)
class _State:
    """Where a reader is.

    Args:
        position: of the last record given out; the buffer begins after it.
        buffer: fetched, not yet given out; what one call gave at most (10 MB).
        iterator: for the next call; None where a new one is needed.
        iterator_at: seconds on the monotonic clock when it was given.
        checking: the iterator stands at `position` itself, to see that it is still there.
        asked: the notes were asked whether nothing is missing, since nothing came at all.
        behind_ms: from the end of the buffer to the tip.
        drained: the shard is closed, and nothing comes after the buffer.
    """

    position: Position
    buffer: deque[Record] = field(default_factory=deque)
    iterator: str | None = None
    iterator_at: float = 0.0
    checking: bool = False
    asked: bool = False
    behind_ms: int = 0
    drained: bool = False


class ShardReader:
    """Records of one shard in order; goes on where the last read stopped, without asking for a new iterator.

    Args:
        client: boto3's of Kinesis.
        stream: name of the stream.
        shard_id: which shard.
        clock: lets waiting time pass.
        monotonic: seconds of a clock that never goes back.
        pace: how often to ask.
        notes: tell harmless trimming from a gap.
        skip_gaps: go on, with a warning, where retention dropped records.
    """

    def __init__(
        self,
        client: Any,  # noqa: ANN401  boto3 makes its clients at run time
        stream: str,
        shard_id: str,
        *,
        clock: Clock,
        monotonic: Callable[[], float],
        pace: Pace,
        notes: TipNotes,
        skip_gaps: bool,
    ) -> None:
        self._client = client
        self._stream = stream
        self._shard_id = shard_id
        self._clock = clock
        self._monotonic = monotonic
        self._pace = pace
        self._notes = notes
        self._skip_gaps = skip_gaps
        self._lock = Lock()
        self._state = _State(TRIM_HORIZON)
        self._ask_at = 0.0
        self._mean_bytes = 1

    def read(self, after: Position, *, max_records: int, max_bytes: int) -> ReadBatch:
        """Records after a position; empty only at the tip, at the end, or after a minute without any.

        Raises:
            StateError: no such shard, or `after` was trimmed.
            BackpressureError: throttled for a minute.
        """
        with self._lock:
            if after != self._state.position:
                self._state = _State(after)
            state, give_up = self._state, self._monotonic() + _PATIENCE_S
            while not (state.buffer or state.drained):
                at_tip = self._fetch(max_bytes, give_up)
                if at_tip or self._monotonic() > give_up:
                    break
            return self._give(max_records, max_bytes)

    def _give(self, max_records: int, max_bytes: int) -> ReadBatch:
        state = self._state
        newest_ms = state.buffer[-1].arrival_ms if state.buffer else 0
        records: list[Record] = []
        size = 0
        while state.buffer and len(records) < max_records:
            size += len(state.buffer[0].payload)
            if records and size > max_bytes:
                break
            records.append(state.buffer.popleft())
        if records:
            state.position = records[-1].sequence_number
        behind_ms = state.behind_ms
        if state.buffer:
            behind_ms += max(1, newest_ms - records[-1].arrival_ms)
        return ReadBatch(tuple(records), state.position, behind_ms, ended=state.drained and not state.buffer)

    def _fetch(self, max_bytes: int, give_up: float) -> bool:
        """One call, when its time has come; returns whether there is nothing after what it gave."""
        self._wait(self._ask_at - self._monotonic())
        answer = self._ask(min(_MOST_RECORDS, max(_LEAST_RECORDS, 2 * max_bytes // self._mean_bytes)), give_up)
        if answer is None:
            return False
        state = self._state
        state.iterator, state.iterator_at = answer.get("NextShardIterator"), self._monotonic()
        state.drained = state.iterator is None
        state.behind_ms = 0 if state.drained else int(answer.get("MillisBehindLatest", 0))
        records = [self._record(item) for item in answer["Records"]]
        if records:
            self._mean_bytes = max(1, sum(len(record.payload) for record in records) // len(records))
        opened = state.checking and bool(records)
        if opened:
            state.checking = False
            self._check(records[0].sequence_number)
            if records[0].sequence_number == state.position:
                del records[0]
        elif state.drained and not records and not self._nothing_missing():
            self._gap("its end")  # a closed shard, of which retention dropped the position and all that came after
        state.buffer.extend(records)
        # After the position itself there may be more, whatever Kinesis says of a call that it filled.
        at_tip = state.behind_ms == 0 and not state.drained and not opened
        if at_tip:
            newest = state.buffer[-1].sequence_number if state.buffer else state.position
            if newest != TRIM_HORIZON and self._nothing_missing():
                self._notes.note(self._shard_id, newest)
        pause = self._pace.at_tip if at_tip else timedelta(0) if opened else self._pace.behind
        self._ask_at = self._monotonic() + pause.total_seconds()
        return at_tip

    def _nothing_missing(self) -> bool:
        """Whether nothing was dropped after the position: a note of what is in doubt would end the doubt."""
        state = self._state
        if state.checking and not state.asked:
            state.asked = True
            state.checking = not self._notes.still_newest(self._shard_id, state.position)
        return not state.checking

    def _check(self, first: Position) -> None:
        """Whether reading may go on with this record, the oldest one from the position on."""
        position = self._state.position
        if first == position or (first > position and self._notes.still_newest(self._shard_id, position)):
            return
        if first < position:
            self._state = _State(position)
            raise self._unknown(position)
        self._gap(str(first))

    def _gap(self, until: str) -> None:
        """Retention dropped what was between the position and this."""
        position = self._state.position
        if not self._skip_gaps:
            self._state = _State(position)
            raise StateError(
                f"retention dropped records of {self._shard_id} in stream {self._stream} up to the position {position} "
                "at least: records may be skipped; set aws.kinesis.skip_gaps if that is acceptable, and raise the "
                "stream's retention if consumers may be away for longer"
            )
        _LOGGER.warning(
            "records of %s in stream %s between %s and %s may be skipped: retention dropped them",
            self._shard_id,
            self._stream,
            position,
            until,
        )

    def _ask(self, limit: int, give_up: float) -> Mapping[str, Any] | None:
        """What Kinesis answers; None where it has to be asked again."""
        state = self._state
        try:
            if state.iterator is None or self._monotonic() - state.iterator_at > _OLDEST_ITERATOR_S:
                state.iterator, state.iterator_at = self._open(), self._monotonic()
            with explained(f"to read shard {self._shard_id} of stream {self._stream} (kinesis:GetRecords)"):
                try:
                    answer: Mapping[str, Any] = self._client.get_records(ShardIterator=state.iterator, Limit=limit)
                except self._client.exceptions.ExpiredIteratorException:
                    state.iterator = None
                    return None
        except BackpressureError as error:
            if self._monotonic() > give_up:
                raise
            self._wait(error.retry_after.total_seconds())
            return None
        return answer

    def _open(self) -> str:
        """An iterator after the position; one at the position itself where it shall be seen to be there."""
        state = self._state
        start: dict[str, str] = {"ShardIteratorType": "TRIM_HORIZON"}
        if state.position != TRIM_HORIZON:
            start = {"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": str(state.position)}
            state.checking = True
        action = f"to read shard {self._shard_id} of stream {self._stream} (kinesis:GetShardIterator)"
        with explained(action):
            wanted = {"StreamName": self._stream, "ShardId": self._shard_id}
            try:
                answer = self._client.get_shard_iterator(**wanted, **start)
            except self._client.exceptions.InvalidArgumentException as error:
                if not self._skip_gaps:
                    raise self._unknown(state.position) from error
                answer = self._client.get_shard_iterator(**wanted, ShardIteratorType="TRIM_HORIZON")
        return str(answer["ShardIterator"])

    def _unknown(self, position: Position) -> StateError:
        return StateError(
            f"stream {self._stream} does not know the position {position} in {self._shard_id}: retention dropped it, "
            "or it belongs to another stream; set aws.kinesis.skip_gaps in the first case, begin with an empty "
            "checkpoint and lake in the second"
        )

    def _record(self, item: Mapping[str, Any]) -> Record:
        return Record(
            payload=item["Data"],
            partition_key=item["PartitionKey"],
            shard_id=self._shard_id,
            sequence_number=int(item["SequenceNumber"]),
            arrival_ms=to_ms(item["ApproximateArrivalTimestamp"]),
        )

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self._clock.sleep(timedelta(seconds=seconds))


def check_limits(max_records: int, max_bytes: int) -> None:
    """Refuse limits that let nothing through.

    Raises:
        PermanentError: one is below one.
    """
    if max_records < 1 or max_bytes < 1:
        raise PermanentError(f"a read takes one record and byte at least, got {max_records=}, {max_bytes=}")
