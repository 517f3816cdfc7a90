"""READ FIRST: the path of an event through one process.

    stream ──records──► engine ──signals──► detection ──detections──► incidents ──► notifications
                          │                 (or a stream of signals, and the rest elsewhere)
                          │  └─ windows ──► journeys (live panels)
                          └──events, dead letters──► lakehouse

`step` processes one micro-batch; incidents and live panels are up to date when it returns. `commit` makes everything
since the last commit durable, in this order:

1. Stage a checkpoint: positions, shards read to their end, watermarks, counters, keyed state, the detectors' state,
   the open incidents, and the rows that step 3 will write. A shared checkpoint store uploads it before step 2.
2. Append the events to the lake, as one snapshot that names positions and checkpoint. **This decides**: from here on
   the staged checkpoint is valid, even if the process dies before it promotes it. The lake refuses a writer that does
   not know its positions: a process that has been replaced without noticing.
3. Append dead letters and final detections to the lake, each unless the lake holds those of this checkpoint already.
4. Promote the checkpoint.
5. Save the position of this consumer in the stream.

Step 1 blocks processing briefly. The other steps run in a thread, and the next commit waits for them.

A restarted process reads the lake: if its newest events name the staged checkpoint, it resumes at step 3. Otherwise it
discards the staged checkpoint and reads the same records again from the previous one. Rows of the incident store may
then be ahead of the checkpoint: `incidents.recorder` reconciles them.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from shopstream.clock import MILLISECOND, Clock
from shopstream.detection.detection import Detection
from shopstream.detection.runner import DetectionRunner
from shopstream.engine.checkpoint import CheckpointStore, Manifest, describe_mark, mark_of
from shopstream.engine.engine import Counters, Engine
from shopstream.engine.recent import RecentEvents
from shopstream.engine.settings import EngineSettings
from shopstream.engine.signals import Quiet, Signal
from shopstream.engine.source import SourceReader
from shopstream.engine.watermark import BEGINNING, LIVE_MS
from shopstream.errors import RetryableError, StateError
from shopstream.events.schema import DEAD_LETTER_FIELDS, LAKE_FIELDS, arrow_schema
from shopstream.incidents.recorder import ContextEnricher, IncidentRecorder
from shopstream.journeys.live import LiveJourneys
from shopstream.lakehouse.ports import Lakehouse, LakeTable
from shopstream.lakehouse.tables import detection_rows
from shopstream.stream.ports import ConsumerPositions

CONSUMER = "engine"
_CHECKPOINT = "checkpoint"
"""Beside the shards' positions, a lake snapshot carries the mark of the checkpoint it belongs to."""

_DETECTORS = "detectors"
_INCIDENTS = "incidents"
"""Documents of a checkpoint: the detectors' state and the open incidents."""

_LOGGER = logging.getLogger(__name__)
_PUBLISH_MS = 1_000
_SHARE_OF_TIME = 10
"""Publishing and timed commits take at most a tenth of the time: each waits ten times as long as it last took."""
_ADVANCE_SHARE = 3
"""Closing windows takes at most a quarter of the time."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress after a step; `records` counts the records that this process has read."""

    records: int
    counters: Mapping[str, int]
    watermark_ms: int | None
    behind_ms: int


class Pipeline:
    """One consumer of the stream.

    Args:
        source: decoded records.
        consumers: stores this consumer's positions.
        engine: windows, deduplication, keyed state.
        runner: receives the signals; the engine computes the windows that it needs.
        incidents: receives the detections; None if incidents are recorded elsewhere.
        checkpoints: stores positions and state.
        lakehouse: stores events; None stores none (for measurements).
        journeys: live panels; None has none.
        settings: batch sizes and intervals.
        clock: processing time.
        guard: called before detection runs and before the lake decides; raises where this process is no longer
            the engine.
    """

    def __init__(
        self,
        *,
        source: SourceReader,
        consumers: ConsumerPositions,
        engine: Engine,
        runner: DetectionRunner,
        incidents: IncidentRecorder | None,
        checkpoints: CheckpointStore,
        lakehouse: Lakehouse | None,
        journeys: LiveJourneys | None,
        settings: EngineSettings,
        clock: Clock,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        self._source = source
        self._consumers = consumers
        self._engine = engine
        self._recent = RecentEvents(engine.connection)
        self._runner = runner
        self._incidents = incidents
        self._enricher = ContextEnricher(incidents.store, self._recent) if incidents else None
        self._checkpoints = checkpoints
        self._lakehouse = lakehouse
        self._journeys = journeys
        self._settings = settings
        self._clock = clock
        self._guard = guard
        self._in_lake: dict[str, int] = {}
        self._generation = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._committing: Future[None] | None = None
        self._positions: dict[str, int] = {}
        self._ended: list[str] = []
        self._counters = Counters()
        self._events: list[pa.Table] = []
        self._waiting = 0
        self._dead_letters: list[pa.Table] = []
        self._detections: list[Detection] = []
        self._behind_ms = 0
        self._records = 0
        self._until_caught_up = False
        self._commit_at_ms = clock.now_ms() + settings.commit_interval // MILLISECOND
        self._publish_at_ms = 0
        self._advance_at_ms = 0
        self._recover()

    def run(
        self,
        *,
        until_caught_up: bool = False,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[Progress], None] | None = None,
    ) -> Progress:
        """Step until asked to stop, or (`until_caught_up`) until every shard is read to its tip; then commit."""
        self._until_caught_up = until_caught_up
        while not stop():
            moved = self.step()
            if progress:
                progress(self.progress())
            if not moved:
                if until_caught_up:
                    break
                self._clock.sleep(self._settings.poll_interval)
        if until_caught_up and not stop():
            self._detect(self._engine.advance(to_the_end=True))
        self.commit()
        if self._journeys:
            self._journeys.publish()
        self.settle()
        return self.progress()

    def step(self) -> bool:
        """Process one micro-batch; returns whether records were read or are still waiting."""
        batch = self._source.poll()
        self._behind_ms = batch.behind_ms
        if batch.records:
            processed = self._engine.process(batch.records, batch.decoded)
            self._positions.update(batch.positions)
            self._records += len(batch.records)
            self._counters.add(processed.counters)
            self._recent.keep(processed.events)
            # Rejected rows and duplicates count, too: progress is reported, and what waits for the lake is bounded.
            self._waiting += processed.counters.events_read
            if self._lakehouse:
                self._events.append(processed.events)
            if processed.dead_letters.num_rows:
                self._dead_letters.append(processed.dead_letters)
        if not batch.records or self._clock.now_ms() >= self._advance_at_ms:
            started_ms = self._clock.now_ms()
            self._detect(self._engine.advance())
            self._advance_at_ms = self._next(started_ms, 0, share=_ADVANCE_SHARE)
        self._commit_when_due()
        if self._journeys and self._clock.now_ms() >= self._publish_at_ms:
            started_ms = self._clock.now_ms()
            self._journeys.publish()
            self._publish_at_ms = self._next(started_ms, _PUBLISH_MS)
        return bool(batch.records or batch.behind_ms)

    def _next(self, started_ms: int, interval_ms: int, share: int = _SHARE_OF_TIME) -> int:
        """When to repeat work that began at `started_ms`."""
        now_ms = self._clock.now_ms()
        return now_ms + max(interval_ms, share * (now_ms - started_ms))

    def _detect(self, signals: Sequence[Signal]) -> None:
        self._guard()
        until_ms, quiet = self._engine.watermarks.current_ms, self._quiet()
        result = self._runner.run(signals, until_ms, quiet)
        if self._incidents and self._enricher:
            changes = self._incidents.apply(result.detections, until_ms, quiet.until_ms if quiet else None)
            self._enricher.enrich(changes)
        self._counters.suppressed += sum(detection.suppression is not None for detection in result.final)
        self._counters.late_signals += result.late_signals
        self._detections += result.final

    def _quiet(self) -> Quiet | None:
        """How far the clock has moved on without events, so that silence is detected.

        Only if the newest events are recent: the end of a replay is no silence. The last `idle_timeout` does not
        count, because events may still be on their way.
        """
        watermarks = self._engine.watermarks
        newest_ms, quiet = max(watermarks.newest().values(), default=BEGINNING), watermarks.quiet()
        if quiet is None or newest_ms == BEGINNING or self._until_caught_up:
            return None
        since_ms, lasted_ms = quiet
        lasted_ms -= self._settings.idle_timeout // MILLISECOND
        if lasted_ms <= 0 or abs(since_ms - newest_ms) > LIVE_MS:
            return None
        return Quiet(newest_ms, newest_ms + lasted_ms)

    def progress(self) -> Progress:
        """Current progress."""
        watermark_ms = self._engine.watermarks.current_ms
        return Progress(
            records=self._records,
            counters=self._counters.as_dict(),
            watermark_ms=None if watermark_ms == BEGINNING else watermark_ms,
            behind_ms=self._behind_ms,
        )

    def commit(self) -> None:
        """Make everything so far durable, in the order of the module's docstring.

        Step 1 is done when this returns. The others run in a thread, and the next commit waits for them.
        """
        self.settle()
        started_ms = self._clock.now_ms()
        # A shard's end is kept though nothing came: once retention has removed the shard, nothing else knows it.
        if self._waiting or self._detections or self._source.ended != self._ended:
            manifest = self._stage()
            events = _concatenated(self._events)
            for gathered in (self._events, self._dead_letters, self._detections):
                gathered.clear()
            self._waiting = 0
            self._committing = self._thread.submit(self._write, manifest, events)
        self._commit_at_ms = self._next(started_ms, self._settings.commit_interval // MILLISECOND)

    def settle(self) -> None:
        """Wait for the commit in progress.

        Raises:
            ShopstreamError: it failed; the previous checkpoint is still valid.
        """
        if self._committing:
            self._committing.result()
            self._committing = None

    def close(self) -> None:
        """Wait for the thread; the next process reads uncommitted records again."""
        self._thread.shutdown()

    def _commit_when_due(self) -> None:
        """Commit when the interval is over and no commit is running, or at once if many events wait."""
        on_time = self._clock.now_ms() >= self._commit_at_ms and (self._committing is None or self._committing.done())
        if on_time or self._waiting >= self._settings.commit_events:
            self.commit()

    def _write(self, manifest: Manifest, events: pa.Table) -> None:
        """Steps 2 to 5."""
        self._checkpoints.secure(manifest)
        if self._lakehouse:
            self._guard()
            now_there = _lake_positions(manifest)
            self._lakehouse.append(LakeTable.EVENTS, events, now_there, after=self._in_lake)
            self._in_lake = {**self._in_lake, **now_there}
        self._finish(manifest)

    def _stage(self) -> Manifest:
        """Step 1."""
        self._generation += 1
        self._ended = self._source.ended
        watermarks = self._engine.watermarks
        manifest = Manifest(
            generation=self._generation,
            positions=dict(self._positions),
            watermark_ms=watermarks.current_ms,
            newest_ms=watermarks.newest(),
            counters=self._counters.as_dict(),
            tables=self._engine.state_tables(),
            owner=self._checkpoints.owner,
            ended=self._ended,
            history_ms=self._engine.going_live.history_ms,
        )
        dead_letters = arrow_schema(DEAD_LETTER_FIELDS).empty_table()
        outputs: dict[str, pa.Table] = {
            LakeTable.DEAD_LETTERS: pa.concat_tables([dead_letters, *self._dead_letters]),
            LakeTable.DETECTIONS: detection_rows(self._detections),
        }
        detectors = self._runner.snapshot()
        documents = {} if detectors is None else {_DETECTORS: detectors}
        if self._incidents:
            documents[_INCIDENTS] = self._incidents.snapshot()
        self._checkpoints.stage(manifest, self._engine.save, outputs, documents)
        self._begin()
        return manifest

    def _finish(self, manifest: Manifest) -> None:
        """Steps 3 to 5."""
        if self._lakehouse:
            for table in (LakeTable.DEAD_LETTERS, LakeTable.DETECTIONS):
                rows = self._checkpoints.output(manifest, table)
                there = self._lakehouse.positions(table)
                if rows.num_rows and there.get(_CHECKPOINT, 0) < manifest.mark:
                    self._lakehouse.append(table, rows, _lake_positions(manifest), after=there)
        self._checkpoints.promote(manifest)
        try:
            self._consumers.commit(CONSUMER, manifest.positions)
        except RetryableError as error:  # nobody continues from there; the next commit sends it again
            _LOGGER.warning("the stream did not accept the positions of the engine: %s", error)

    def _begin(self) -> None:
        """Assign incidents to the next checkpoint from now on."""
        if self._incidents:
            self._incidents.begin(mark_of(self._checkpoints.owner, self._generation + 1))

    def _recover(self) -> None:
        """Resume where the last process stopped, at whichever step."""
        self._checkpoints.claim()
        self._in_lake = self._lakehouse.positions(LakeTable.EVENTS) if self._lakehouse else {}
        in_lake = self._in_lake.get(_CHECKPOINT)
        staged, held = self._checkpoints.staged(in_lake), self._checkpoints.current()
        if staged and (self._lakehouse is None or in_lake is not None):
            self._finish(staged)
            held = staged
        else:
            self._checkpoints.discard_staged()
        if self._lakehouse and (in_lake or 0) != (held.mark if held else 0):
            raise StateError(
                f"the lake belongs to checkpoint {describe_mark(in_lake)}, the checkpoint folder holds "
                f"{describe_mark(held.mark if held else None)}: restore both from one copy, or use an empty home"
            )
        if held is None:
            if self._in_lake:
                raise StateError(
                    "the lake already holds events of this stream from archive workers, and an engine would append "
                    "them again; use another lake, or run without one (`shopstream run --no-lake`)"
                )
            if self._incidents:
                self._incidents.restore(None, 0)
            self._begin()
            return
        fresh = self._engine.restore(self._checkpoints.state_file(held), held.tables, held.watermark_ms, held.newest_ms)
        if fresh:
            _LOGGER.warning(
                "these windows start afresh, since their rules are new or have changed: %s", ", ".join(fresh)
            )
        detectors = self._checkpoints.document(held, _DETECTORS)
        if detectors and (fresh := self._runner.restore(detectors)):
            _LOGGER.warning("these detectors start afresh, since they are new or have changed: %s", ", ".join(fresh))
        self._engine.going_live.history_ms = held.history_ms
        if held.history_ms == BEGINNING:  # its newest events were live
            self._engine.going_live.watched_ms = max(held.newest_ms.values(), default=BEGINNING)
        if self._incidents:
            self._incidents.restore(self._checkpoints.document(held, _INCIDENTS), held.mark)
        self._generation = held.generation
        self._begin()
        self._positions = dict(held.positions)
        self._ended = list(held.ended)
        self._source.start_after(held.positions, held.ended)
        self._counters = Counters(**held.counters)


def _concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables. If text is dictionary-encoded in some of them only, all of it is decoded."""
    schema = arrow_schema(LAKE_FIELDS)
    if any(table.schema.types != tables[0].schema.types for table in tables):
        tables = [table.cast(schema) for table in tables]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _lake_positions(manifest: Manifest) -> dict[str, int]:
    return {**manifest.positions, _CHECKPOINT: manifest.mark}
