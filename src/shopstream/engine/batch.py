"""Computes a window declaration over a long history, faster than one plain query.

`engine.compile.batch_sql` cuts all windows of all keys and then tests the condition. `BatchScan` gives the same
windows, one slice of event time after the other, with cheap tests first. Each test is necessary, never sufficient:

1. Which keys have enough events in the slice? This counts over a column or two, and leaves few of a month's shoppers.
2. A window of `size` overlaps two neighbouring blocks of that size. If it counts m, one of the blocks counts at least
   m/2. Which keys have such a block?
3. Where do m counted events of a key lie close enough for one window?
4. Only the events of those keys are read with all columns, and windows are cut only around those places.

Events are summed into panes, one slide long, before windows are built from them. Sessions may continue from one slice
to the next. Duplicates (the same event_time and event_id) are left out, as in the reports.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import duckdb
import sqlglot
from sqlglot import exp

from shopstream.clock import DAY_MS, from_ms
from shopstream.engine.compile import batch_sql, compile_window, conjuncts, to_sql
from shopstream.engine.derived_columns import ACTOR_HORIZON_MS, VISIT_HORIZON_MS, derived_rows, event_columns, stateful
from shopstream.engine.window import WindowDeclaration, WindowKind

_MIRRORED: dict[type[exp.Expr], type[exp.Expr]] = {exp.GT: exp.LT, exp.GTE: exp.LTE, exp.LT: exp.GT, exp.LTE: exp.GTE}


@dataclass(frozen=True, slots=True)
class DenseRun:
    """A number of events that lie in one window; `counted` is their condition (None: all)."""

    events: int
    counted: str | None


@dataclass(frozen=True, slots=True)
class Prefilter:
    """Necessary conditions on aggregates of one key's events, for windows that meet the declaration's condition.

    Args:
        total: condition on all events of a slice that contains the window; None for none.
        halves: conditions on blocks as long as the window: of the two blocks that a window overlaps, at least one meets
            the first condition, at least one the second, and so on.
        run: the largest number of events that a window must contain; None if that is one or unknown.
        filter: the part of the event filter that needs no other events; None accepts all.
        columns: event columns and stateless derived ones that these name.
    """

    total: str | None
    halves: tuple[str, ...]
    run: DenseRun | None
    filter: str | None
    columns: frozenset[str]


def prefilter_of(declaration: WindowDeclaration) -> Prefilter:
    """The prefilter of a declaration with checked expressions (see `engine.compile`)."""
    measures = {name: _parse(text) for name, text in declaration.measures.items()}
    total, run = None, None
    halves: list[str] = []
    if declaration.condition is not None:
        condition = _parse(declaration.condition)
        total = _condition_prefilter(condition, measures, 1)
        halves = [
            half for part in conjuncts(condition) if (half := _condition_prefilter(part, measures, 2)) is not None
        ]
        runs = [one for part in conjuncts(condition) if (one := _run(part, measures)) is not None]
        run = max(runs, key=lambda one: one.events, default=None)
    kept = [part for part in conjuncts(_parse(declaration.filter)) if _is_own(part)] if declaration.filter else []
    filter_ = " AND ".join(f"({to_sql(part)})" for part in kept) or None
    columns: set[str] = set(declaration.key)
    for text in (total, *halves, filter_, run.counted if run else None):
        if text is not None:
            columns |= {column.name for column in _parse(text).find_all(exp.Column)}
    return Prefilter(total, tuple(halves), run, filter_, frozenset(columns))


def _condition_prefilter(condition: exp.Expr, measures: Mapping[str, exp.Expr], parts: int) -> str | None:
    condition = condition.unnest()
    if isinstance(condition, exp.And | exp.Or):
        both = [_condition_prefilter(side, measures, parts) for side in (condition.left, condition.right)]
        known = [text for text in both if text is not None]
        if isinstance(condition, exp.And):  # each side may hold in another block: test only one
            return (" AND ".join(known) if parts == 1 else known[0]) if known else None
        return f"({' OR '.join(known)})" if len(known) == len(both) else None
    return _comparison_prefilter(condition, measures, parts)


def _run(condition: exp.Expr, measures: Mapping[str, exp.Expr]) -> DenseRun | None:
    """The run of a comparison: `name > 11`, where the name is a count, needs 12 events."""
    name, kind, number = _compared(condition)
    if name is None or number is None or kind not in {exp.GT, exp.GTE}:
        return None
    aggregate = measures[name].unnest()
    inner = aggregate.this if isinstance(aggregate, exp.Filter) else aggregate
    least = math.floor(number) + 1 if kind is exp.GT else math.ceil(number)
    if not isinstance(inner, exp.Count) or least <= 1:
        return None
    if not _is_own(aggregate):
        return DenseRun(least, None)
    met = [to_sql(aggregate.expression.this)] if isinstance(aggregate, exp.Filter) else []
    value = inner.this.expressions[0] if isinstance(inner.this, exp.Distinct) else inner.this
    if not isinstance(value, exp.Star):
        met.append(f"{to_sql(value)} IS NOT NULL")
    return DenseRun(least, " AND ".join(f"({text})" for text in met) or None)


def _compared(condition: exp.Expr) -> tuple[str | None, type[exp.Expr], float | None]:
    """Measure, comparison and number of `name > 5`, `5 < name`, `name = 5`, `between` and the like."""
    condition = condition.unnest()
    if isinstance(condition, exp.Between):
        condition = exp.GTE(this=condition.this, expression=condition.args["low"])
    kind, left, right = type(condition), condition.args.get("this"), condition.args.get("expression")
    if isinstance(right, exp.Column) and kind in _MIRRORED:
        kind, left, right = _MIRRORED[kind], right, left
    if kind is exp.EQ:
        kind = exp.GTE
    return left.name if isinstance(left, exp.Column) else None, kind, _number(right)


def _comparison_prefilter(condition: exp.Expr, measures: Mapping[str, exp.Expr], parts: int) -> str | None:
    name, kind, number = _compared(condition)
    if name is None or number is None:
        return None
    aggregate = measures[name].unnest()
    inner = aggregate.this if isinstance(aggregate, exp.Filter) else aggregate
    if isinstance(inner, exp.Count) and kind in {exp.GT, exp.GTE}:
        least = math.floor(number) + 1 if kind is exp.GT else math.ceil(number)
        return f"{_count(aggregate, inner, exact=parts > 1)} >= {-(-least // parts)}" if least > 0 else None
    extreme = (isinstance(inner, exp.Max) and kind in {exp.GT, exp.GTE}) or (
        isinstance(inner, exp.Min) and kind in {exp.LT, exp.LTE}
    )
    if extreme and _is_own(aggregate):
        return to_sql(kind(this=aggregate.copy(), expression=exp.Literal.number(str(number))))
    return None


def _count(aggregate: exp.Expr, inner: exp.Count, *, exact: bool) -> str:
    """A count that is at least as large: of rows, where distinct values or other events would be costly."""
    if not _is_own(aggregate):
        return "count(*)"
    if isinstance(inner.this, exp.Distinct) and not exact:
        counted = f"count({to_sql(inner.this.expressions[0])})"
        return f"{counted} FILTER({to_sql(aggregate.expression)})" if isinstance(aggregate, exp.Filter) else counted
    return to_sql(aggregate)


def _is_own(parsed: exp.Expr) -> bool:
    """Whether an expression depends on its own event only."""
    return not stateful(column.name for column in parsed.find_all(exp.Column))


def _number(parsed: exp.Expr | None) -> float | None:
    if isinstance(parsed, exp.Neg):
        inner = _number(parsed.this)
        return None if inner is None else -inner
    return float(parsed.this) if isinstance(parsed, exp.Literal) and not parsed.is_string else None


def _parse(text: str) -> exp.Expr:
    return sqlglot.parse_one(text, dialect="duckdb")


_STRETCH: Final = 4
"""A slice is at least this many times as long as a window plus the time that derived columns look back: longer ones
would read fewer rows twice, but need more memory."""

_DUPLICATE_ORDER: Final = ("arrival_time", "event_type", "product_id", "user_id", "price")
"""Of duplicates, the first by these columns counts, as in the reports."""


class BatchScan:
    """Computes one declaration over the events of a table.

    Args:
        connection: has the table; its time zone is UTC. Temporary tables `batch_…` are created in it.
        declaration: the windows.
        source: table or view with the event columns.
        into: name of the table to create, with the columns of `batch_sql`.
        from_ms, until_ms: only events in [from, until) count; None for no limit. Derived columns look back further.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        declaration: WindowDeclaration,
        source: str,
        into: str,
        *,
        from_ms: int | None = None,
        until_ms: int | None = None,
    ) -> None:
        self._connection = connection
        self._declaration = declaration
        self._source = source
        self._into = into
        self._parts = compile_window(declaration)
        self._prefilter = prefilter_of(declaration)
        self._keys = "".join(f"{key}, " for key in self._parts.keys)
        self._by = f"PARTITION BY {', '.join(self._parts.keys)} " if self._parts.keys else ""
        self._back_ms = _look_back_ms(self._parts.columns)
        # Derived columns depend on a shopper's earlier events: keys may be left out only if they include the shopper.
        self._filters_keys = bool(self._parts.keys and self._prefilter.total) and (
            not self._back_ms or "user_id" in declaration.key
        )
        # Whether to locate dense runs; sessions have no fixed length for that.
        self._locates_runs = (
            self._filters_keys and self._prefilter.run is not None and declaration.kind is not WindowKind.SESSION
        )
        known = {row[0] for row in connection.execute(f"DESCRIBE {source}").fetchall()}
        self._order = ", ".join(column for column in _DUPLICATE_ORDER if column in known)
        self._identified = "event_id" in known
        connection.execute(
            f"CREATE OR REPLACE TABLE {into} AS SELECT * FROM ({batch_sql(declaration, source)}) LIMIT 0"
        )
        self._slices = self._plan(from_ms, until_ms)

    def __len__(self) -> int:
        """Number of slices."""
        return len(self._slices)

    def run(self, progress: Callable[[int], None] = lambda _done: None) -> None:
        """Fill the table; `progress` receives the number of finished slices."""
        session = self._declaration.kind is WindowKind.SESSION
        if session and self._slices:
            self._begin_sessions()
        for place, (start_ms, end_ms) in enumerate(self._slices):
            if session:
                self._sessions(start_ms, end_ms, last=place == len(self._slices) - 1)
            else:
                self._windows(start_ms, end_ms)
            progress(place + 1)

    def _plan(self, from_ms: int | None, until_ms: int | None) -> list[tuple[int, int]]:
        """Stretches [start, end) of event time for sessions, of window starts for other windows."""
        limits = [
            f"event_time {sign} {_timestamp(ms)}" for sign, ms in ((">=", from_ms), ("<", until_ms)) if ms is not None
        ]
        where = f" WHERE {' AND '.join(limits)}" if limits else ""
        self._from_ms, newest_ms = self._connection.execute(
            f"SELECT epoch_ms(min(event_time)), epoch_ms(max(event_time)) FROM {self._source}{where}"
        ).fetchall()[0]
        if self._from_ms is None:
            return []
        self._until_ms = newest_ms + 1
        declaration = self._declaration
        if declaration.kind is WindowKind.SESSION:
            first_ms, longest_ms = self._from_ms - self._from_ms % DAY_MS, declaration.gap_ms
        else:
            slide_ms = declaration.slide_ms
            first_ms = self._from_ms - self._from_ms % slide_ms - declaration.size_ms + slide_ms
            longest_ms = declaration.size_ms
        length_ms = max(DAY_MS, -(-(_STRETCH * longest_ms + self._back_ms) // DAY_MS) * DAY_MS)
        if declaration.slide_ms:
            length_ms = -(-length_ms // declaration.slide_ms) * declaration.slide_ms
        return [(start, start + length_ms) for start in range(first_ms, self._until_ms, length_ms)]

    def _between(self, start_ms: int, end_ms: int) -> str:
        """Condition on event_time, clipped to the limits."""
        start_ms, end_ms = max(start_ms, self._from_ms), min(end_ms, self._until_ms)
        return f"event_time >= {_timestamp(start_ms)} AND event_time < {_timestamp(end_ms)}"

    def _filter_keys(self, where: str, *, blocks: bool) -> int:
        """Create `batch_keys`, the keys whose windows may meet the condition; returns their number."""
        prefilter = self._prefilter
        columns = sorted(prefilter.columns)
        rows = derived_rows(f"(SELECT * FROM {self._source} WHERE {where})", columns)
        met = " AND ".join([*(f"{key} IS NOT NULL" for key in self._parts.keys), *filter(None, [prefilter.filter])])
        keys = ", ".join(self._parts.keys)
        self._make(
            "batch_keys",
            f"SELECT {keys} FROM (SELECT * FROM ({rows}) WHERE {met}) GROUP BY {keys} HAVING {prefilter.total}",
        )
        if blocks and prefilter.halves:
            self._make(
                "batch_few", f"SELECT * FROM (SELECT * FROM ({rows}) WHERE {met}) SEMI JOIN batch_keys USING ({keys})"
            )
            block = f"t // {self._declaration.size_ms}"
            halves = ", ".join(f"({half}) AS half{place}" for place, half in enumerate(prefilter.halves))
            each = " AND ".join(f"bool_or(half{place})" for place in range(len(prefilter.halves)))
            cut = f"SELECT {keys}, {halves} FROM batch_few GROUP BY {keys}, {block}"
            self._make("batch_keys", f"SELECT {keys} FROM ({cut}) GROUP BY {keys} HAVING {each}")
            if prefilter.run is not None:
                self._locate(prefilter.run)
        return int(self._connection.execute("SELECT count(*) FROM batch_keys").fetchall()[0][0])

    def _locate(self, run: DenseRun) -> None:
        """Create `batch_spans`, the times of each key that windows with the run cover; drop other keys.

        A window that contains a run from t0 to t1 lies between t1 - size and t0 + size.
        """
        size_ms, keys = self._declaration.size_ms, ", ".join(self._parts.keys)
        counted = f"(SELECT * FROM batch_few WHERE {run.counted or 'TRUE'}) SEMI JOIN batch_keys USING ({keys})"
        begun = f"lag(t, {run.events - 1}) OVER ({self._by}ORDER BY t)"
        self._make(
            "batch_runs",
            f"""SELECT {keys}, t - {size_ms} AS after_ms, begun + {size_ms} AS before_ms
                FROM (SELECT {keys}, t, {begun} AS begun FROM {counted}) WHERE t - begun < {size_ms}""",
        )
        order = f"{self._by}ORDER BY after_ms, before_ms"
        apart = f"CASE WHEN after_ms < lag(before_ms) OVER ({order}) THEN 0 ELSE 1 END"
        self._make(
            "batch_spans",
            f"""SELECT {keys}, min(after_ms) AS after_ms, max(before_ms) AS before_ms
                FROM (SELECT *, sum(apart) OVER ({order} ROWS UNBOUNDED PRECEDING) AS span
                      FROM (SELECT *, {apart} AS apart FROM batch_runs)) GROUP BY {keys}, span""",
        )
        self._make("batch_keys", f"SELECT DISTINCT {keys} FROM batch_spans")

    def _rows(self, start_ms: int, end_ms: int) -> str:
        """Source of a time's events without duplicates, with the past that derived columns need."""
        earlier = (
            f"event_time >= {_timestamp(start_ms - self._back_ms)}"
            if self._back_ms
            else self._between(start_ms, end_ms)
        )
        where = f"{earlier} AND event_time < {_timestamp(min(end_ms, self._until_ms))}"
        if not self._filters_keys:
            return self._without_duplicates(f"(SELECT * FROM {self._source} WHERE {where})")
        needed = {
            *event_columns(self._parts.columns),
            *(["event_id"] if self._identified else []),
            *self._order.split(", "),
        }
        columns = ", ".join(f'"{column}"' for column in sorted(needed - {""}))
        if self._back_ms:
            few = "user_id IN (SELECT user_id FROM batch_keys)"
            query = f"SELECT event_time, {columns} FROM {self._source} WHERE {where} AND {few}"
        else:
            rows = derived_rows(
                f"(SELECT * FROM {self._source} WHERE {where})", sorted(needed | set(self._declaration.key))
            )
            keys = ", ".join(self._parts.keys)
            query = f"SELECT event_time, {columns} FROM ({rows}) SEMI JOIN batch_keys USING ({keys})"
        self._make("batch_rows", query)
        return self._without_duplicates("batch_rows")

    def _without_duplicates(self, rows: str) -> str:
        """Duplicates are few: find their ids first, so that only they are ranked."""
        if not self._identified:
            return rows
        one = "event_time, event_id"
        self._make("batch_duplicates", f"SELECT {one} FROM {rows} GROUP BY {one} HAVING count(*) > 1")
        if not self._connection.execute("SELECT count(*) FROM batch_duplicates").fetchall()[0][0]:
            return rows
        rank = f"row_number() OVER (PARTITION BY {one} ORDER BY {self._order})"
        return f"""(
            SELECT * FROM {rows} ANTI JOIN batch_duplicates USING ({one}) UNION ALL
            SELECT * FROM {rows} SEMI JOIN batch_duplicates USING ({one}) QUALIFY {rank} = 1)"""

    def _windows(self, start_ms: int, end_ms: int) -> None:
        """Add the windows that start in [start, end)."""
        size_ms, slide_ms = self._declaration.size_ms, self._declaration.slide_ms
        last_ms = end_ms - slide_ms + size_ms
        if self._filters_keys and not self._filter_keys(self._between(start_ms, last_ms), blocks=True):
            return
        rows = self._rows(start_ms, last_ms)
        derived = f"(SELECT * FROM ({derived_rows(rows, self._parts.columns)}) WHERE {self._parts.filter})"
        # Events before the limits were read for derived columns only.
        near = ""
        if self._locates_runs:
            same = " AND ".join(f"s.{key} = e.{key}" for key in self._parts.keys)
            near = f"SEMI JOIN batch_spans AS s ON {same} AND e.t > s.after_ms AND e.t < s.before_ms"
        extra = "".join(f"{sql} AS {alias}, " for alias, sql in self._parts.extra_keys.items())
        partials = "".join(f", {sql} AS {alias}" for alias, sql in self._parts.partials.items())
        group = ", ".join([*self._parts.keys, *self._parts.extra_keys, "pane"])
        panes = f"""
            SELECT {self._keys}{extra}t - t % {slide_ms} AS pane, min(t) AS t_min, max(t) AS t_max{partials}
            FROM {derived} AS e {near} WHERE t >= {max(start_ms, self._from_ms)} GROUP BY {group}"""
        starts = f"unnest(range(pane - {size_ms} + {slide_ms}, pane + 1, {slide_ms}))"
        merges = ", ".join(f'{sql} AS "{name}"' for name, sql in self._parts.merges.items())
        self._add(f"""
            SELECT {self._keys}start_ms, start_ms + {size_ms} AS end_ms, min(t_min) AS first_event_ms,
                   max(t_max) AS last_event_ms, {merges}
            FROM (SELECT * FROM (SELECT *, {starts} AS start_ms FROM ({panes}))
                  WHERE start_ms >= {start_ms} AND start_ms < {end_ms})
            GROUP BY {self._keys}start_ms""")

    def _begin_sessions(self) -> None:
        """Start without open sessions. Keys are filtered once, because sessions may continue in the next slice."""
        columns = ", ".join(f'"{column}"' for column in self._parts.columns)
        empty = derived_rows(f"(SELECT * FROM {self._source} WHERE FALSE)", self._parts.columns)
        self._make("batch_open", f"SELECT t{', ' if columns else ''}{columns} FROM ({empty})")
        if self._filters_keys:
            self._filter_keys(self._between(self._from_ms, self._until_ms), blocks=False)

    def _sessions(self, start_ms: int, end_ms: int, *, last: bool) -> None:
        """Add the sessions that no event from `end_ms` on can belong to."""
        gap_ms = self._declaration.gap_ms
        columns = "".join(f', "{column}"' for column in self._parts.columns)
        rows = derived_rows(self._rows(start_ms, end_ms), self._parts.columns)
        met = f"{self._parts.filter} AND t >= {max(start_ms, self._from_ms)}"
        held = f"(FROM batch_open UNION ALL SELECT t{columns} FROM ({rows}) WHERE {met})"
        self._make(
            "batch_sessions",
            f"""SELECT *, sum(opens) OVER ({self._by}ORDER BY t ROWS UNBOUNDED PRECEDING) AS session_no
                FROM (SELECT *, CASE WHEN t - lag(t) OVER ({self._by}ORDER BY t) <= {gap_ms}
                                THEN 0 ELSE 1 END AS opens FROM {held})""",
        )
        measured = ", ".join(f'{sql} AS "{name}"' for name, sql in self._parts.measures.items())
        ended = "TRUE" if last else f"max(t) + {gap_ms} < {end_ms}"
        self._add(f"""
            SELECT {self._keys}min(t) AS start_ms, max(t) + {gap_ms} AS end_ms, min(t) AS first_event_ms,
                   max(t) AS last_event_ms, {measured}
            FROM batch_sessions GROUP BY {self._keys}session_no HAVING {ended}""")
        newest = f"max(t) OVER (PARTITION BY {self._keys}session_no)"
        open_too = f"SELECT t{columns} FROM batch_sessions QUALIFY {newest} + {gap_ms} >= {end_ms}"
        self._make("batch_open", open_too)

    def _add(self, windows: str) -> None:
        measures = "".join(f', "{name}"' for name in self._parts.measures)
        self._connection.execute(f"""
            INSERT INTO {self._into} SELECT {self._keys}start_ms, end_ms, first_event_ms, last_event_ms{measures}
            FROM ({windows}) WHERE {self._parts.condition}""")

    def _make(self, table: str, query: str) -> None:
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS {query}")


def _look_back_ms(columns: tuple[str, ...]) -> int:
    """How far derived columns look back."""
    names = {field.name for field in stateful(columns)}
    if "previous_gap_ms" in names:
        return 2 * ACTOR_HORIZON_MS
    if names - {"first_visit", "viewed"}:
        return ACTOR_HORIZON_MS
    return VISIT_HORIZON_MS if names else 0


def _timestamp(ms: int) -> str:
    return f"TIMESTAMPTZ '{from_ms(ms).isoformat(sep=' ', timespec='milliseconds')}'"
