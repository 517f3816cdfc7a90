"""A threshold in many values: `events=10..100:10`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

import sqlglot
from sqlglot import exp

from shopstream.detection import Rule
from shopstream.errors import ConfigurationError

__all__ = ["MAX_VALUES", "Sweep", "parse_sweep"]

MAX_VALUES = 200
"""Values of one sweep."""

_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_SHAPE = re.compile(rf"([a-z][a-z0-9_]*)=(-?{_NUMBER})\.\.(-?{_NUMBER})(?::({_NUMBER}))?", re.ASCII)
_MIRRORED: dict[type[exp.Expr], type[exp.Expr]] = {exp.GT: exp.LT, exp.GTE: exp.LTE, exp.LT: exp.GT, exp.LTE: exp.GTE}


@dataclass(frozen=True, slots=True)
class Sweep:
    """A rule's condition with other numbers in the place of one.

    Args:
        measure: whose comparison it is.
        now: the number in the rule.
        conditions: value → condition, from strict to loose, the rule's own number among them.
    """

    measure: str
    now: Decimal
    conditions: dict[Decimal, str]

    @property
    def loosest(self) -> str:
        """The condition that every window meets which meets one of the others."""
        return list(self.conditions.values())[-1]


def parse_sweep(text: str, rule: Rule) -> Sweep:
    """Read `measure=from..to:step` (the step is 1 by default) against a rule.

    Raises:
        ConfigurationError: another form, too many values, or the rule compares that measure not exactly once.
    """
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"expected --sweep measure=from..to:step, e.g. events=10..100:10, got {text!r}")
    measure = match[1]
    first, last, step = (Decimal(part) for part in (match[2], match[3], match[4] or "1"))
    if step <= 0 or last < first:
        raise ConfigurationError(f"expected --sweep to go up by a step above zero, got {text!r}")
    count = int((last - first) / step) + 1
    if count > MAX_VALUES:
        raise ConfigurationError(f"expected at most {MAX_VALUES} values in --sweep, got {count}; take a longer step")
    place, rises = _comparison(rule, measure)
    now = Decimal(str(place.this))
    values = sorted({now, *(first + step * number for number in range(count))}, reverse=rises)
    return Sweep(measure, now, {value: _with(rule.condition, measure, value) for value in values})


def _comparison(rule: Rule, measure: str) -> tuple[exp.Expr, bool]:
    """The number that the measure is compared with; whether a larger one is stricter."""
    if measure not in rule.measures:
        known = ", ".join(rule.measures)
        raise ConfigurationError(f"expected a measure of rule {rule.id} in --sweep ({known}), got {measure!r}")
    tree = sqlglot.parse_one(rule.condition, dialect="duckdb")
    found = list(_literals_beside(tree, measure))
    if len(found) != 1:
        raise ConfigurationError(
            f"expected rule {rule.id} to compare {measure} with a number just once (e.g. {measure} > 15), got "
            f"{rule.condition!r}; sweep another measure, or write the condition so"
        )
    return found[0]


def _literals_beside(tree: exp.Expr, measure: str) -> Iterator[tuple[exp.Expr, bool]]:
    """Numbers that the measure is compared with; whether a larger one is stricter."""
    for column in tree.find_all(exp.Column):
        found = _literal_beside(column) if column.name == measure else None
        if found is not None:
            yield found


def _literal_beside(column: exp.Expr) -> tuple[exp.Expr, bool] | None:
    comparison = column.parent
    if comparison is None or type(comparison) not in _MIRRORED or column.find_ancestor(exp.Not, exp.Case):
        return None
    left = comparison.args["this"] is column
    number = comparison.args["expression" if left else "this"]
    if not isinstance(number, exp.Literal) or number.is_string:
        return None
    kind = type(comparison) if left else _MIRRORED[type(comparison)]
    return number, kind in {exp.GT, exp.GTE}


def _with(condition: str, measure: str, value: Decimal) -> str:
    tree = sqlglot.parse_one(condition, dialect="duckdb")
    number, _ = next(_literals_beside(tree, measure))
    number.replace(exp.Literal.number(f"{value:f}"))
    return tree.sql(dialect="duckdb")
