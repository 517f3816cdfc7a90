"""Rewrites expressions so that they never fail and sum exactly, and finds those that only grow."""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final

import sqlglot
from sqlglot import exp

INEXACT: Final = (exp.Ln, exp.Sqrt, exp.Div)
"""Operations that compute fractions."""

_NEVER_NEGATIVE: Final = frozenset({"price", "gap_ms", "previous_gap_ms", "hour", "hour_of_day"})
"""Columns that are at least zero: negative prices are dead letters, and shoppers' events are in order."""


def null_safe(parsed: exp.Expr) -> exp.Expr:
    """The expression for DuckDB, null-safe and independent of the order of events.

    Where a function is undefined (ln of zero and below, sqrt below zero, division by zero), it gives null, not
    infinity, NaN or an error. Computed fractions (ln, sqrt, /) are summed as decimals with nine places: floating-point
    sums depend on the order of their parts, which differs between stream and batch.
    """
    root = exp.Paren(this=parsed.copy())
    for node in list(root.find_all(exp.Ln, exp.Sqrt, exp.Div, exp.Mod)):
        if isinstance(node, exp.Ln | exp.Sqrt):
            sign = ">" if isinstance(node, exp.Ln) else ">="
            met = sqlglot.condition(f"x {sign} 0", dialect="duckdb")
            met.this.replace(exp.paren(node.this.copy()))
            node.set("this", exp.Case(ifs=[exp.If(this=met, true=node.this.copy())]))
        elif not (isinstance(node.expression, exp.Literal) and float(node.expression.this)):
            node.set("expression", exp.Nullif(this=node.expression.unnest().copy(), expression=exp.Literal.number(0)))
    for node in list(root.find_all(exp.Sum, exp.Avg)):
        if node.this.find(*INEXACT):
            node.set("this", exp.TryCast(this=node.this.copy(), to=exp.DataType.build("DECIMAL(38, 9)")))
            if isinstance(node, exp.Sum):
                whole = node.parent if isinstance(node.parent, exp.Filter) else node
                whole.replace(exp.cast(whole.copy(), "DOUBLE"))
    inside: exp.Expr = root.this
    return inside


class Monotonicity(Enum):
    """How a value changes while events are added to a window."""

    CONSTANT = 0
    INCREASING = 1
    DECREASING = -1
    UNKNOWN = None

    def reversed(self) -> "Monotonicity":
        """Of the negative value."""
        return Monotonicity(-self.value) if self.value else self


_MONOTONICITIES: Final[dict[type[exp.Expr], Monotonicity]] = {
    exp.Literal: Monotonicity.CONSTANT,
    exp.Count: Monotonicity.INCREASING,
    exp.Max: Monotonicity.INCREASING,
    exp.Min: Monotonicity.DECREASING,
}


def _joint(*parts: Monotonicity) -> Monotonicity:
    """Of a sum, from those of its parts."""
    moving = {part for part in parts if part is not Monotonicity.CONSTANT}
    return Monotonicity.CONSTANT if not moving else moving.pop() if len(moving) == 1 else Monotonicity.UNKNOWN


def monotonicity_of(
    parsed: exp.Expr, of_name: Callable[[str], Monotonicity] = lambda _: Monotonicity.UNKNOWN
) -> Monotonicity:
    """Monotonicity of an expression over aggregates, or over measures, whose monotonicity `of_name` gives.

    Null (nothing to sum yet) counts as less than any value.
    """
    parsed = parsed.unnest()
    if isinstance(parsed, exp.Filter):
        parsed = parsed.this
    if isinstance(parsed, exp.Column):
        return of_name(parsed.name)
    if isinstance(parsed, exp.Sum):
        return Monotonicity.INCREASING if _never_negative(parsed.this) else Monotonicity.UNKNOWN
    if isinstance(parsed, exp.Add | exp.Sub):
        left, right = monotonicity_of(parsed.left, of_name), monotonicity_of(parsed.right, of_name)
        return _joint(left, right if isinstance(parsed, exp.Add) else right.reversed())
    if isinstance(parsed, exp.Mul | exp.Div):
        return _scaled(parsed, of_name)
    return _MONOTONICITIES.get(type(parsed), Monotonicity.UNKNOWN)


def _scaled(parsed: exp.Mul | exp.Div, of_name: Callable[[str], Monotonicity]) -> Monotonicity:
    """Of a product with a number, or a quotient by one."""
    left, right = parsed.left.unnest(), parsed.right.unnest()
    if isinstance(parsed, exp.Mul) and isinstance(left, exp.Literal):
        left, right = right, left
    if not isinstance(right, exp.Literal) or right.is_string or float(right.this) == 0:
        return Monotonicity.UNKNOWN
    return monotonicity_of(left, of_name)


def _parts(parsed: exp.Expr) -> list[exp.Expr]:
    rest = parsed.args.get("expressions") or [parsed.args["expression"]]
    return [parsed.this, *rest]


def _never_negative(parsed: exp.Expr) -> bool:
    """Whether an expression over one event is always at least zero, or null."""
    parsed = parsed.unnest()
    if isinstance(parsed, exp.Case):
        default = parsed.args.get("default")
        branches = [branch.args["true"] for branch in parsed.args["ifs"]] + ([default] if default else [])
        return all(isinstance(branch, exp.Null) or _never_negative(branch) for branch in branches)
    if isinstance(parsed, exp.Greatest):  # greatest ignores nulls: one literal suffices
        return any(isinstance(part, exp.Literal) for part in _parts(parsed)) or all(
            map(_never_negative, _parts(parsed))
        )
    if isinstance(parsed, exp.Add | exp.Mul | exp.Div | exp.Least | exp.Coalesce):
        return all(map(_never_negative, _parts(parsed)))
    if isinstance(parsed, exp.Floor):
        return _never_negative(parsed.this)
    return (
        isinstance(parsed, exp.Abs | exp.Sqrt | exp.Null)
        or (isinstance(parsed, exp.Literal) and not parsed.is_string)
        or (isinstance(parsed, exp.Column) and parsed.name in _NEVER_NEGATIVE)
    )


_RISING: Final = (exp.GT, exp.GTE)
_FALLING: Final = (exp.LT, exp.LTE)


def stays_true(condition: exp.Expr, monotonicities: Mapping[str, Monotonicity]) -> bool:
    """Whether a condition on measures, once true, stays true while events are added."""
    condition = condition.unnest()
    if isinstance(condition, exp.And | exp.Or):
        return stays_true(condition.left, monotonicities) and stays_true(condition.right, monotonicities)
    if not isinstance(condition, _RISING + _FALLING):
        return False
    sides = (condition.left, condition.right)
    left, right = (monotonicity_of(side, lambda name: monotonicities[name]) for side in sides)
    wanted = Monotonicity.INCREASING if isinstance(condition, _RISING) else Monotonicity.DECREASING
    return _joint(left, right.reversed()) in {Monotonicity.CONSTANT, wanted}
