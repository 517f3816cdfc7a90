"""What a window's condition demands of counts alone: cheap questions that leave out most keys before windows are cut.

A demand is necessary, never sufficient: a key that fails it has no window that meets the condition.

A window declaration over a long history, in less time than one plain query takes.

`engine.compile.batch_sql` cuts every window of every key and then looks which meet the condition. This gives the same
windows, stretch by stretch of event time, and asks cheap questions first (`engine.bounds`):

1. Which keys have enough events in the stretch at all? That counts over a column or two; of a month of shoppers it
   leaves a few.
2. A window of `size` overlaps two neighbouring blocks of that size: where it counts m, one of the two counts m/2.
   Which keys have such a block?
3. Where, to the millisecond, do m counted events of a key lie so close that one window can hold them?
4. Only the events of those keys are read with all columns and given their derived ones, and only around those places
   windows are cut.

Events are summed into panes, one slide long, before windows are put together from them. Sessions have no stretch of
their own: what one leaves open is carried into the next.

Copies of an event (the same event_time and event_id) are left out, as in the reports.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import duckdb
import sqlglot
from sqlglot import exp

from shopstream.clock import from_ms
from shopstream.engine.compile import batch_sql, compile_window
from shopstream.engine.derived_columns import ACTOR_HORIZON_MS, VISIT_HORIZON_MS, derived_rows, event_columns, stateful
from shopstream.engine.window import WindowDeclaration, WindowKind

__all__ = ["BatchScan", "Prefilter", "Run", "prefilter_of"]

_MIRRORED: dict[type[exp.Expr], type[exp.Expr]] = {exp.GT: exp.LT, exp.GTE: exp.LTE, exp.LT: exp.GT, exp.LTE: exp.GTE}


@dataclass(frozen=True, slots=True)
class Run:
    """So many events in one window; `counted` says which (None: all)."""

    events: int
    counted: str | None


@dataclass(frozen=True, slots=True)
class Prefilter:
    """Conditions over aggregates of one key's events; None demands nothing.

    Args:
        total: of all events of a stretch that holds the window.
        halves: of two neighbouring blocks as long as the window, which the window overlaps, one meets the first of
            these, one (maybe the other) meets the second, and so on.
        run: the largest number of events that a window must hold; None: no such number above one.
        filter: condition on an event, as far as it needs no other events; None takes all.
        columns: event columns and stateless derived ones that these name.
    """

    total: str | None
    halves: tuple[str, ...]
    run: Run | None
    filter: str | None
    columns: frozenset[str]


def prefilter_of(declaration: WindowDeclaration) -> Prefilter:
    """The demand of a declaration whose expressions were checked (see `engine.compile`)."""
    measures = {name: _parse(text) for name, text in declaration.measures.items()}
    total, run = None, None
    halves: list[str] = []
    if declaration.condition is not None:
        condition = _parse(declaration.condition)
        total = _demand(condition, measures, 1)
        halves = [half for part in _conjuncts(condition) if (half := _demand(part, measures, 2)) is not None]
        runs = [one for part in _conjuncts(condition) if (one := _run(part, measures)) is not None]
        run = max(runs, key=lambda one: one.events, default=None)
    kept = [part for part in _conjuncts(_parse(declaration.filter)) if _plain(part)] if declaration.filter else []
    filter_ = " AND ".join(f"({_sql(part)})" for part in kept) or None
    columns: set[str] = set(declaration.key)
    for text in (total, *halves, filter_, run.counted if run else None):
        if text is not None:
            columns |= {column.name for column in _parse(text).find_all(exp.Column)}
    return Prefilter(total, tuple(halves), run, filter_, frozenset(columns))


def _demand(condition: exp.Expr, measures: Mapping[str, exp.Expr], parts: int) -> str | None:
    condition = condition.unnest()
    if isinstance(condition, exp.And | exp.Or):
        both = [_demand(side, measures, parts) for side in (condition.left, condition.right)]
        said = [text for text in both if text is not None]
        if isinstance(condition, exp.And):  # of halves, each side may hold in another block: ask for one alone
            return (" AND ".join(said) if parts == 1 else said[0]) if said else None
        return f"({' OR '.join(said)})" if len(said) == len(both) else None
    return _demand_of_comparison(condition, measures, parts)


def _run(condition: exp.Expr, measures: Mapping[str, exp.Expr]) -> Run | None:
    """`name > 11`, where the name is a count: 12 events."""
    name, kind, number = _compared(condition)
    if name is None or number is None or kind not in {exp.GT, exp.GTE}:
        return None
    aggregate = measures[name].unnest()
    inner = aggregate.this if isinstance(aggregate, exp.Filter) else aggregate
    least = math.floor(number) + 1 if kind is exp.GT else math.ceil(number)
    if not isinstance(inner, exp.Count) or least <= 1:
        return None
    if not _plain(aggregate):
        return Run(least, None)
    met = [_sql(aggregate.expression.this)] if isinstance(aggregate, exp.Filter) else []
    value = inner.this.expressions[0] if isinstance(inner.this, exp.Distinct) else inner.this
    if not isinstance(value, exp.Star):
        met.append(f"{_sql(value)} IS NOT NULL")
    return Run(least, " AND ".join(f"({text})" for text in met) or None)


def _compared(condition: exp.Expr) -> tuple[str | None, type[exp.Expr], float | None]:
    """Measure, comparison and number of `name > 5` and the like, `5 < name` and `name = 5` and `between` among them."""
    condition = condition.unnest()
    if isinstance(condition, exp.Between):
        condition = exp.GTE(this=condition.this, expression=condition.args["low"])
    kind, left, right = type(condition), condition.args.get("this"), condition.args.get("expression")
    if isinstance(right, exp.Column) and kind in _MIRRORED:
        kind, left, right = _MIRRORED[kind], right, left
    if kind is exp.EQ:
        kind = exp.GTE
    return left.name if isinstance(left, exp.Column) else None, kind, _number(right)


def _demand_of_comparison(condition: exp.Expr, measures: Mapping[str, exp.Expr], parts: int) -> str | None:
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
    if extreme and _plain(aggregate):
        return _sql(kind(this=aggregate.copy(), expression=exp.Literal.number(str(number))))
    return None


def _count(aggregate: exp.Expr, inner: exp.Count, *, exact: bool) -> str:
    """A count that is at least as large: of rows, where a distinct count or another event would be dear to ask."""
    if not _plain(aggregate):
        return "count(*)"
    if isinstance(inner.this, exp.Distinct) and not exact:
        counted = f"count({_sql(inner.this.expressions[0])})"
        return f"{counted} FILTER({_sql(aggregate.expression)})" if isinstance(aggregate, exp.Filter) else counted
    return _sql(aggregate)


def _plain(parsed: exp.Expr) -> bool:
    """Whether an expression asks for no other events than its own."""
    return not stateful(column.name for column in parsed.find_all(exp.Column))


def _conjuncts(parsed: exp.Expr) -> list[exp.Expr]:
    parsed = parsed.unnest()
    if isinstance(parsed, exp.And):
        return _conjuncts(parsed.left) + _conjuncts(parsed.right)
    return [parsed]


def _number(parsed: exp.Expr | None) -> float | None:
    if isinstance(parsed, exp.Neg):
        inner = _number(parsed.this)
        return None if inner is None else -inner
    return float(parsed.this) if isinstance(parsed, exp.Literal) and not parsed.is_string else None


def _parse(text: str) -> exp.Expr:
    return sqlglot.parse_one(text, dialect="duckdb")


def _sql(parsed: exp.Expr) -> str:
    return parsed.sql(dialect="duckdb", identify=True)


_DAY_MS: Final = 86_400_000
_STRETCH: Final = 4
"""A stretch is at least this many times as long as a window, and as long as derived columns look back: longer ones
would read less twice, and take more memory."""

_COPY_ORDER: Final = ("arrival_time", "event_type", "product_id", "user_id", "price")
"""Which copy of an event counts: the first one by these, as in the reports."""


class BatchScan:
    """One declaration over the events of a table.

    Args:
        connection: has the table; its time zone is UTC. Temporary tables named `batch_…` are made in it.
        declaration: what to look for.
        source: table or view with the event columns.
        into: name of the table to make, with the columns of `batch_sql`.
        from_ms, until_ms: only events from and before these count; None takes all. Derived columns look back further.
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
        self._demand = prefilter_of(declaration)
        self._keys = "".join(f"{key}, " for key in self._parts.keys)
        self._by = f"PARTITION BY {', '.join(self._parts.keys)} " if self._parts.keys else ""
        self._back_ms = _look_back_ms(self._parts.columns)
        # A shopper's earlier events decide derived columns: keys may be left out only where they are shoppers' own.
        self._sifts = bool(self._parts.keys and self._demand.total) and (
            not self._back_ms or "user_id" in declaration.key
        )
        # Where the places of enough events are looked for; sessions have no length to look within.
        self._spans = self._sifts and self._demand.run is not None and declaration.kind is not WindowKind.SESSION
        known = {row[0] for row in connection.execute(f"DESCRIBE {source}").fetchall()}
        self._order = ", ".join(column for column in _COPY_ORDER if column in known)
        self._identified = "event_id" in known
        connection.execute(
            f"CREATE OR REPLACE TABLE {into} AS SELECT * FROM ({batch_sql(declaration, source)}) LIMIT 0"
        )
        self._stretches = self._plan(from_ms, until_ms)

    def __len__(self) -> int:
        """Stretches to go through."""
        return len(self._stretches)

    def run(self, progress: Callable[[int], None] = lambda _done: None) -> None:
        """Fill the table; `progress` is told how many stretches are done."""
        session = self._declaration.kind is WindowKind.SESSION
        if session and self._stretches:
            self._begin_sessions()
        for place, (start_ms, end_ms) in enumerate(self._stretches):
            if session:
                self._sessions(start_ms, end_ms, last=place == len(self._stretches) - 1)
            else:
                self._windows(start_ms, end_ms)
            progress(place + 1)

    def _plan(self, from_ms: int | None, until_ms: int | None) -> list[tuple[int, int]]:
        """Stretches [start, end): of event time for sessions, of window starts for others."""
        limits = [
            f"event_time {sign} {_moment(ms)}" for sign, ms in ((">=", from_ms), ("<", until_ms)) if ms is not None
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
            first_ms, longest_ms = self._from_ms - self._from_ms % _DAY_MS, declaration.gap_ms
        else:
            slide_ms = declaration.slide_ms
            first_ms = self._from_ms - self._from_ms % slide_ms - declaration.size_ms + slide_ms
            longest_ms = declaration.size_ms
        length_ms = max(_DAY_MS, -(-(_STRETCH * longest_ms + self._back_ms) // _DAY_MS) * _DAY_MS)
        if declaration.slide_ms:
            length_ms = -(-length_ms // declaration.slide_ms) * declaration.slide_ms
        return [(start, start + length_ms) for start in range(first_ms, self._until_ms, length_ms)]

    def _between(self, start_ms: int, end_ms: int) -> str:
        """Condition on event_time, within the limits."""
        start_ms, end_ms = max(start_ms, self._from_ms), min(end_ms, self._until_ms)
        return f"event_time >= {_moment(start_ms)} AND event_time < {_moment(end_ms)}"

    def _sift(self, where: str, *, blocks: bool) -> int:
        """Table `batch_keys`: the keys whose windows are worth cutting; returns how many."""
        demand = self._demand
        columns = sorted(demand.columns)
        rows = derived_rows(f"(SELECT * FROM {self._source} WHERE {where})", columns)
        met = " AND ".join([*(f"{key} IS NOT NULL" for key in self._parts.keys), *filter(None, [demand.filter])])
        keys = ", ".join(self._parts.keys)
        self._make(
            "batch_keys",
            f"SELECT {keys} FROM (SELECT * FROM ({rows}) WHERE {met}) GROUP BY {keys} HAVING {demand.total}",
        )
        if blocks and demand.halves:
            self._make(
                "batch_few", f"SELECT * FROM (SELECT * FROM ({rows}) WHERE {met}) SEMI JOIN batch_keys USING ({keys})"
            )
            block = f"t // {self._declaration.size_ms}"
            halves = ", ".join(f"({half}) AS half{place}" for place, half in enumerate(demand.halves))
            each = " AND ".join(f"bool_or(half{place})" for place in range(len(demand.halves)))
            cut = f"SELECT {keys}, {halves} FROM batch_few GROUP BY {keys}, {block}"
            self._make("batch_keys", f"SELECT {keys} FROM ({cut}) GROUP BY {keys} HAVING {each}")
            if demand.run is not None:
                self._place(demand.run)
        return int(self._connection.execute("SELECT count(*) FROM batch_keys").fetchall()[0][0])

    def _place(self, run: Run) -> None:
        """Table `batch_spans`: for each key, the times in which windows that hold the run lie; `batch_keys` loses those
        that have none. A window that holds a run from t0 to t1 lies between t1 - size and t0 + size.
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
        """Source of the events of a time (derived columns' past included) that windows are cut from, each once."""
        earlier = (
            f"event_time >= {_moment(start_ms - self._back_ms)}" if self._back_ms else self._between(start_ms, end_ms)
        )
        where = f"{earlier} AND event_time < {_moment(min(end_ms, self._until_ms))}"
        if not self._sifts:
            return self._without_copies(f"(SELECT * FROM {self._source} WHERE {where})")
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
        return self._without_copies("batch_rows")

    def _without_copies(self, rows: str) -> str:
        """Copies are few: their ids are found first, so that only they are ranked."""
        if not self._identified:
            return rows
        one = "event_time, event_id"
        self._make("batch_copies", f"SELECT {one} FROM {rows} GROUP BY {one} HAVING count(*) > 1")
        if not self._connection.execute("SELECT count(*) FROM batch_copies").fetchall()[0][0]:
            return rows
        rank = f"row_number() OVER (PARTITION BY {one} ORDER BY {self._order})"
        return f"""(
            SELECT * FROM {rows} ANTI JOIN batch_copies USING ({one}) UNION ALL
            SELECT * FROM {rows} SEMI JOIN batch_copies USING ({one}) QUALIFY {rank} = 1)"""

    def _windows(self, start_ms: int, end_ms: int) -> None:
        """Windows that start in [start, end)."""
        size_ms, slide_ms = self._declaration.size_ms, self._declaration.slide_ms
        last_ms = end_ms - slide_ms + size_ms
        if self._sifts and not self._sift(self._between(start_ms, last_ms), blocks=True):
            return
        rows = self._rows(start_ms, last_ms)
        derived = f"(SELECT * FROM ({derived_rows(rows, self._parts.columns)}) WHERE {self._parts.filter})"
        # only events inside the limits are counted; those before them were read for derived columns alone
        near = ""
        if self._spans:
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
        """No session is open yet; and keys are sifted once, since a session may go on in the next stretch."""
        columns = ", ".join(f'"{column}"' for column in self._parts.columns)
        empty = derived_rows(f"(SELECT * FROM {self._source} WHERE FALSE)", self._parts.columns)
        self._make("batch_open", f"SELECT t{', ' if columns else ''}{columns} FROM ({empty})")
        if self._sifts:
            self._sift(self._between(self._from_ms, self._until_ms), blocks=False)

    def _sessions(self, start_ms: int, end_ms: int, *, last: bool) -> None:
        """Sessions that have ended by `end_ms`: no event from there on can belong to them."""
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
    """How far before an event its derived columns look."""
    names = {field.name for field in stateful(columns)}
    if "previous_gap_ms" in names:
        return 2 * ACTOR_HORIZON_MS
    if names - {"first_visit", "viewed"}:
        return ACTOR_HORIZON_MS
    return VISIT_HORIZON_MS if names else 0


def _moment(ms: int) -> str:
    return f"TIMESTAMPTZ '{from_ms(ms).isoformat(sep=' ', timespec='milliseconds')}'"
