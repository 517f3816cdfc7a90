"""Window operators: keyed window state, computed incrementally by DuckDB.

An operator absorbs micro-batches (`absorb`). As the watermark moves (`advance`), it emits the windows that meet the
declaration's condition: once as soon as a growing condition is true (`final=False`), and once when the window closes
(`final=True`). Its state is a table of the engine's in-memory database, without rows older than the longest open
window.
"""

import math
from collections.abc import Sequence
from typing import Final, Protocol

import duckdb
import pyarrow as pa

from shopstream.engine.compile import Bound, Compiled, compile_window
from shopstream.engine.derived_columns import TEXTS, stateful, stateless_rows
from shopstream.engine.signals import Signal
from shopstream.engine.tables import BATCH, ORDERED
from shopstream.engine.watermark import BEGINNING
from shopstream.engine.window import WindowDeclaration, WindowKind

_ACTORS: Final = frozenset({"user_id", "user_session", "ip", "ip_net"})
_RAW_LIMIT_MS: Final = 3_600_000
_LEAST_PIECES: Final = 200_000


class WindowOperator(Protocol):
    """Computes one declaration."""

    declaration: WindowDeclaration
    columns: tuple[str, ...]
    ordered: bool

    def absorb(self) -> None:
        """Add the events of the table BATCH, or ORDERED if `ordered`, to the state."""
        ...

    def advance(self, watermark_ms: int) -> list[Signal]:
        """Windows that newly meet the condition; no event before the watermark will arrive."""
        ...

    def forget(self, watermark_ms: int) -> None:
        """Move the watermark and drop old state, without signals."""
        ...

    def state_tables(self) -> tuple[str, ...]:
        """Tables with the keyed state, which a checkpoint saves and restores."""
        ...

    def resume(self, watermark_ms: int) -> None:
        """Continue after the state tables were restored; `watermark_ms` is that of the last `advance`."""
        ...


def build_operator(
    connection: duckdb.DuckDBPyConnection, declaration: WindowDeclaration
) -> "SlidingOperator | SessionOperator":
    """The operator for a declaration."""
    if declaration.kind is WindowKind.SESSION:
        return SessionOperator(connection, declaration)
    return SlidingOperator(connection, declaration)


class _Operator:
    """The common part of both kinds."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, declaration: WindowDeclaration) -> None:
        self.declaration = declaration
        self._connection = connection
        self._parts: Compiled = compile_window(declaration)
        self.columns = self._parts.columns
        self.ordered = bool(stateful(self.columns))
        numbers = set(self.columns).difference(field.name for field in TEXTS)
        self._source = f"({stateless_rows(ORDERED if self.ordered else BATCH, numbers)})"
        self._watermark_ms = BEGINNING
        self._keys = "".join(f"{key}, " for key in self._parts.keys)
        self._merges = ", ".join(f'{sql} AS "{name}"' for name, sql in self._parts.merges.items())
        self._state = f"window_{declaration.name}"
        self._early = EarlyFirings(connection, f"fired_{declaration.name}", declaration.key, self._source)

    def _create(self, table: str, query: str) -> None:
        """Create an empty table with the types of a query."""
        self._connection.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT * FROM ({query}) LIMIT 0")

    def resume(self, watermark_ms: int) -> None:
        """See `WindowOperator.resume`."""
        self._watermark_ms = watermark_ms
        self._early.resume()

    def _pane_query(self, pane: str) -> str:
        """Query: the incoming events, grouped into panes."""
        extra = "".join(f"{sql} AS {alias}, " for alias, sql in self._parts.extra_keys.items())
        partials = "".join(f", {sql} AS {alias}" for alias, sql in self._parts.partials.items())
        group = ", ".join([*self._parts.keys, *self._parts.extra_keys, "pane"])
        return f"""
            SELECT {self._keys}{extra}{pane} AS pane, min(t) AS t_min, max(t) AS t_max{partials}
            FROM {self._source} WHERE {self._parts.filter} GROUP BY {group}"""

    def _signals(self, query: str) -> list[Signal]:
        """Rows (key, start_ms, end_ms, first_event_ms, last_event_ms, final, measures) as signals."""
        key, measures = self.declaration.key, tuple(self._parts.merges)
        width = len(key)
        return [
            Signal(
                window=self.declaration.name,
                key=dict(zip(key, row[:width], strict=True)),
                start_ms=row[width],
                end_ms=row[width + 1],
                first_event_ms=row[width + 2],
                last_event_ms=row[width + 3],
                final=row[width + 4],
                measures=dict(zip(measures, row[width + 5 :], strict=True)),
            )
            for row in self._connection.execute(query).fetchall()
        ]

    def _columns(self) -> str:
        measures = "".join(f', "{name}"' for name in self._parts.merges)
        return f"{self._keys}start_ms, end_ms, first_event_ms, last_event_ms, final{measures}"


class SlidingOperator(_Operator):
    """Tumbling and sliding windows.

    The state has one of two forms. Windows over actors are short and have about one event per pane: the state keeps the
    events' columns, and a cheap count finds the few keys that can meet the condition before panes are grouped. All
    other windows sum events into panes, one slide long, on arrival.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, declaration: WindowDeclaration) -> None:
        super().__init__(connection, declaration)
        self._raw = bool(_ACTORS & set(declaration.key)) and declaration.size_ms <= _RAW_LIMIT_MS
        slide = declaration.slide_ms
        if self._raw:
            columns = "".join(f', "{column}"' for column in self._parts.columns)
            self._incoming = f"SELECT t{columns} FROM {self._source} WHERE {self._parts.filter}"
        else:
            self._incoming = self._pane_query(f"t - t % {slide}")
        self._create(self._state, self._incoming)
        self._time = "t" if self._raw else "pane"
        self._pruned_ms = BEGINNING

    def absorb(self) -> None:
        """Append the batch, as events or as panes."""
        self._connection.execute(f"INSERT INTO {self._state} {self._incoming}")

    def _candidates(self, closed_ms: int | str, watermark_ms: int | str) -> str:
        """Query: rows of the keys that can meet the condition.

        A window of `size` overlaps two neighbouring blocks of the same size. If it has at least m events, one of the
        blocks has at least m/2; likewise for sums of values that are never negative. That test is one grouping, and
        exact windows are computed only for the few keys that pass. A tumbling window is a block: it must have all m.
        """
        until = "" if self._parts.monotone else f" AND {self._time} < {watermark_ms}"
        since = f"{self._time} >= {closed_ms} - {self.declaration.size_ms}"
        recent = f"SELECT * FROM {self._state} WHERE {since}{until}"
        tumbling = self.declaration.slide_ms == self.declaration.size_ms
        tests = list(filter(None, (self._test(bound, 1 if tumbling else 2) for bound in self._parts.bounds)))
        if not tests or not self._parts.keys:
            return recent
        keys = ", ".join(self._parts.keys)
        block = f"{self._time} // {self.declaration.size_ms}"
        if tumbling:
            blocks = f"(SELECT *, {block} AS block FROM ({recent}))"
            busy = f"SELECT {keys}, block FROM {blocks} GROUP BY {keys}, block HAVING {' AND '.join(tests)}"
            return f"SELECT * EXCLUDE (block) FROM {blocks} SEMI JOIN ({busy}) USING ({keys}, block)"
        busy = f"SELECT DISTINCT {keys} FROM (SELECT {keys} FROM ({recent}) GROUP BY {keys}, {block} HAVING {tests[0]})"
        if len(tests) > 1:  # each block may reach another bound
            flags = ", ".join(f"({test}) AS f{place}" for place, test in enumerate(tests))
            met = " AND ".join(f"bool_or(f{place})" for place in range(len(tests)))
            blocks = f"SELECT {keys}, {flags} FROM ({recent}) GROUP BY {keys}, {block}"
            busy = f"SELECT {keys} FROM ({blocks}) GROUP BY {keys} HAVING {met}"
        return f"SELECT * FROM ({recent}) SEMI JOIN ({busy}) USING ({keys})"

    def _test(self, bound: Bound, parts: int) -> str | None:
        """Condition that one of `parts` parts of a window must meet; None if every part does."""
        least = math.ceil(bound.least / parts) if bound.counts else bound.least / parts
        if bound.counts and least <= 1:
            return None
        aggregate, varied = (bound.over_events, 0) if self._raw else (bound.over_panes, 1)
        test = f"{aggregate} >= {least!r}"
        return f"{test} AND {bound.varied[varied]}" if bound.varied else test

    def _windows(self, rows: str) -> str:
        """Query: all windows of the state rows, with measures.

        Events become panes of their own first, so that expressions over an event are computed once, not per window.
        """
        size, slide = self.declaration.size_ms, self.declaration.slide_ms
        if self._raw:
            extra = "".join(f"{sql} AS {alias}, " for alias, sql in self._parts.extra_keys.items())
            partials = "".join(f", {sql} AS {alias}" for alias, sql in self._parts.rows.items())
            rows = f"SELECT {self._keys}{extra}t, t AS t_min, t AS t_max{partials} FROM ({rows})"
        time = self._time
        start = f"unnest(range({time} - {time} % {slide} - {size} + {slide}, {time} + 1, {slide}))"
        return f"""
            SELECT {self._keys}start_ms, start_ms + {size} AS end_ms, min(t_min) AS first_event_ms,
                   max(t_max) AS last_event_ms, {self._merges}
            FROM (SELECT *, {start} AS start_ms FROM ({rows})) GROUP BY {self._keys}start_ms"""

    def _hits(self, closed_ms: int | str, watermark_ms: int | str) -> str:
        """Query: windows that meet the condition and close between the watermarks, or may fire early.

        Each watermark may also be the name of a parameter.
        """
        open_too = "TRUE" if self._parts.monotone else f"end_ms <= {watermark_ms}"
        windows = self._windows(self._candidates(closed_ms, watermark_ms))
        return f"""
            SELECT * FROM (SELECT *, end_ms <= {watermark_ms} AS final FROM ({windows}))
            WHERE end_ms > {closed_ms} AND {open_too} AND ({self._parts.condition})"""

    def statements(self) -> tuple[str, str]:
        """The SQL of `absorb` and `advance`."""
        return f"INSERT INTO {self._state} {self._incoming}", self._hits("$closed_ms", "$watermark_ms")

    def advance(self, watermark_ms: int) -> list[Signal]:
        """See `WindowOperator.advance`."""
        slide = self.declaration.slide_ms
        closed_ms = self._watermark_ms
        watermark_ms = max(watermark_ms, closed_ms)
        if not self._parts.monotone and watermark_ms // slide == closed_ms // slide:
            self._watermark_ms = watermark_ms  # no window has closed
            return []
        hits = self._hits(closed_ms, watermark_ms)
        signals = self._signals(f"""
            SELECT {self._columns()} FROM ({self._early.unseen(hits)}) ORDER BY start_ms, {self._keys}final""")
        self._early.remember(signals)
        self.forget(watermark_ms)
        return signals

    def forget(self, watermark_ms: int) -> None:
        """Drop rows outside all open windows, each time a window's length has passed."""
        size = self.declaration.size_ms
        self._watermark_ms = max(watermark_ms, self._watermark_ms)
        if self._watermark_ms - self._pruned_ms >= size:
            # unlike deleting, rewriting leaves no tombstones
            self._connection.execute(f"""
                CREATE OR REPLACE TABLE {self._state} AS
                SELECT * FROM {self._state} WHERE {self._time} >= {self._watermark_ms - size}""")
            self._pruned_ms = self._watermark_ms

    def current(self, size_ms: int, now_ms: int) -> str:
        """Query: measures by key over the last `size_ms` (at most the declared size) before `now_ms`."""
        group = f" GROUP BY {', '.join(self._parts.keys)}" if self._parts.keys else ""
        measures = self._parts.measures if self._raw else self._parts.merges
        measured = ", ".join(f'{sql} AS "{name}"' for name, sql in measures.items())
        return f"""
            SELECT {self._keys}{measured} FROM {self._state}
            WHERE {self._time} >= {now_ms - min(size_ms, self.declaration.size_ms)}{group}"""

    def state_tables(self) -> tuple[str, ...]:
        """Events or panes, and early firings."""
        return self._state, self._early.table


class SessionOperator(_Operator):
    """Sessions by inactivity gap.

    The state holds pieces of sessions: each event is one, and pieces are joined when sessions are read. Closed sessions
    stay readable for `retain_ms` of event time.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, declaration: WindowDeclaration, retain_ms: int = 0
    ) -> None:
        super().__init__(connection, declaration)
        self._retain_ms = retain_ms
        extra = "".join(f"{sql} AS {alias}, " for alias, sql in self._parts.extra_keys.items())
        partials = "".join(f", {sql} AS {alias}" for alias, sql in self._parts.rows.items())
        self._incoming = f"""
            SELECT {self._keys}{extra}t AS t_min, t AS t_max{partials} FROM {self._source} WHERE {self._parts.filter}"""
        self._dirty = True  # whether pieces may have to be joined
        self._pieces = 0
        self._limit = _LEAST_PIECES
        self._create(self._state, self._incoming)

    def absorb(self) -> None:
        """Append the batch's pieces; join them each time the rows have doubled, which bounds their number."""
        self._pieces += self._connection.execute(f"INSERT INTO {self._state} {self._incoming}").fetchall()[0][0]
        self._dirty = True
        if self._pieces > self._limit:
            self.forget(self._watermark_ms)

    def _numbered(self, pieces: str) -> str:
        """Query: pieces with the number of their session within the key."""
        partition = f"PARTITION BY {', '.join(self._parts.keys)} " if self._parts.keys else ""
        before = f"max(t_max) OVER ({partition}ORDER BY t_min, t_max ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
        return f"""
            SELECT * EXCLUDE (opens), sum(opens) OVER (
                       {partition}ORDER BY t_min, t_max ROWS UNBOUNDED PRECEDING) AS session_no
            FROM (SELECT *, CASE WHEN t_min - {before} <= {self.declaration.gap_ms} THEN 0 ELSE 1 END AS opens
                  FROM {pieces})"""

    def _join(self, rows: str, by: str) -> str:
        """Query: joined pieces, one row per value of `by` (and distinct value)."""
        partials = "".join(f", {sql} AS {alias}" for alias, sql in self._parts.rejoins.items())
        extra = "".join(f"{alias}, " for alias in self._parts.extra_keys)
        group = ", ".join([*self._parts.keys, *self._parts.extra_keys, *([by] if by else [])])
        group_by = f" GROUP BY {group}" if group else ""
        return f"""
            SELECT {self._keys}{extra}min(t_min) AS t_min, max(t_max) AS t_max{partials}
            FROM {rows}{group_by}"""

    def _joined(self) -> str:
        """Query: the state, one row per session (and distinct value).

        The pieces of nearly every key lie within one gap: one session, found by grouping alone. Only other keys need
        their pieces in order.
        """
        if self._parts.extra_keys or not self._parts.keys:
            return self._join(f"({self._numbered(self._state)})", "session_no")
        keys = ", ".join(self._parts.keys)
        gap = self.declaration.gap_ms
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE pieces AS {self._join(self._state, '')}")
        spread = f"SELECT {keys} FROM pieces WHERE t_max - t_min > {gap}"
        ordered = self._numbered(f"(SELECT * FROM {self._state} SEMI JOIN ({spread}) USING ({keys}))")
        return f"""
            SELECT * FROM pieces WHERE t_max - t_min <= {gap}
            UNION ALL {self._join(f"({ordered})", "session_no")}"""

    def sessions(self) -> str:
        """Query: all sessions of the state: key, start_ms, end_ms, first_event_ms, last_event_ms, measures."""
        times = f"""min(t_min) AS start_ms, max(t_max) + {self.declaration.gap_ms} AS end_ms,
                    min(t_min) AS first_event_ms, max(t_max) AS last_event_ms"""
        if self._parts.extra_keys:
            return f"""
                SELECT {self._keys}{times}, {self._merges}
                FROM ({self._numbered(self._state)}) GROUP BY {self._keys}session_no"""
        if self._dirty:
            self._connection.execute(f"CREATE OR REPLACE TABLE {self._state} AS {self._joined()}")
            self._dirty = False
        singles = ", ".join(f'{sql} AS "{name}"' for name, sql in self._parts.singles.items())
        return f"""
            SELECT {self._keys}t_min AS start_ms, t_max + {self.declaration.gap_ms} AS end_ms,
                   t_min AS first_event_ms, t_max AS last_event_ms, {singles} FROM {self._state}"""

    def _hits(self, closed_ms: int | str, watermark_ms: int | str) -> str:
        """Query: sessions that meet the condition and close between the watermarks, or may fire early."""
        closed = f"end_ms < {watermark_ms}"
        early = f" OR start_ms <= {watermark_ms}" if self._parts.monotone else ""
        return f"""
            SELECT * FROM (SELECT *, {closed} AS final FROM ({self.sessions()}))
            WHERE end_ms >= {closed_ms} AND ({closed}{early}) AND ({self._parts.condition})"""

    def statements(self) -> tuple[str, str]:
        """The SQL of `absorb` and `advance`."""
        return f"INSERT INTO {self._state} {self._incoming}", self._hits("$closed_ms", "$watermark_ms")

    def advance(self, watermark_ms: int) -> list[Signal]:
        """See `WindowOperator.advance`.

        A session may fire early once the watermark has passed its start: no event can extend it to the left any more,
        so its start, which identifies it, is final.
        """
        watermark_ms = max(watermark_ms, self._watermark_ms)
        hits = self._hits(self._watermark_ms, watermark_ms)
        signals = self._signals(f"SELECT {self._columns()} FROM ({self._early.unseen(hits)}) ORDER BY start_ms")
        self._early.remember(signals)
        self.forget(watermark_ms)
        return signals

    def forget(self, watermark_ms: int) -> None:
        """Join the pieces to one row per session (and distinct value); drop sessions past their retention."""
        self._watermark_ms = watermark_ms = max(watermark_ms, self._watermark_ms)
        oldest_ms = watermark_ms - self.declaration.gap_ms - self._retain_ms
        if self._parts.extra_keys:
            over = f"OVER (PARTITION BY {self._keys}session_no)"
            rows = f"(SELECT *, max(t_max) {over} AS newest FROM ({self._numbered(self._state)}))"
            query = self._join(f"(SELECT * FROM {rows} WHERE newest >= {oldest_ms})", "session_no")
        else:
            source = f"({self._joined()})" if self._dirty else self._state
            query = f"SELECT * FROM {source} WHERE t_max >= {oldest_ms}"
            self._dirty = False
        self._pieces = self._connection.execute(f"CREATE OR REPLACE TABLE {self._state} AS {query}").fetchall()[0][0]
        self._limit = max(2 * self._pieces, _LEAST_PIECES)

    def state_tables(self) -> tuple[str, ...]:
        """Pieces of sessions, and early firings."""
        return self._state, self._early.table


class EarlyFirings:
    """Windows that have fired early: each fires early once, and again when it closes.

    A table (key, start_ms) of the engine's database, so that checkpoints save it.

    Args:
        connection: of the engine's database.
        table: name of the table.
        key: key columns.
        like: table or query with the key columns, for their types.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, table: str, key: Sequence[str], like: str) -> None:
        self._connection = connection
        self.table = table
        self._key = tuple(key)
        self._columns = ", ".join([*(f'"{column}"' for column in key), "start_ms"])
        keys = "".join(f'"{column}", ' for column in key)
        connection.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT {keys}0::BIGINT AS start_ms FROM {like} LIMIT 0")
        self._rows = 0

    def unseen(self, hits: str) -> str:
        """Query: the final ones of the hits, and those that have not fired yet."""
        if not self._rows:
            return hits
        return f"""
            WITH hits AS MATERIALIZED ({hits}) SELECT * FROM hits WHERE final
            UNION ALL SELECT hits.* FROM hits ANTI JOIN {self.table} USING ({self._columns}) WHERE NOT final"""

    def remember(self, signals: Sequence[Signal]) -> None:
        """Add windows that fire early; remove those that close."""
        for final, change in (
            (True, f"DELETE FROM {self.table} WHERE ({self._columns}) IN (SELECT ({self._columns}) FROM fired)"),
            (False, f"INSERT INTO {self.table} SELECT {self._columns} FROM fired"),
        ):
            some = [signal for signal in signals if signal.final is final]
            if not some or (final and not self._rows):
                continue
            columns: dict[str, list[object]] = {
                **{column: [signal.key[column] for signal in some] for column in self._key},
                "start_ms": [signal.start_ms for signal in some],
            }
            self._connection.register("fired", pa.table(columns))
            self._connection.execute(change)
            self._connection.unregister("fired")
            self.resume()

    def resume(self) -> None:
        """Continue after the table was changed or restored."""
        self._rows = self._connection.execute(f"SELECT count(*) FROM {self.table}").fetchall()[0][0]
