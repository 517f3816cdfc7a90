"""Checks expressions of the rule language: a small, closed subset of SQL.

The text is parsed, every node is checked against an allow-list, and normalised DuckDB SQL is generated from the tree.
Nothing else can reach an engine: no queries, no table functions, no casts, no second statement.
"""

from collections.abc import Collection

import sqlglot
from sqlglot import exp

from shopstream.engine.derived_columns import COLUMNS, DERIVED_FIELDS

MAX_EXPRESSION = 2_000
"""Characters of one expression."""

AGGREGATES: tuple[type[exp.Expr], ...] = (exp.Count, exp.Sum, exp.Min, exp.Max, exp.Avg)
_AGGREGATE_NAMES = "count, count(distinct …), sum, min, max, avg"
_FLAGS = frozenset(field.name for field in DERIVED_FIELDS if field.duckdb == "BOOLEAN")
_SCALAR_NAMES = "ln, sqrt, abs, floor, least, greatest, coalesce, nullif"

_BINARY = frozenset({"this", "expression"})
_UNARY = frozenset({"this"})
_COMPARISONS: tuple[type[exp.Expr], ...] = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)
_BOOLEAN: tuple[type[exp.Expr], ...] = (
    *_COMPARISONS,
    *(exp.And, exp.Or, exp.Not, exp.Between, exp.In, exp.Like, exp.Is, exp.Boolean),
)

_PLAIN: dict[type[exp.Expr], frozenset[str]] = {
    exp.Column: _UNARY,
    exp.Identifier: frozenset({"this", "quoted"}),
    exp.Literal: frozenset({"this", "is_string"}),
    exp.Boolean: _UNARY,
    exp.Null: frozenset(),
    exp.Paren: _UNARY,
    exp.Neg: _UNARY,
    exp.Not: _UNARY,
    exp.Add: _BINARY,
    exp.Sub: _BINARY,
    exp.Mul: _BINARY,
    exp.Div: _BINARY | {"typed", "safe"},
    exp.Mod: _BINARY,
    exp.And: _BINARY,
    exp.Or: _BINARY,
    **dict.fromkeys(_COMPARISONS, _BINARY),
    exp.Between: frozenset({"this", "low", "high"}),
    exp.In: frozenset({"this", "expressions"}),
    exp.Like: _BINARY,
    exp.Is: _BINARY,
    exp.Case: frozenset({"this", "ifs", "default"}),
    exp.If: frozenset({"this", "true"}),
    exp.Ln: _UNARY,
    exp.Abs: _UNARY,
    exp.Sqrt: _UNARY,
    exp.Floor: _UNARY,
    exp.Least: frozenset({"this", "expressions", "ignore_nulls"}),
    exp.Greatest: frozenset({"this", "expressions", "ignore_nulls"}),
    exp.Coalesce: frozenset({"this", "expressions"}),
    exp.Nullif: _BINARY,
}
"""Node type → the parts it may have in any expression."""

_AGGREGATING: dict[type[exp.Expr], frozenset[str]] = {
    exp.Count: frozenset({"this", "big_int"}),
    exp.Sum: _UNARY,
    exp.Min: _UNARY,
    exp.Max: _UNARY,
    exp.Avg: _UNARY,
    exp.Distinct: frozenset({"expressions"}),
    exp.Star: frozenset(),
    exp.Filter: _BINARY,
    exp.Where: _UNARY,
}
"""Node type → the parts it may have, in measures only."""


def check_filter(text: str) -> str:
    """A condition on one event, normalised.

    Raises:
        ValueError: the text is not such a condition.
    """
    return _write(_boolean(_parse(text, _PLAIN, COLUMNS, "event columns")))


def check_condition(text: str, measures: Collection[str]) -> str:
    """A condition on the measures of one window, normalised.

    Raises:
        ValueError: the text is not such a condition.
    """
    return _write(_boolean(_parse(text, _PLAIN, measures, "the rule's measures")))


def check_measure(text: str) -> str:
    """An expression over aggregates of event columns, normalised.

    Raises:
        ValueError: not in the rule language, no aggregate, a column outside an aggregate, or one aggregate in another.
    """
    tree = _parse(text, _PLAIN | _AGGREGATING, COLUMNS, "event columns")
    if tree.find(*AGGREGATES) is None:
        raise ValueError(f"expected an aggregate ({_AGGREGATE_NAMES}), got {text!r}")
    for node in tree.walk():
        _check_place(node)
    return _write(tree)


def _check_place(node: exp.Expr) -> None:
    """Columns stand inside aggregates, aggregates do not nest, and only count takes `*` and `distinct`."""
    inside = node.find_ancestor(*AGGREGATES, exp.Where) is not None
    wrong = None
    if isinstance(node, exp.Column) and not inside:
        wrong = f"column {node.name} stands outside an aggregate; write e.g. max({node.name})"
    elif isinstance(node, (exp.Filter, *AGGREGATES)) and inside:
        wrong = f"{_excerpt(node)} is nested in another aggregate; take it out"
    elif isinstance(node, exp.Filter) and not isinstance(node.this, AGGREGATES):
        wrong = f"filter (where …) belongs to an aggregate, got {_excerpt(node)}"
    elif isinstance(node, exp.Star | exp.Distinct) and not isinstance(node.parent, exp.Count):
        wrong = f"* and distinct belong to count, got {_excerpt(node.parent or node)}"
    elif isinstance(node, exp.Distinct) and len(node.expressions) != 1:
        wrong = f"count(distinct …) takes one expression, got {_excerpt(node)}"
    elif isinstance(node, AGGREGATES) and node.this is None:
        wrong = f"{_excerpt(node)} needs an argument, e.g. count(*)"
    if wrong is not None:
        raise ValueError(wrong)
    if isinstance(node, exp.Where):
        _boolean(node.this)


def _parse(text: str, allowed: dict[type[exp.Expr], frozenset[str]], names: Collection[str], which: str) -> exp.Expr:
    if len(text) > MAX_EXPRESSION:
        raise ValueError(f"expected at most {MAX_EXPRESSION} characters, got {len(text)}; split the rule")
    try:
        tree = sqlglot.parse_one(text, dialect="duckdb")
        for node in tree.walk():
            _check_node(node, allowed, names, which)
    except sqlglot.errors.SqlglotError as error:
        raise ValueError(f"{text!r} is not a SQL expression; see docs/rules.md") from error
    except RecursionError as error:
        raise ValueError(f"{text[:60]!r}… is nested too deeply; write it flatter") from error
    return tree


def _check_node(
    node: exp.Expr,
    allowed: dict[type[exp.Expr], frozenset[str]],
    names: Collection[str],
    which: str,
) -> None:
    parts = allowed.get(type(node))
    if parts is None:
        raise ValueError(
            f"{_excerpt(node)} is not part of the rule language; it has {_AGGREGATE_NAMES} (in measures), "
            f"{_SCALAR_NAMES}, + - * / %, comparisons, and, or, not, case, in (…), between, like, is null"
        )
    extra = {part for part, value in node.args.items() if value not in (None, False, [])} - parts
    if extra or (type(node) is exp.If and type(node.parent) is not exp.Case):
        raise ValueError(f"{_excerpt(node)} has a form that is not part of the rule language; simplify it")
    if type(node) is exp.Is and type(node.expression) not in {exp.Null, exp.Boolean}:
        raise ValueError(f"expected is null, is true or is false, got {_excerpt(node)}")
    if isinstance(node, exp.Column) and node.name not in names:
        raise ValueError(f"unknown name {node.name!r}; known names are {which}: {', '.join(sorted(names))}")


def _boolean(tree: exp.Expr) -> exp.Expr:
    plain = tree.unnest()
    if type(plain) not in _BOOLEAN and not (isinstance(plain, exp.Column) and plain.name in _FLAGS):
        raise ValueError(f"expected a condition that is true or false, got {_excerpt(tree)}; compare it, e.g. … > 15")
    return tree


def _write(tree: exp.Expr) -> str:
    return tree.sql(dialect="duckdb", comments=False)


def _excerpt(node: exp.Expr) -> str:
    text = _write(node)
    return repr(text if len(text) <= 60 else text[:60] + "…")  # noqa: PLR2004  one line of a terminal
