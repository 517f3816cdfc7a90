"""Shards of a Kinesis stream, as ListShards tells them.

Reads one shard of a Kinesis stream: iterators, pace, and what was fetched beyond what was asked for.

A stream on Kinesis Data Streams; how far its consumers are stands in a DynamoDB table.

- A put is one PutRecords call, and is never repeated here: whoever puts repeats what failed, in order. An answer that
  is lost is a RetryableError; the same put again may double records, which the engine recognises by their event ids.
- Records aggregated by the Kinesis Producer Library are not unpacked; a record's payload holds events as
  `events.codec` writes them. Readers poll; there is no enhanced fan-out.
- Kinesis goes on silently at its oldest record when asked for one that retention dropped. Here that is a StateError,
  unless the position is known to have been the newest less than the retention ago. So it is where the closed shard
  is gone altogether, since nobody can tell any more what came after the position.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock
from types import TracebackType
from typing import Any, Final, Protocol, Self

from shopstream.aws.clients import client, explained
from shopstream.aws.dynamodb import dynamodb_client
from shopstream.clock import Clock, to_ms
from shopstream.errors import BackpressureError, PermanentError, RetryableError, StateError
from shopstream.stream.lease_table import LeaseTable, NewestTable
from shopstream.stream.ports import TRIM_HORIZON, NewRecord, Position, PutOutcome, ReadBatch, Record, Shard, check_put
from shopstream.stream.settings import KinesisSettings

__all__ = ["KinesisStream", "Pace", "ShardReader", "TipNotes", "check_limits", "listed", "shard_number"]


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


_SHARDS_FOR_S: Final = 5.0
"""How long a list of shards is taken for true; reading a shard to its end asks anew."""

_RESHAPE_FOR_S: Final = 600.0
_LOOK_AGAIN: Final = timedelta(milliseconds=50)
_LOOK_AGAIN_AT_MOST: Final = timedelta(seconds=2)


class KinesisStream:
    """One stream; any number of threads may use it.

    Args:
        name: of the stream.
        table: DynamoDB table of positions and leases.
        clock: lets waiting time pass.
        pace: how often a shard is asked.
        skip_gaps: go on, with a warning, where retention dropped records.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        name: str,
        table: str,
        clock: Clock,
        *,
        pace: Pace | None = None,
        skip_gaps: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._clock = clock
        self._pace = pace or Pace()
        self._skip_gaps = skip_gaps
        self._monotonic = monotonic
        # Repeating PutRecords blindly would double what was taken, and let later records overtake.
        self._writing = client("kinesis", attempts=1)
        self._kinesis = client("kinesis")
        self._dynamodb = dynamodb_client()
        self._table = table
        self._notes = NewestTable(table, name, clock=clock, retention=self._retention, dynamodb=self._dynamodb)
        self._lock = Lock()
        self._readers: dict[str, ShardReader] = {}
        self._shards: list[Shard] = []
        self._shards_until = -1.0

    @classmethod
    def open(cls, settings: KinesisSettings, clock: Clock, *, stream: str | None = None) -> Self:
        """The stream of events, or another.

        Args:
            settings: names and pace.
            clock: lets waiting time pass.
            stream: name of the stream; None takes `settings.events`.
        """
        return cls(
            stream or settings.events,
            settings.leases,
            clock,
            pace=Pace(at_tip=settings.poll_interval),
            skip_gaps=settings.skip_gaps,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        for each in (self._writing, self._kinesis, self._dynamodb):
            each.close()

    # Writing

    def put(self, records: Sequence[NewRecord]) -> list[PutOutcome]:
        """Put records by one call; one outcome each, in order.

        Raises:
            BackpressureError: nothing was taken; call again after `retry_after`.
            RetryableError: the answer was lost; the records may be taken or not.
            PermanentError: a record or the whole call is over a limit.
        """
        check_put(records)
        if not records:
            return []
        entries = [
            {"Data": record.payload, "PartitionKey": record.partition_key}
            | ({} if record.explicit_hash_key is None else {"ExplicitHashKey": str(record.explicit_hash_key)})
            for record in records
        ]
        with explained(f"to put records into stream {self.name} (kinesis:PutRecords)"):
            answer = self._writing.put_records(StreamName=self.name, Records=entries)
        return [
            PutOutcome(error_code=item["ErrorCode"], error_message=item.get("ErrorMessage") or item["ErrorCode"])
            if item.get("ErrorCode")
            else PutOutcome(shard_id=item["ShardId"], sequence_number=int(item["SequenceNumber"]))
            for item in answer["Records"]
        ]

    # Reading

    def shards(self) -> list[Shard]:
        """Open shards, and closed ones until retention removes them; parents before children.

        The list may be some seconds old.
        """
        with self._lock:
            if self._monotonic() > self._shards_until:
                self._shards = self._list_shards()
                self._shards_until = self._monotonic() + _SHARDS_FOR_S
            return list(self._shards)

    def read(self, shard_id: str, after: Position, *, max_records: int, max_bytes: int) -> ReadBatch:
        """Records after a position, one at least unless the shard is at its tip or end.

        Raises:
            StateError: no such shard; `after` was trimmed by retention, or the shard removed by it; `after` is of
                another stream.
            PermanentError: a limit below one.
            BackpressureError: throttled for a minute.
        """
        check_limits(max_records, max_bytes)
        with self._lock:
            reader = self._readers.get(shard_id)
        if reader is None:
            if self._removed(shard_id):
                return self._without(shard_id, after)
            self._shard(shard_id)
            reader = ShardReader(
                self._kinesis,
                self.name,
                shard_id,
                clock=self._clock,
                monotonic=self._monotonic,
                pace=self._pace,
                notes=self._notes,
                skip_gaps=self._skip_gaps,
            )
        batch = reader.read(after, max_records=max_records, max_bytes=max_bytes)
        with self._lock:
            if batch.ended:
                self._readers.pop(shard_id, None)
                self._shards_until = -1.0
            else:
                self._readers.setdefault(shard_id, reader)
        return batch

    def _removed(self, shard_id: str) -> bool:
        """Whether retention removed this shard from the list: shards made later are in it."""
        known = {shard.shard_id for shard in self.shards()}
        return shard_id not in known and 0 <= shard_number(shard_id) < max(map(shard_number, known), default=-1)

    def _without(self, shard_id: str, after: Position) -> ReadBatch:
        begun = "before its first record was read" if after == TRIM_HORIZON else f"after the position {after}"
        lost = f"retention removed {shard_id} from stream {self.name}, and what was in it {begun}"
        if not self._skip_gaps:
            raise StateError(
                f"{lost}: records of it may be skipped; set aws.kinesis.skip_gaps if that is acceptable, or "
                "put them in again from a copy; raise the stream's retention if consumers may be away for longer"
            )
        _LOGGER.warning("%s: its records may be skipped", lost)
        return ReadBatch((), after, 0, ended=True)

    def _list_shards(self) -> list[Shard]:
        items: list[dict[str, Any]] = []
        wanted: dict[str, str] = {"StreamName": self.name}
        with explained(f"to list the shards of stream {self.name} (kinesis:ListShards)"):
            while True:
                answer = self._kinesis.list_shards(**wanted)
                items += answer["Shards"]
                if not answer.get("NextToken"):
                    return listed(items)
                wanted = {"NextToken": answer["NextToken"]}

    def _retention(self) -> timedelta:
        return timedelta(hours=self._summary()["RetentionPeriodHours"])

    def _summary(self) -> dict[str, Any]:
        with explained(f"to look at stream {self.name} (kinesis:DescribeStreamSummary)"):
            answer = self._kinesis.describe_stream_summary(StreamName=self.name)
        summary: dict[str, Any] = answer["StreamDescriptionSummary"]
        return summary

    def _forget_shards(self) -> None:
        with self._lock:
            self._shards_until = -1.0

    # Reshaping

    def split(self, shard_id: str, at_hash_key: int) -> tuple[str, str]:
        """Close a shard; its children take [first, at-1] and [at, last]; returns them once the stream is active again.

        Raises:
            StateError: no such shard, or closed already.
            PermanentError: `at_hash_key` leaves a child without hash keys.
        """
        shard = self._open_shard(shard_id)
        if not shard.first_hash_key < at_hash_key <= shard.last_hash_key:
            raise PermanentError(
                f"{shard_id} takes hash keys {shard.first_hash_key} to {shard.last_hash_key} and can be split above "
                f"the first of them, got {at_hash_key}"
            )
        with explained(f"to split {shard_id} of stream {self.name} (kinesis:SplitShard)"):
            self._kinesis.split_shard(StreamName=self.name, ShardToSplit=shard_id, NewStartingHashKey=str(at_hash_key))
        lower, upper = self._children((shard_id,), 2)
        return lower.shard_id, upper.shard_id

    def merge(self, shard_id: str, other_shard_id: str) -> str:
        """Close two adjacent shards; one child takes both ranges; returns it once the stream is active again.

        Raises:
            StateError: no such shard, or closed already.
            PermanentError: the two do not touch.
        """
        shards = sorted(map(self._open_shard, (shard_id, other_shard_id)), key=lambda shard: shard.first_hash_key)
        lower, upper = shards
        if lower.last_hash_key + 1 != upper.first_hash_key:
            raise PermanentError(
                f"two shards can be merged when their hash keys touch, {lower.shard_id} takes {lower.first_hash_key} "
                f"to {lower.last_hash_key}, {upper.shard_id} {upper.first_hash_key} to {upper.last_hash_key}; see "
                "`shards()` for neighbours"
            )
        with explained(f"to merge {shard_id} and {other_shard_id} of stream {self.name} (kinesis:MergeShards)"):
            self._kinesis.merge_shards(
                StreamName=self.name, ShardToMerge=lower.shard_id, AdjacentShardToMerge=upper.shard_id
            )
        (child,) = self._children((shard_id, other_shard_id), 1)
        return child.shard_id

    def _open_shard(self, shard_id: str) -> Shard:
        self._forget_shards()
        shard = self._shard(shard_id)
        if shard.closed:
            raise StateError(f"{shard_id} is closed already; take one of its children from `shards()`")
        return shard

    def _shard(self, shard_id: str) -> Shard:
        for shard in self.shards():
            if shard.shard_id == shard_id:
                return shard
        raise StateError(f"the stream {self.name} has no shard {shard_id!r}; `shards()` lists those it has")

    def _children(self, parents: tuple[str, ...], count: int) -> list[Shard]:
        give_up, pause = self._monotonic() + _RESHAPE_FOR_S, _LOOK_AGAIN
        while True:
            self._forget_shards()
            if self._summary()["StreamStatus"] == "ACTIVE":
                children = [shard for shard in self.shards() if set(shard.parent_ids) == set(parents)]
                if len(children) == count:
                    return sorted(children, key=lambda shard: shard.first_hash_key)
            if self._monotonic() > give_up:
                raise RetryableError(
                    f"stream {self.name} has been changing its shards for {_RESHAPE_FOR_S:.0f} s; look at it again "
                    "later with `shopstream shards`"
                )
            self._clock.sleep(pause)
            pause = min(2 * pause, _LOOK_AGAIN_AT_MOST)

    # Consumers

    def positions(self, consumer: str) -> dict[str, Position]:
        """Shard id → position last committed under this name; a shard never committed is absent."""
        return self._consumer(consumer).positions()

    def commit(self, consumer: str, positions: Mapping[str, Position]) -> None:
        """Remember positions under this name, all or none; shards not named keep theirs.

        Positions of shards that retention has removed are dropped: nobody will read there again.

        Raises:
            StateError: no such shard.
            PermanentError: more shards than DynamoDB changes at once.
        """
        known = {shard.shard_id for shard in self.shards()}
        for shard_id in positions.keys() - known:
            if not self._removed(shard_id):
                self._shard(shard_id)
        kept = {shard_id: position for shard_id, position in positions.items() if shard_id in known}
        self._consumer(consumer).commit(kept)
        self._notes.writing = True

    def leases(self, consumer: str) -> LeaseTable:
        """The leases by which the workers of a consumer share this stream's shards."""
        self._notes.writing = True
        return self._consumer(consumer)

    def _consumer(self, name: str) -> LeaseTable:
        return LeaseTable(self._table, f"{self.name}/{name}", self._dynamodb)
