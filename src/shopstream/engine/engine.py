"""The engine: turns decoded records into events, dead letters and signals, with keyed state.

An in-memory DuckDB database reads the current micro-batch and holds all state. Nothing here has effects outside the
process: the pipeline decides when results become durable.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shopstream.engine.derived_columns import batch_columns, event_columns, with_texts
from shopstream.engine.keyed_state import SEEN, Deduplicator
from shopstream.engine.operators import WindowOperator, build_operator
from shopstream.engine.settings import EngineSettings
from shopstream.engine.signals import UNWATCHED, Signal
from shopstream.engine.sort_buffer import SortBuffer
from shopstream.engine.source import dead_letter_rows, event_rows
from shopstream.engine.tables import BATCH, REPEATED
from shopstream.engine.watermark import GoingLive, Watermarks
from shopstream.engine.window import WindowDeclaration
from shopstream.errors import StateError
from shopstream.events.codec import Decoded
from shopstream.events.schema import WIRE_SCHEMA
from shopstream.stream.ports import Record

_MS = 1_000


@dataclass(slots=True)
class Counters:
    """Rows since the beginning: read = kept + duplicates + dead letters; kept ones include late ones.

    `suppressed` counts detections that an allow-list covers, `late_signals` signals that came after the detectors had
    processed their time.
    """

    events_read: int = 0
    events_kept: int = 0
    duplicates: int = 0
    late: int = 0
    dead_letters: int = 0
    suppressed: int = 0
    late_signals: int = 0

    def add(self, other: "Counters") -> None:
        """Add in place."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_dict(self) -> dict[str, int]:
        """Name → value."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Processed:
    """The result of a micro-batch.

    Args:
        events: LAKE_FIELDS columns, without duplicates; text may be dictionary-encoded.
        dead_letters: DEAD_LETTER_FIELDS columns.
        counters: of this batch.
    """

    events: pa.Table
    dead_letters: pa.Table
    counters: Counters


class Engine:
    """Deduplicates events and computes windows.

    Args:
        settings: lateness, dedup horizon, threads.
        declarations: windows whose signals `advance` returns.
        spill_path: folder for data beyond `settings.memory_limit`; None leaves it to DuckDB.
    """

    def __init__(
        self,
        settings: EngineSettings,
        declarations: Iterable[WindowDeclaration],
        spill_path: Path | None = None,
    ) -> None:
        self.connection = duckdb.connect()
        self.connection.execute("SET TimeZone = 'UTC'")
        self.connection.execute("SET memory_limit = ?", [f"{settings.memory_limit}B"])
        if spill_path:
            self.connection.execute("SET temp_directory = ?", [str(spill_path)])
        if settings.threads:
            self.connection.execute("SET threads = ?", [settings.threads])
        self.watermarks = Watermarks(
            round(settings.out_of_orderness.total_seconds() * _MS), round(settings.idle_timeout.total_seconds() * _MS)
        )
        self.going_live = GoingLive()
        self._deduplicator = Deduplicator(
            self.connection, round(settings.dedup_horizon.total_seconds() * _MS), settings.dedup_events
        )
        nothing = WIRE_SCHEMA.empty_table().append_column("t", pa.array([], pa.int64()))
        self.connection.register(BATCH, with_texts(self.connection, nothing, ()))
        self.connection.register(REPEATED, nothing.select(["t"]))
        self._sort_buffer = SortBuffer(self.connection)
        self._operators: list[WindowOperator] = []
        self._attached: list[WindowOperator] = []
        for declaration in declarations:
            self.attach(build_operator(self.connection, declaration), advance=True)

    def attach(self, operator: WindowOperator, *, advance: bool = False) -> None:
        """Feed another operator; its owner advances it, unless `advance` makes its signals the engine's.

        An operator that reads stateful derived columns gets events when the watermark passes, in `advance`.
        """
        if operator.ordered:
            self._sort_buffer.want(operator.columns)
        (self._operators if advance else self._attached).append(operator)

    def process(self, records: Sequence[Record], decoded: Decoded) -> Processed:
        """Process a micro-batch and its decoded content. Records of one shard are adjacent and in order."""
        place = decoded.events.column("record").to_numpy()
        times = decoded.events.column("event_time").cast(pa.int64()).to_numpy() // _MS
        late, newest = self._observe(records, place, times)
        fresh = self._deduplicator.fresh(times, decoded.events.column("event_id"))
        events = event_rows(records, decoded.events, late)
        duplicates = len(fresh) - int(fresh.sum())
        self.connection.register(REPEATED, pa.table({"t": newest[~fresh]}))
        if duplicates:
            events, times, late = events.filter(pa.array(fresh)), times[fresh], late[fresh]
        self._register(events, times, late)
        for operator in self._unordered():
            operator.absorb()
        dead = dead_letter_rows(records, decoded.rejects)
        counters = Counters(
            events_read=len(fresh) + dead.num_rows,
            events_kept=events.num_rows,
            duplicates=duplicates,
            late=int(late.sum()),
            dead_letters=dead.num_rows,
        )
        return Processed(events=events, dead_letters=dead, counters=counters)

    def advance(self, *, to_the_end: bool = False) -> list[Signal]:
        """Advance the watermark; returns the windows that newly meet their condition.

        Signals do not depend on how often this is called. It scans the state of all windows, so a caller with a backlog
        calls it less often than `process`.

        Args:
            to_the_end: whether all shards are read to their tip.
        """
        watermark_ms = self.watermarks.advance(all_idle_count=to_the_end)
        if self._sort_buffer.release(watermark_ms):
            for operator in (*self._operators, *self._attached):
                if operator.ordered:
                    operator.absorb()
        signals = [signal for operator in self._operators for signal in operator.advance(watermark_ms)]
        if between := self.going_live.passed(watermark_ms):
            signals.append(Signal(UNWATCHED, {}, *between, *between, {}, final=True))
        self._deduplicator.forget(watermark_ms)
        return signals

    def _observe(
        self, records: Sequence[Record], place: npt.NDArray[np.int32], times: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """Late flags, and the shard's newest event time on each event's arrival.

        A shard's events are one slice because its records are adjacent.
        """
        late, newest = np.zeros(len(times), dtype=np.bool_), times.copy()
        first = 0
        while first < len(records):
            shard_id = records[first].shard_id
            last = first
            while last < len(records) and records[last].shard_id == shard_id:
                last += 1
            start, stop = np.searchsorted(place, [first, last])
            before_ms = self.watermarks.newest_ms(shard_id)
            newest[start:stop] = np.maximum(np.maximum.accumulate(times[start:stop]), before_ms)
            late[start:stop] = self.watermarks.observe(shard_id, times[start:stop])
            first = last
        arrivals = np.array([record.arrival_ms for record in records], dtype=np.int64)[place]
        self.going_live.observe(times[~late], arrivals[~late])
        return late, newest

    def _register(self, events: pa.Table, times: npt.NDArray[np.int64], late: npt.NDArray[np.bool_]) -> None:
        """Register the events for the operators. DuckDB reads Arrow in place, and only the columns that are needed."""
        operators = (*self._operators, *self._attached)
        used = {"event_time", "t"}.union(*(batch_columns(operator.columns) for operator in self._unordered()))
        read = {"event_time"}.union(*(event_columns(operator.columns) for operator in operators))
        visible = events.select(WIRE_SCHEMA.names if self._sort_buffer.wanted else sorted(read))
        visible = visible.append_column("t", pa.array(times))
        if late.any():
            visible = visible.filter(pa.array(~late))
        visible = with_texts(self.connection, visible, {name for operator in operators for name in operator.columns})
        if self._sort_buffer.wanted:
            self._sort_buffer.hold(visible)
        self.connection.register(BATCH, visible.select(sorted(used)))

    def _unordered(self) -> Iterator[WindowOperator]:
        """Operators that take events on arrival."""
        return (operator for operator in (*self._operators, *self._attached) if not operator.ordered)

    def state_rows(self) -> dict[str, int]:
        """State table → rows."""
        ordering = self._sort_buffer.rows()
        counts = " UNION ALL ".join(
            f"SELECT '{table}', count(*) FROM {table}" for table in self.state_tables() if table not in ordering
        )
        return dict(self.connection.execute(counts).fetchall()) | ordering

    def state_tables(self) -> dict[str, str]:
        """State table → digest of its meaning; a table with a changed digest is not restored."""
        tables = dict.fromkeys(
            (SEEN, *self._sort_buffer.rows()), f"duckdb {duckdb.__version__}"
        )  # they hold its hashes
        for operator in (*self._operators, *self._attached):
            digest = hashlib.sha256(repr(operator.declaration).encode()).hexdigest()[:16]
            tables.update(dict.fromkeys(operator.state_tables(), digest))
        return tables

    def save(self, path: Path) -> None:
        """Save all state tables into a new DuckDB file."""
        self.connection.execute(f"ATTACH '{_literal(path)}' AS saved")
        self.connection.execute("SET force_compression = 'uncompressed'")  # short-lived: speed counts, not size
        try:
            ordering = self._sort_buffer.state()
            for table in self.state_tables():
                if table in ordering:
                    self.connection.register("derive_state", ordering[table])
                    self.connection.execute(f"CREATE TABLE saved.{table} AS FROM derive_state")
                    self.connection.unregister("derive_state")
                else:
                    self.connection.execute(f"CREATE TABLE saved.{table} AS FROM {table}")
        finally:
            self.connection.execute("DETACH saved")

    def restore(
        self, path: Path, tables: Mapping[str, str], watermark_ms: int, newest_ms: Mapping[str, int]
    ) -> list[str]:
        """Restore the state.

        Returns:
            Tables that start empty because their declaration is new or has changed.

        Raises:
            StateError: the file cannot be read.
        """
        wanted = self.state_tables()
        fresh = [table for table, digest in wanted.items() if tables.get(table) != digest]
        try:
            self.connection.execute(f"ATTACH '{_literal(path)}' AS saved (READ_ONLY)")
            kept = [table for table in wanted if table not in fresh]
            ordering = {
                table: self.connection.sql(f"FROM saved.{table}").to_arrow_table()
                for table in kept
                if table in self._sort_buffer.rows()
            }
            for table in kept:
                if table not in ordering:
                    self.connection.execute(f"CREATE OR REPLACE TABLE {table} AS FROM saved.{table}")
            self.connection.execute("DETACH saved")
        except duckdb.Error as error:
            raise StateError(f"state in {path} cannot be read: {error}") from error
        self._sort_buffer.resume(ordering)
        self._deduplicator.resume()
        self.watermarks.restore(watermark_ms, newest_ms)
        for operator in (*self._operators, *self._attached):
            operator.resume(watermark_ms)
        return fresh


def _literal(path: Path) -> str:
    """A path in a SQL literal: ATTACH takes no bound parameter."""
    return str(path).replace("'", "''")
