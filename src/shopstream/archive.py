"""Archive workers: store a stream's events in the lake, without windows, while Flink runs those.

Any number of workers share the shards by leases. Each reads, decodes and validates its shards, and commits their rows
together:

1. Rejected rows go into `dead_letters`, unless that table's positions show that they are there.
2. Events go into `events` with their positions. **This decides**: the worker, or the next one that takes the shard,
   continues from there.
3. The leases record the positions; a closed shard at its end is done, and its children may be read.

Both appends name the positions that the table must hold before. A worker that lost a shard without noticing is refused,
drops what it has read, and restarts from what the lake holds. Duplicates of producers are stored as they came: the dbt
models drop them.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shopstream.clock import MILLISECOND, Clock
from shopstream.engine.settings import EngineSettings
from shopstream.engine.source import dead_letter_rows, event_rows
from shopstream.errors import ConfigurationError, RetryableError, ShopstreamError, StateError
from shopstream.events.codec import Decoder
from shopstream.events.schema import LAKE_FIELDS, arrow_schema
from shopstream.lakehouse.catalog import OutcomeUnknownError
from shopstream.lakehouse.ports import Lakehouse, LakeTable
from shopstream.stream.leases import SharedShards
from shopstream.stream.ports import TRIM_HORIZON, Position, Record, StreamReader

_CHECKPOINT: Final = "checkpoint"
"""A lake with this key beside the shards' positions belongs to the engine (see `pipeline`)."""

_SHARE_OF_TIME: Final = 10
"""Commits take at most a tenth of the time: the next one waits ten times as long as the last one took."""

_TRY_AGAIN_MS: Final = 1_000
_EVENTS: Final = arrow_schema(LAKE_FIELDS)


@dataclass(frozen=True, slots=True)
class Archived:
    """Progress of this worker.

    Args:
        shards: number of shards that it holds.
        events: events committed by this process.
        dead_letters: dead letters committed by this process.
        behind_ms: largest lag behind the tip of a shard.
    """

    shards: int
    events: int
    dead_letters: int
    behind_ms: int


@dataclass(slots=True)
class _Shard:
    """A shard that this worker reads.

    Args:
        events_after: position that the table `events` has of it; None where it has nothing.
        dead_after: likewise `dead_letters`.
        position: read up to here.
        events: rows read and not committed.
        dead_letters: likewise, and not yet in the lake.
        behind_ms: from its tip, None before the first read.
        ended: read to its end.
    """

    events_after: Position | None
    dead_after: Position | None
    position: Position
    events: list[pa.Table] = field(default_factory=list)
    dead_letters: list[pa.Table] = field(default_factory=list)
    behind_ms: int | None = None
    ended: bool = False

    @property
    def waiting(self) -> bool:
        """Whether there is something to commit."""
        return self.position != (TRIM_HORIZON if self.events_after is None else self.events_after)


class Archive:
    """One worker.

    Args:
        stream: gives records.
        shared: this worker's share of the shards.
        lakehouse: where rows go.
        settings: batch sizes and intervals.
        clock: processing time.
    """

    def __init__(
        self,
        *,
        stream: StreamReader,
        shared: SharedShards,
        lakehouse: Lakehouse,
        settings: EngineSettings,
        clock: Clock,
    ) -> None:
        self._stream = stream
        self._shared = shared
        self._lakehouse = lakehouse
        self._settings = settings
        self._clock = clock
        self._decoder = Decoder()
        self._shards: dict[str, _Shard] = {}
        self._rows = 0
        self._events = self._dead_letters = 0
        self._balance_at_ms = 0
        self._commit_at_ms = clock.now_ms() + settings.commit_interval // MILLISECOND
        self._again_at_ms = 0
        self._lost: ShopstreamError | None = None

    def run(
        self,
        *,
        until_caught_up: bool = False,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[Archived], None] = lambda _archived: None,
    ) -> Archived:
        """Run until `stop` returns True, or until each shard is at its tip or held by another worker.

        Raises:
            ConfigurationError: the lake belongs to an engine, or AWS denies something.
            RetryableError: AWS cannot be reached.
            StateError: retention dropped records, or a whole shard, before they were read.
        """
        with self._giving_back(), self._renewing():
            while not stop():
                moved = self.step()
                progress(self.archived())
                if moved:
                    continue
                if until_caught_up and self._caught_up():
                    break
                self._clock.sleep(self._settings.poll_interval)
            self.commit()
        return self.archived()

    def close(self) -> None:
        """Close the decoder; the next owner of a shard reads uncommitted records again."""
        self._decoder.close()

    def archived(self) -> Archived:
        """Progress so far."""
        behind = [shard.behind_ms for shard in self._shards.values() if shard.behind_ms is not None]
        return Archived(len(self._shards), self._events, self._dead_letters, max(behind, default=0))

    def step(self) -> bool:
        """Read a batch of each shard; returns whether there are or may be more records."""
        if self._lost:
            raise self._lost
        if self._clock.now_ms() >= self._balance_at_ms:
            self._balance()
        moved = False
        if self._rows < self._settings.commit_events:
            for shard_id in list(self._shards):
                moved |= self._read(shard_id)
        ended = any(shard.ended for shard in self._shards.values())
        full = ended or self._rows >= self._settings.commit_events
        if self._clock.now_ms() >= (self._again_at_ms if full else self._commit_at_ms):
            self.commit()
        return moved or (ended and self._clock.now_ms() >= self._again_at_ms)

    def _read(self, shard_id: str) -> bool:
        shard = self._shards[shard_id]
        share = len(self._shards)
        read = self._stream.read(
            shard_id,
            shard.position,
            max_records=max(1, self._settings.batch_events // share),
            max_bytes=max(1, self._settings.batch_bytes // share),
        )
        shard.behind_ms, shard.ended = read.behind_ms, read.ended
        if read.records:
            self._decode(shard, read.records)
            shard.position = read.position
        return bool(read.records or read.behind_ms)

    def _decode(self, shard: _Shard, records: Sequence[Record]) -> None:
        decoded = self._decoder.decode([r.payload for r in records], [r.arrival_ms for r in records])
        # Without windows, no event is late.
        shard.events.append(event_rows(records, decoded.events, np.zeros(len(decoded.events), dtype=np.bool_)))
        self._rows += len(decoded.events)
        if len(decoded.rejects):
            new = records if shard.dead_after is None else [r for r in records if r.sequence_number > shard.dead_after]
            rows = dead_letter_rows(records, decoded.rejects)
            if len(new) < len(records):
                kept = pa.array([str(record.sequence_number) for record in new], pa.string())
                rows = rows.filter(pc.is_in(rows["sequence_number"], value_set=kept))
            shard.dead_letters.append(rows)
            self._rows += rows.num_rows

    def commit(self) -> None:
        """Commit the rows of all shards that are still held; see the order in the module's docstring."""
        started_ms = self._clock.now_ms()
        self._forget(self._shards.keys() - set(self._shared.held()))
        waiting = {shard_id: shard for shard_id, shard in self._shards.items() if shard.waiting}
        wait_ms = self._settings.commit_interval // MILLISECOND
        try:
            self._append(waiting)
        except (StateError, OutcomeUnknownError) as error:
            self._start_again(error)
            return
        except RetryableError:
            wait_ms = _TRY_AGAIN_MS  # nothing was committed; keep the rows, and read no more than fits
            self._again_at_ms = self._clock.now_ms() + wait_ms
        else:
            self._record(waiting)
        now_ms = self._clock.now_ms()
        self._commit_at_ms = now_ms + max(wait_ms, _SHARE_OF_TIME * (now_ms - started_ms))

    def _append(self, shards: Mapping[str, _Shard]) -> None:
        """Steps 1 and 2."""
        positions = {shard_id: shard.position for shard_id, shard in shards.items()}
        letters = {shard_id: shard for shard_id, shard in shards.items() if _count(shard.dead_letters)}
        if letters:
            rows = pa.concat_tables([part for shard in letters.values() for part in shard.dead_letters])
            self._lakehouse.append(
                LakeTable.DEAD_LETTERS,
                rows,
                {shard_id: positions[shard_id] for shard_id in letters},
                after=_known({shard_id: shard.dead_after for shard_id, shard in letters.items()}),
            )
            self._dead_letters += rows.num_rows
            for shard_id, shard in letters.items():
                shard.dead_after = positions[shard_id]
                shard.dead_letters.clear()
        if shards:
            rows = _concatenate([part for shard in shards.values() for part in shard.events])
            self._lakehouse.append(
                LakeTable.EVENTS,
                rows,
                positions,
                after=_known({shard_id: shard.events_after for shard_id, shard in shards.items()}),
            )
            self._events += rows.num_rows
            for shard_id, shard in shards.items():
                shard.events_after = positions[shard_id]
                shard.events.clear()
                shard.dead_letters.clear()
            self._rows = 0

    def _record(self, committed: Mapping[str, _Shard]) -> None:
        """Step 3."""
        for shard_id, shard in list(self._shards.items()):
            if shard.ended or shard_id in committed:
                held = self._shared.record_progress(shard_id, shard.position, ended=shard.ended)
                if shard.ended:
                    self._balance_at_ms = 0  # its children may be read now
                if shard.ended or not held:
                    del self._shards[shard_id]

    def _balance(self) -> None:
        held = self._shared.balance(self._stream.shards(), self._removed)
        self._balance_at_ms = self._clock.now_ms() + round(self._shared.renew_every * 1000)
        self._forget(self._shards.keys() - set(held))
        if new := set(held) - self._shards.keys():
            self._start(new)

    def _removed(self, shard_id: str, position: Position) -> None:
        """Handle a shard that the stream no longer lists and that was not read to its end: raises if data is lost."""
        self._stream.read(shard_id, position, max_records=1, max_bytes=1)

    def _start(self, shard_ids: set[str]) -> None:
        """Continue from the lake's positions."""
        events, letters = (self._lakehouse.positions(table) for table in (LakeTable.EVENTS, LakeTable.DEAD_LETTERS))
        if _CHECKPOINT in events:
            raise ConfigurationError(
                "expected a lake that only archive workers write, this one belongs to an engine (`shopstream run`): "
                "events would be in it twice; set another aws.glue.database, or stop archiving"
            )
        for shard_id in shard_ids:
            after = events.get(shard_id)
            position = TRIM_HORIZON if after is None else after
            self._shards[shard_id] = _Shard(after, letters.get(shard_id), position)

    def _start_again(self, error: ShopstreamError) -> None:
        """Restart from the lake after another worker has taken a shard; raise if the lake has not changed."""
        before = {shard_id: shard.events_after for shard_id, shard in self._shards.items()}
        letters = {shard_id: shard.dead_after for shard_id, shard in self._shards.items()}
        held = set(self._shards)
        self._forget(held)
        self._start(held)
        unchanged = all(
            shard.events_after == before[shard_id] and shard.dead_after == letters[shard_id]
            for shard_id, shard in self._shards.items()
        )
        if unchanged and not isinstance(error, OutcomeUnknownError):
            raise error

    def _forget(self, shard_ids: set[str]) -> None:
        for shard_id in shard_ids:
            del self._shards[shard_id]
        if shard_ids:
            self._rows = sum(_count(shard.events) + _count(shard.dead_letters) for shard in self._shards.values())

    def _caught_up(self) -> bool:
        if self._clock.now_ms() < self._again_at_ms:
            return False
        self.commit()
        if any(shard.behind_ms != 0 or shard.waiting or shard.ended for shard in self._shards.values()):
            return False
        self._balance()
        return self._shared.settled and all(shard.behind_ms == 0 for shard in self._shards.values())

    @contextmanager
    def _giving_back(self) -> Iterator[None]:
        """Release the leases at the end, so that other workers take over at once."""
        try:
            yield
        except BaseException as error:
            try:
                self._shared.release()
            except ShopstreamError as other:
                error.add_note(f"its shards are free once their leases have expired: {other}")
            raise
        self._shared.release()

    @contextmanager
    def _renewing(self) -> Iterator[None]:
        """Renew the leases in a thread, so that a long commit does not lose them."""
        stopping = threading.Event()

        def renew() -> None:
            while not stopping.wait(self._shared.renew_every):
                try:
                    self._shared.renew()
                except RetryableError:
                    continue  # if this continues, the leases expire, and `held` no longer lists them
                except ShopstreamError as error:
                    self._lost = error
                    return

        thread = threading.Thread(target=renew, name="leases", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()


def _known(positions: Mapping[str, Position | None]) -> dict[str, Position]:
    return {shard_id: position for shard_id, position in positions.items() if position is not None}


def _count(tables: Sequence[pa.Table]) -> int:
    return sum(table.num_rows for table in tables)


def _concatenate(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables([_EVENTS.empty_table(), *(table.cast(_EVENTS) for table in tables)])
