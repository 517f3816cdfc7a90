"""What an expression means beyond its SQL: it fails on no value, sums are exact, and some values only grow."""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final

import sqlglot
from sqlglot import exp

__all__ = ["INEXACT", "Monotonicity", "monotonicity_of", "null_safe", "stays_true"]

INEXACT: Final = (exp.Ln, exp.Sqrt, exp.Div)
"""What computes fractions."""

_NEVER_NEGATIVE: Final = frozenset({"price", "gap_ms", "previous_gap_ms", "hour", "hour_of_day"})
"""Columns; prices below zero are dead letters, and shoppers' events are in order."""


def null_safe(parsed: exp.Expr) -> exp.Expr:
    """The same expression for DuckDB, total and independent of the order of events.

    Where a function has no value (ln of what is not above zero, sqrt below zero, division by zero) it is null, not
    infinity, NaN or an error. Computed fractions (ln, sqrt, /) are summed in decimal with nine places, since
    floating-point sums depend on the order of their parts, and a stream has another order than a batch.
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
    """How a value moves while events are added to a window."""

    STILL = 0
    UP = 1
    DOWN = -1
    ANY = None

    def reversed(self) -> "Monotonicity":
        """The course of its negative."""
        return Monotonicity(-self.value) if self.value else self


_COURSES: Final[dict[type[exp.Expr], Monotonicity]] = {
    exp.Literal: Monotonicity.STILL,
    exp.Count: Monotonicity.UP,
    exp.Max: Monotonicity.UP,
    exp.Min: Monotonicity.DOWN,
}


def _joint(*courses: Monotonicity) -> Monotonicity:
    """Of a sum, a minimum or the like, which move with their parts."""
    moving = {course for course in courses if course is not Monotonicity.STILL}
    return Monotonicity.STILL if not moving else moving.pop() if len(moving) == 1 else Monotonicity.ANY


def monotonicity_of(
    parsed: exp.Expr, of_name: Callable[[str], Monotonicity] = lambda _: Monotonicity.ANY
) -> Monotonicity:
    """Monotonicity of an expression over aggregates, or over measures whose courses `of_name` tells.

    Null (nothing to sum yet) counts as before any value.
    """
    parsed = parsed.unnest()
    if isinstance(parsed, exp.Filter):
        parsed = parsed.this
    if isinstance(parsed, exp.Column):
        return of_name(parsed.name)
    if isinstance(parsed, exp.Sum):
        return Monotonicity.UP if _never_negative(parsed.this) else Monotonicity.ANY
    if isinstance(parsed, exp.Add | exp.Sub):
        left, right = monotonicity_of(parsed.left, of_name), monotonicity_of(parsed.right, of_name)
        return _joint(left, right if isinstance(parsed, exp.Add) else right.reversed())
    if isinstance(parsed, exp.Mul | exp.Div):
        return _scaled(parsed, of_name)
    return _COURSES.get(type(parsed), Monotonicity.ANY)


def _scaled(parsed: exp.Mul | exp.Div, of_name: Callable[[str], Monotonicity]) -> Monotonicity:
    """A product with a number, or a quotient by one."""
    left, right = parsed.left.unnest(), parsed.right.unnest()
    if isinstance(parsed, exp.Mul) and isinstance(left, exp.Literal):
        left, right = right, left
    if not isinstance(right, exp.Literal) or right.is_string or float(right.this) == 0:
        return Monotonicity.ANY
    return monotonicity_of(left, of_name)


def _parts(parsed: exp.Expr) -> list[exp.Expr]:
    rest = parsed.args.get("expressions") or [parsed.args["expression"]]
    return [parsed.this, *rest]


def _never_negative(parsed: exp.Expr) -> bool:
    """Whether an expression over one event is at least zero, or null."""
    parsed = parsed.unnest()
    if isinstance(parsed, exp.Case):
        default = parsed.args.get("default")
        branches = [branch.args["true"] for branch in parsed.args["ifs"]] + ([default] if default else [])
        return all(isinstance(branch, exp.Null) or _never_negative(branch) for branch in branches)
    if isinstance(parsed, exp.Greatest):  # nulls are passed over: a number above zero holds
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


def stays_true(condition: exp.Expr, courses: Mapping[str, Monotonicity]) -> bool:
    """Whether a condition over measures, once true, stays true while events are added."""
    condition = condition.unnest()
    if isinstance(condition, exp.And | exp.Or):
        return stays_true(condition.left, courses) and stays_true(condition.right, courses)
    if not isinstance(condition, _RISING + _FALLING):
        return False
    left, right = (monotonicity_of(side, lambda name: courses[name]) for side in (condition.left, condition.right))
    course = _joint(left, right.reversed())
    return course in {Monotonicity.STILL, Monotonicity.UP if isinstance(condition, _RISING) else Monotonicity.DOWN}
