"""A stream on Kinesis Data Streams; how far its consumers are stands in a DynamoDB table.

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
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from threading import Lock
from types import TracebackType
from typing import Any, Final, Self

from shopstream.aws.clients import client, explained
from shopstream.clock import Clock
from shopstream.errors import PermanentError, RetryableError, StateError
from shopstream.stream.kinesis_reader import Pace, ShardReader, check_limits, listed, shard_number
from shopstream.stream.lease_table import LeaseTable, NewestTable
from shopstream.stream.limits import check_put
from shopstream.stream.ports import TRIM_HORIZON, NewRecord, Position, PutOutcome, ReadBatch, Shard
from shopstream.stream.settings import KinesisSettings

__all__ = ["KinesisStream"]

_LOGGER = logging.getLogger(__name__)

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
        self._dynamodb = client("dynamodb")
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
