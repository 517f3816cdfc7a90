"""A stream on Kinesis Data Streams; a DynamoDB table holds the positions of its consumers.

- A put is one PutRecords call and is never retried here: the caller retries failed records, in order. A lost answer is
  a RetryableError; the same put again may double records, which the engine recognises by their event ids.
- Records aggregated by the Kinesis Producer Library are not unpacked; a record's payload holds events as
  `events.codec` writes them. Readers poll; there is no enhanced fan-out.
- Kinesis silently continues at its oldest record when asked for one that retention dropped. Here that is a StateError,
  unless the position is known to have been the newest less than the retention ago. It is also a StateError if the
  closed shard is gone altogether: nothing can show any more which records followed the position.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock
from types import TracebackType
from typing import Any, Final, Self

from shopstream.aws.clients import client, dynamodb_client, explained
from shopstream.clock import Clock, to_ms
from shopstream.errors import BackpressureError, StateError
from shopstream.stream.lease_table import LeaseTable, NewestTable
from shopstream.stream.ports import (
    TRIM_HORIZON,
    NewRecord,
    Position,
    PutOutcome,
    ReadBatch,
    Record,
    Shard,
    check_put,
    check_read_limits,
)
from shopstream.stream.settings import KinesisSettings

_LOGGER = logging.getLogger(__name__)

_MAX_RECORDS: Final = 10_000
_MIN_RECORDS: Final = 100
_PATIENCE_S: Final = 60.0
"""How long one read continues behind the tip without records, or while it is throttled."""

_MAX_ITERATOR_AGE_S: Final = 240.0
"""Kinesis lets an iterator expire after 300 s; a new one is cheaper than the error."""

_SHARDS_VALID_S: Final = 5.0
"""How long a list of shards is cached; reading a shard to its end lists them again."""


def parse_shards(items: Sequence[Mapping[str, Any]]) -> list[Shard]:
    """Shards from the items of ListShards, parents before children: numbers grow in order of creation.

    Children no longer name a parent that retention removed from the list.
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


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a shard is polled; Kinesis allows five calls a second and shard, for all consumers together.

    Args:
        behind: between two calls while there is more to read.
        at_tip: between two calls at the tip.
    """

    behind: timedelta = timedelta(milliseconds=250)
    at_tip: timedelta = timedelta(milliseconds=500)


@dataclass(slots=True)
class _State:
    """State of a reader.

    Args:
        position: of the last record returned; the buffer begins after it.
        buffer: records fetched but not yet returned; at most the answer of one call (10 MB).
        iterator: for the next call; None if a new one is needed.
        iterator_at: when it was obtained, in seconds of the monotonic clock.
        checking: the iterator points at `position` itself, to verify that this record still exists.
        asked: the notes were asked whether records are missing, because no record came at all.
        behind_ms: from the end of the buffer to the tip.
        drained: the shard is closed, and no record follows the buffer.
    """

    position: Position
    buffer: deque[Record] = field(default_factory=deque)
    iterator: str | None = None
    iterator_at: float = 0.0
    checking: bool = False
    asked: bool = False
    behind_ms: int = 0
    drained: bool = False


@dataclass
class _ShardReader:
    """Reads the records of one shard in order; keeps its iterator between reads.

    Args:
        client: boto3's Kinesis client.
        stream: name of the stream.
        shard_id: which shard.
        clock: waits.
        monotonic: seconds of a clock that never goes back.
        pace: how often to poll.
        notes: distinguish harmless trimming from a gap.
        skip_gaps: continue, with a warning, where retention dropped records.
    """

    client: Any
    stream: str
    shard_id: str
    clock: Clock
    monotonic: Callable[[], float]
    pace: Pace
    notes: NewestTable
    skip_gaps: bool
    _lock: Lock = field(default_factory=Lock)
    _state: _State = field(default_factory=lambda: _State(TRIM_HORIZON))
    _ask_at: float = 0.0
    _mean_bytes: int = 1

    def read(self, after: Position, *, max_records: int, max_bytes: int) -> ReadBatch:
        """Records after a position; empty only at the tip, at the end, or after a minute without any.

        Raises:
            StateError: no such shard, or `after` was trimmed.
            BackpressureError: throttled for a minute.
        """
        with self._lock:
            if after != self._state.position:
                self._state = _State(after)
            state, give_up = self._state, self.monotonic() + _PATIENCE_S
            while not (state.buffer or state.drained):
                at_tip = self._fetch(max_bytes, give_up)
                if at_tip or self.monotonic() > give_up:
                    break
            return self._next_batch(max_records, max_bytes)

    def _next_batch(self, max_records: int, max_bytes: int) -> ReadBatch:
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
        """Make one call when it is due; returns whether no record follows its answer."""
        self._wait(self._ask_at - self.monotonic())
        answer = self._ask(min(_MAX_RECORDS, max(_MIN_RECORDS, 2 * max_bytes // self._mean_bytes)), give_up)
        if answer is None:
            return False
        state = self._state
        state.iterator, state.iterator_at = answer.get("NextShardIterator"), self.monotonic()
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
            self._gap("its end")  # a closed shard: retention dropped the position and every later record
        state.buffer.extend(records)
        # A call at the position itself may have more behind it, even if Kinesis reports no lag.
        at_tip = state.behind_ms == 0 and not state.drained and not opened
        if at_tip:
            newest = state.buffer[-1].sequence_number if state.buffer else state.position
            if newest != TRIM_HORIZON and self._nothing_missing():
                self.notes.note(self.shard_id, newest)
        pause = self.pace.at_tip if at_tip else timedelta(0) if opened else self.pace.behind
        self._ask_at = self.monotonic() + pause.total_seconds()
        return at_tip

    def _nothing_missing(self) -> bool:
        """Whether no record was dropped after the position; an unverified position must not be noted as newest."""
        state = self._state
        if state.checking and not state.asked:
            state.asked = True
            state.checking = not self.notes.still_newest(self.shard_id, state.position)
        return not state.checking

    def _check(self, first: Position) -> None:
        """Check that reading may continue with this record, the oldest one from the position on."""
        position = self._state.position
        if first == position or (first > position and self.notes.still_newest(self.shard_id, position)):
            return
        if first < position:
            self._state = _State(position)
            raise self._unknown(position)
        self._gap(str(first))

    def _gap(self, until: str) -> None:
        """Handle records that retention dropped between the position and `until`."""
        position = self._state.position
        if not self.skip_gaps:
            self._state = _State(position)
            raise StateError(
                f"retention dropped records of {self.shard_id} in stream {self.stream} up to the position {position} "
                "at least: records may be skipped; set aws.kinesis.skip_gaps if that is acceptable, and raise the "
                "stream's retention if consumers may be away for longer"
            )
        _LOGGER.warning(
            "records of %s in stream %s between %s and %s may be skipped: retention dropped them",
            self.shard_id,
            self.stream,
            position,
            until,
        )

    def _ask(self, limit: int, give_up: float) -> Mapping[str, Any] | None:
        """The answer of Kinesis; None if the call has to be repeated."""
        state = self._state
        try:
            if state.iterator is None or self.monotonic() - state.iterator_at > _MAX_ITERATOR_AGE_S:
                state.iterator, state.iterator_at = self._open(), self.monotonic()
            with explained(f"to read shard {self.shard_id} of stream {self.stream} (kinesis:GetRecords)"):
                try:
                    answer: Mapping[str, Any] = self.client.get_records(ShardIterator=state.iterator, Limit=limit)
                except self.client.exceptions.ExpiredIteratorException:
                    state.iterator = None
                    return None
        except BackpressureError as error:
            if self.monotonic() > give_up:
                raise
            self._wait(error.retry_after.total_seconds())
            return None
        return answer

    def _open(self) -> str:
        """A new iterator; it points at the position itself, to verify that this record still exists."""
        state = self._state
        start: dict[str, str] = {"ShardIteratorType": "TRIM_HORIZON"}
        if state.position != TRIM_HORIZON:
            start = {"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": str(state.position)}
            state.checking = True
        action = f"to read shard {self.shard_id} of stream {self.stream} (kinesis:GetShardIterator)"
        with explained(action):
            wanted = {"StreamName": self.stream, "ShardId": self.shard_id}
            try:
                answer = self.client.get_shard_iterator(**wanted, **start)
            except self.client.exceptions.InvalidArgumentException as error:
                if not self.skip_gaps:
                    raise self._unknown(state.position) from error
                answer = self.client.get_shard_iterator(**wanted, ShardIteratorType="TRIM_HORIZON")
        return str(answer["ShardIterator"])

    def _unknown(self, position: Position) -> StateError:
        return StateError(
            f"stream {self.stream} does not know the position {position} in {self.shard_id}: retention dropped it, "
            "or it belongs to another stream; set aws.kinesis.skip_gaps in the first case, start with an empty "
            "checkpoint and lake in the second"
        )

    def _record(self, item: Mapping[str, Any]) -> Record:
        return Record(
            payload=item["Data"],
            partition_key=item["PartitionKey"],
            shard_id=self.shard_id,
            sequence_number=int(item["SequenceNumber"]),
            arrival_ms=to_ms(item["ApproximateArrivalTimestamp"]),
        )

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self.clock.sleep(timedelta(seconds=seconds))


class KinesisStream:
    """One stream; any number of threads may use it.

    Args:
        name: of the stream.
        table: DynamoDB table of positions and leases.
        clock: waits.
        pace: how often a shard is polled.
        skip_gaps: continue, with a warning, where retention dropped records.
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
        # Retrying PutRecords blindly would double accepted records, and let later records overtake.
        self._writing = client("kinesis", attempts=1)
        self._kinesis = client("kinesis")
        self._dynamodb = dynamodb_client()
        self._table = table
        self._notes = NewestTable(table, name, clock=clock, retention=self._retention, dynamodb=self._dynamodb)
        self._lock = Lock()
        self._readers: dict[str, _ShardReader] = {}
        self._shards: list[Shard] = []
        self._shards_until = -1.0

    @classmethod
    def open(cls, settings: KinesisSettings, clock: Clock, *, stream: str | None = None) -> Self:
        """Open the stream of events, or another.

        Args:
            settings: names and pace.
            clock: waits.
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
        """Close the connections."""
        for each in (self._writing, self._kinesis, self._dynamodb):
            each.close()

    # Writing

    def put(self, records: Sequence[NewRecord]) -> list[PutOutcome]:
        """Put records with one call; one outcome each, in order.

        Raises:
            BackpressureError: no record was accepted; call again after `retry_after`.
            RetryableError: the answer was lost; the records may have been accepted or not.
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
                self._shards_until = self._monotonic() + _SHARDS_VALID_S
            return list(self._shards)

    def read(self, shard_id: str, after: Position, *, max_records: int, max_bytes: int) -> ReadBatch:
        """Records after a position, one at least unless the shard is at its tip or end.

        Raises:
            StateError: no such shard; retention trimmed `after` or removed the shard; `after` belongs to another
                stream.
            PermanentError: a limit below one.
            BackpressureError: throttled for a minute.
        """
        check_read_limits(max_records, max_bytes)
        with self._lock:
            reader = self._readers.get(shard_id)
        if reader is None:
            if self._removed(shard_id):
                return self._without(shard_id, after)
            self._shard(shard_id)
            reader = _ShardReader(
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
        """Whether retention removed this shard from the list, which then holds only later shards."""
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
                    return parse_shards(items)
                wanted = {"NextToken": answer["NextToken"]}

    def _retention(self) -> timedelta:
        with explained(f"to describe stream {self.name} (kinesis:DescribeStreamSummary)"):
            answer = self._kinesis.describe_stream_summary(StreamName=self.name)
        return timedelta(hours=answer["StreamDescriptionSummary"]["RetentionPeriodHours"])

    def _shard(self, shard_id: str) -> Shard:
        for shard in self.shards():
            if shard.shard_id == shard_id:
                return shard
        raise StateError(f"the stream {self.name} has no shard {shard_id!r}; `shards()` lists those it has")

    # Consumers

    def positions(self, consumer: str) -> dict[str, Position]:
        """Shard id → position last committed under this name; a shard never committed is absent."""
        return self._consumer(consumer).positions()

    def commit(self, consumer: str, positions: Mapping[str, Position]) -> None:
        """Store positions under this name, all or none; other shards keep theirs.

        Positions of shards that retention has removed are dropped: no consumer will read there again.

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
        """The leases with which the workers of a consumer share this stream's shards."""
        self._notes.writing = True
        return self._consumer(consumer)

    def _consumer(self, name: str) -> LeaseTable:
        return LeaseTable(self._table, f"{self.name}/{name}", self._dynamodb)
