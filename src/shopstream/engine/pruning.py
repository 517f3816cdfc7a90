"""What a window's condition demands of counts alone: cheap questions that leave out most keys before windows are cut.

A demand is necessary, never sufficient: a key that fails it has no window that meets the condition.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import sqlglot
from sqlglot import exp

from shopstream.engine.derived_columns import stateful
from shopstream.engine.window import WindowDeclaration

__all__ = ["Demand", "Run", "demand_of"]

_MIRRORED: dict[type[exp.Expr], type[exp.Expr]] = {exp.GT: exp.LT, exp.GTE: exp.LTE, exp.LT: exp.GT, exp.LTE: exp.GTE}


@dataclass(frozen=True, slots=True)
class Run:
    """So many events in one window; `counted` says which (None: all)."""

    events: int
    counted: str | None


@dataclass(frozen=True, slots=True)
class Demand:
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


def demand_of(declaration: WindowDeclaration) -> Demand:
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
    return Demand(total, tuple(halves), run, filter_, frozenset(columns))


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
