"""Compiles window declarations to SQL.

A measure is an expression over aggregates: `count(*)`, `count(x)`, `count(distinct x)`, `sum(x)`, `min(x)`, `max(x)`,
`avg(x)`, each with an optional `filter (where …)`. For incremental execution, every aggregate is split into a partial,
computed once per pane, and a merge, computed over the panes of a window:

    aggregate             partial (one column of the pane)   merge
    count(*), count(x)    the same                           sum(partial)
    sum, min, max         the same                           sum, min, max
    avg(x)                sum(x) and count(x)                sum / sum
    count(distinct x)     x joins the pane's key             count(distinct x)
"""

import math
from dataclasses import dataclass, replace

import sqlglot
from sqlglot import exp

from shopstream.engine.derived_columns import COLUMNS, derived_rows
from shopstream.engine.sql_rewrite import INEXACT, Monotonicity, monotonicity_of, null_safe, stays_true
from shopstream.engine.window import WindowDeclaration, WindowKind
from shopstream.errors import RuleError

_AGGREGATES = (exp.Count, exp.Sum, exp.Min, exp.Max, exp.Avg)


@dataclass(frozen=True, slots=True)
class Bound:
    """A lower bound that a measure must reach, where the measure is at most the sum over the parts of the window.

    Args:
        least: the bound, above zero; if a window is cut in two, one part reaches at least half of it.
        counts: whether the measure counts events or their distinct values.
        over_events, over_panes: an aggregate that is at least the measure; for a distinct count, the plain count.
        varied: condition that there is more than one distinct value, over events and over panes; None if not needed.
    """

    least: float
    counts: bool
    over_events: str
    over_panes: str
    varied: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Compiled:
    """SQL parts of one declaration, for the operators to assemble.

    Args:
        keys: quoted key columns.
        columns: event columns and derived ones in the expressions, without `event_time`.
        filter: condition on an event, never empty.
        extra_keys: pane key columns for distinct counts, alias → expression.
        measures: measure name → aggregate over events, as declared.
        partials: alias → aggregate over events.
        rows: alias → the partial of one event alone.
        rejoins: alias → the same partial over the partials of several panes.
        merges: measure name → aggregate over panes.
        singles: measure name → expression over one pane alone, valid without extra keys.
        condition: condition on measure names, `TRUE` if none is declared.
        monotone: whether the condition, once true in an open window, stays true; then it may fire before the window
            closes.
        bounds: necessary bounds of the condition, each as cheap to test as a count.
    """

    keys: tuple[str, ...]
    columns: tuple[str, ...]
    filter: str
    extra_keys: dict[str, str]
    measures: dict[str, str]
    partials: dict[str, str]
    rows: dict[str, str]
    rejoins: dict[str, str]
    merges: dict[str, str]
    singles: dict[str, str]
    condition: str
    monotone: bool
    bounds: tuple["Bound", ...]


def _parse(declaration: WindowDeclaration, what: str, text: str) -> exp.Expr:
    try:
        parsed = sqlglot.parse_one(text, dialect="duckdb", into=exp.Condition)
    except sqlglot.errors.SqlglotError as error:
        message = str(error).splitlines()[0]
        raise RuleError(f"{declaration.name}: {what} {text!r} is not a SQL expression: {message}") from error
    if parsed.find(exp.Query, exp.Subquery):
        raise RuleError(f"{declaration.name}: {what} {text!r} contains a query; write an expression over columns")
    return parsed


def _check_columns(declaration: WindowDeclaration, what: str, parsed: exp.Expr, known: frozenset[str]) -> set[str]:
    used = {column.name for column in parsed.find_all(exp.Column)}
    if unknown := used - known:
        raise RuleError(f"{declaration.name}: {what} names unknown {sorted(unknown)}; expected {sorted(known)}")
    return used


def to_sql(parsed: exp.Expr) -> str:
    """DuckDB SQL with quoted identifiers."""
    return parsed.sql(dialect="duckdb", identify=True)


def _outermost_aggregates(parsed: exp.Expr) -> list[exp.Expr]:
    """Aggregates with their `filter (where …)`, which is their parent in sqlglot."""
    return [node.parent if isinstance(node.parent, exp.Filter) else node for node in parsed.find_all(*_AGGREGATES)]


def _without_avg(parsed: exp.Expr) -> exp.Expr:
    """avg(x) as sum over count, so that batch queries and merged panes round alike."""
    root = exp.Paren(this=parsed.copy())
    for node in _outermost_aggregates(root):
        inner = node.this if isinstance(node, exp.Filter) else node
        if isinstance(inner, exp.Avg):
            value = to_sql(inner.this)
            suffix = f" FILTER({to_sql(node.expression)})" if isinstance(node, exp.Filter) else ""
            spelled = f"(CAST(SUM({value}){suffix} AS DOUBLE) / nullif(COUNT({value}){suffix}, 0))"
            node.replace(sqlglot.parse_one(spelled, dialect="duckdb"))
    inside: exp.Expr = root.this
    return inside


class _Splitter:
    """Splits the aggregates of one declaration into partials and merges, sharing equal ones."""

    def __init__(self, declaration: WindowDeclaration) -> None:
        self._declaration = declaration
        self.extra_keys: dict[str, str] = {}
        self.partials: dict[str, str] = {}
        self.rows: dict[str, str] = {}
        self.rejoins: dict[str, str] = {}

    def _partial(self, aggregate: str, function: str, row: str) -> str:
        for alias, known in self.partials.items():
            if known == aggregate:
                return alias
        alias = f"p{len(self.partials)}"
        self.partials[alias] = aggregate
        self.rows[alias] = row
        self.rejoins[alias] = f"{function}({alias})"
        return alias

    def _extra_key(self, expression: str) -> str:
        for alias, known in self.extra_keys.items():
            if known == expression:
                return alias
        alias = f"d{len(self.extra_keys)}"
        self.extra_keys[alias] = expression
        return alias

    def merge(self, measure: str, parsed: exp.Expr) -> tuple[str, str]:
        """The measure as an aggregate over panes, and as an expression over one pane."""
        aggregates = _outermost_aggregates(parsed)
        covered = {id(node) for aggregate in aggregates for node in aggregate.walk()}
        outside = [node for node in parsed.find_all(exp.Column) if id(node) not in covered]
        if not aggregates or outside:
            raise RuleError(
                f"{self._declaration.name}: measure {measure!r} = {to_sql(parsed)} needs every column inside one of "
                "count, sum, min, max, avg"
            )
        merged, single = exp.Paren(this=parsed.copy()), exp.Paren(this=parsed.copy())
        pairs = zip(_outermost_aggregates(merged), _outermost_aggregates(single), strict=True)
        for in_merged, in_single in pairs:
            over_panes, over_one = self._merge_one(in_merged)
            in_merged.replace(sqlglot.parse_one(over_panes, dialect="duckdb"))
            in_single.replace(sqlglot.parse_one(over_one, dialect="duckdb"))
        return to_sql(merged.this), to_sql(single.this)

    def limit(self, parsed: exp.Expr) -> Bound | None:
        """A cheap upper bound of a growing measure; None unless it is a plain count or sum."""
        inner = parsed.this if isinstance(parsed, exp.Filter) else parsed
        if isinstance(inner, exp.Count) and isinstance(inner.this, exp.Distinct):
            value = to_sql(null_safe(inner.this.expressions[0]))
            if isinstance(parsed, exp.Filter):
                value = f"CASE WHEN {to_sql(null_safe(parsed.expression.this))} THEN {value} END"
            alias = self._extra_key(value)
            varied = (f"min({value}) <> max({value})", f"min({alias}) <> max({alias})")
            return Bound(0, True, f"count({value})", f"count({alias})", varied)
        if isinstance(inner, exp.Count | exp.Sum) and not inner.find(*INEXACT):
            parsed = null_safe(parsed)
            return Bound(0, isinstance(inner, exp.Count), to_sql(parsed), self._merge_one(parsed)[0])
        return None

    def _merge_one(self, node: exp.Expr) -> tuple[str, str]:
        inner = node.this if isinstance(node, exp.Filter) else node
        where = node.expression if isinstance(node, exp.Filter) else None
        met = to_sql(where.this) if where is not None else "TRUE"
        if any(n is not inner for n in inner.find_all(*_AGGREGATES)):
            raise RuleError(f"{self._declaration.name}: {to_sql(node)} nests an aggregate in another")
        if isinstance(inner, exp.Count) and isinstance(inner.this, exp.Distinct):
            if len(inner.this.expressions) != 1:
                raise RuleError(f"{self._declaration.name}: {to_sql(node)}: count(distinct …) takes one expression")
            value = to_sql(inner.this.expressions[0])
            if where is not None:
                value = f"CASE WHEN {met} THEN {value} END"
            alias = self._extra_key(value)
            return f"count(DISTINCT {alias})", f"CAST({alias} IS NOT NULL AS BIGINT)"
        if isinstance(inner, exp.Count):
            there = "TRUE" if isinstance(inner.this, exp.Star) else f"{to_sql(inner.this)} IS NOT NULL"
            alias = self._partial(to_sql(node), "sum", f"CASE WHEN {met} AND {there} THEN 1::BIGINT ELSE 0 END")
            return f"CAST(coalesce(sum({alias}), 0) AS BIGINT)", f"CAST({alias} AS BIGINT)"
        if isinstance(inner, exp.Avg):
            suffix = f" FILTER({to_sql(where)})" if where is not None else ""
            value = to_sql(inner.this)
            total = self._partial(f"SUM({value}){suffix}", "sum", f"CASE WHEN {met} THEN {value} END")
            there = f"{met} AND {value} IS NOT NULL"
            count = self._partial(f"COUNT({value}){suffix}", "sum", f"CASE WHEN {there} THEN 1::BIGINT ELSE 0 END")
            return (
                f"(CAST(sum({total}) AS DOUBLE) / nullif(sum({count}), 0))",
                f"(CAST({total} AS DOUBLE) / nullif({count}, 0))",
            )
        function = inner.key  # sum, min or max
        alias = self._partial(to_sql(node), function, f"CASE WHEN {met} THEN {to_sql(inner.this)} END")
        return f"{function}({alias})", alias


def conjuncts(parsed: exp.Expr) -> list[exp.Expr]:
    """The parts of a condition that `AND` joins."""
    parsed = parsed.unnest()
    if isinstance(parsed, exp.And):
        return conjuncts(parsed.left) + conjuncts(parsed.right)
    return [parsed]


def _lower_bound(parsed: exp.Expr) -> tuple[str, float] | None:
    """(name, least value) of `name > 5`, `name >= 6` or their mirror images; above 5 means the next float."""
    if isinstance(parsed, exp.Between):
        name, number, above = parsed.this, parsed.args["low"], False
    elif isinstance(parsed, exp.GT | exp.GTE):
        name, number, above = parsed.left, parsed.right, isinstance(parsed, exp.GT)
    elif isinstance(parsed, exp.LT | exp.LTE):
        name, number, above = parsed.right, parsed.left, isinstance(parsed, exp.LT)
    else:
        return None
    if not isinstance(name, exp.Column) or not isinstance(number, exp.Literal) or number.is_string:
        return None
    value = float(number.this)
    return name.name, math.nextafter(value, math.inf) if above else value


def compile_window(declaration: WindowDeclaration) -> Compiled:
    """Check the expressions of a declaration, and split them.

    Raises:
        RuleError: an expression is not SQL, names an unknown column, or uses an aggregate that cannot be merged.
    """
    splitter = _Splitter(declaration)
    used: set[str] = set(declaration.key)
    merges: dict[str, str] = {}
    singles: dict[str, str] = {}
    measures: dict[str, str] = {}
    limits: dict[str, Bound] = {}
    monotonicities: dict[str, Monotonicity] = {}
    for name, text in declaration.measures.items():
        parsed = _parse(declaration, "measure", text)
        used |= _check_columns(declaration, f"measure {name!r}", parsed, COLUMNS)
        monotonicities[name] = monotonicity_of(parsed)
        plain, parsed = parsed, null_safe(parsed)
        measures[name] = to_sql(_without_avg(parsed))
        merges[name], singles[name] = splitter.merge(name, parsed)
        if monotonicities[name] is Monotonicity.INCREASING and (limit := splitter.limit(plain)):
            limits[name] = limit
    keys = tuple(f'"{column}"' for column in declaration.key)
    parts = [f"{key} IS NOT NULL" for key in keys]
    if declaration.filter is not None:
        parsed = _parse(declaration, "filter", declaration.filter)
        used |= _check_columns(declaration, "filter", parsed, COLUMNS)
        parts.append(f"({to_sql(null_safe(parsed))})")
    condition, monotone = "TRUE", False
    bounds: list[Bound] = []
    if declaration.condition is not None:
        parsed = _parse(declaration, "condition", declaration.condition)
        _check_columns(declaration, "condition", parsed, frozenset(declaration.measures))
        condition = to_sql(null_safe(parsed))
        monotone = stays_true(parsed, monotonicities)
        for name, least in filter(None, map(_lower_bound, conjuncts(parsed))):
            if name in limits and least > 0:
                bounds.append(replace(limits[name], least=math.ceil(least) if limits[name].counts else least))
    return Compiled(
        keys=keys,
        columns=tuple(sorted(used)),
        filter=" AND ".join(parts) or "TRUE",
        extra_keys=splitter.extra_keys,
        measures=measures,
        partials=splitter.partials,
        rows=splitter.rows,
        rejoins=splitter.rejoins,
        merges=merges,
        singles=singles,
        condition=condition,
        monotone=monotone,
        bounds=tuple(bounds),
    )


def batch_sql(declaration: WindowDeclaration, source: str) -> str:
    """One plain query for all windows of `source` (a table with the event columns) that meet the condition.

    Columns: the key, `start_ms`, `end_ms`, `first_event_ms`, `last_event_ms`, then the measures.
    """
    parts = compile_window(declaration)
    select = ", ".join(
        [*parts.keys, "start_ms", "end_ms", "first_event_ms", "last_event_ms", *map(_quote, parts.measures)]
    )
    aggregates = ", ".join(f"{sql} AS {_quote(name)}" for name, sql in parts.measures.items())
    keys = "".join(f"{key}, " for key in parts.keys)
    events = f"(SELECT * FROM ({derived_rows(source, parts.columns)}) WHERE {parts.filter})"
    if declaration.kind is WindowKind.SESSION:
        partition = f"PARTITION BY {', '.join(parts.keys)} " if parts.keys else ""
        assigned = f"""
            SELECT *, sum(opens) OVER ({partition}ORDER BY t ROWS UNBOUNDED PRECEDING) AS session_no
            FROM (SELECT *, CASE WHEN t - lag(t) OVER ({partition}ORDER BY t) <= {declaration.gap_ms}
                            THEN 0 ELSE 1 END AS opens FROM {events})"""
        grouped = f"""
            SELECT {keys}min(t) AS start_ms, max(t) + {declaration.gap_ms} AS end_ms,
                   min(t) AS first_event_ms, max(t) AS last_event_ms, {aggregates}
            FROM ({assigned}) GROUP BY {keys}session_no"""
    else:
        size, slide = declaration.size_ms, declaration.slide_ms
        assigned = f"""
            SELECT *, unnest(range(t - t % {slide} - {size} + {slide}, t + 1, {slide})) AS start_ms FROM {events}"""
        grouped = f"""
            SELECT {keys}start_ms, start_ms + {size} AS end_ms,
                   min(t) AS first_event_ms, max(t) AS last_event_ms, {aggregates}
            FROM ({assigned}) GROUP BY {keys}start_ms"""
    return f"SELECT {select} FROM ({grouped}) WHERE {parts.condition}"


def _quote(name: str) -> str:
    return f'"{name}"'
