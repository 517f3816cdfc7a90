"""Sweeps: which number of a condition is swept, over which values, and in which order."""

from decimal import Decimal

import pytest

from shopstream.detection.rule import load_rules
from shopstream.errors import ConfigurationError
from shopstream.ruletools.backtest import parse_sweep

BURST = load_rules()["user_burst"]


def rule(condition, *names):
    measures = dict.fromkeys(names or ("events",), "COUNT(*)")
    return BURST.model_copy(update={"condition": condition, "measures": measures})


def test_thresholds_go_from_strict_to_loose_and_include_the_rules_own():
    sweep = parse_sweep("events=10..30:10", rule("events > 15"))
    assert list(sweep.conditions.items()) == [
        (Decimal(30), "events > 30"),
        (Decimal(20), "events > 20"),
        (Decimal(15), "events > 15"),
        (Decimal(10), "events > 10"),
    ]
    assert sweep.loosest == "events > 10"
    assert sweep.now == 15


@pytest.mark.parametrize(
    ("condition", "loosest"),
    [
        ("events >= 3", "events >= 1"),
        ("1 < events", "1 < events"),
        ("events < 3", "events < 5"),
        ("events > 3 AND n = 0", "events > 1 AND n = 0"),
        ("events > 3 OR n > 7", "events > 1 OR n > 7"),
        ("events > 3 AND n * 200 < events", "events > 1 AND n * 200 < events"),
    ],
)
def test_a_sweep_changes_one_comparison_only(condition, loosest):
    assert parse_sweep("events=1..5:2", rule(condition, "events", "n")).loosest == loosest


def test_steps_may_be_fractions():
    sweep = parse_sweep("events=0.1..0.3:0.1", rule("events > 0.2"))
    assert [str(value) for value in sweep.conditions] == ["0.3", "0.2", "0.1"]


@pytest.mark.parametrize(
    ("text", "condition", "said"),
    [
        ("events", "events > 1", "measure=from..to:step"),
        ("events=1..x", "events > 1", "measure=from..to:step"),
        ("events=1..2..3", "events > 1", "measure=from..to:step"),
        ("events=1..3:0", "events > 1", "step above zero"),
        ("events=3..1", "events > 1", "step above zero"),
        ("events=1..1000", "events > 1", "at most 200 values"),
        ("carts=1..3", "events > 1", r"\(events\), got 'carts'"),
        ("events=1..3", "events > 1 AND events < 9", "just once"),
        ("events=1..3", "NOT events > 1", "just once"),
        ("events=1..3", "events = 1", "just once"),
        ("events=1..3", "events * 2 > 1", "just once"),
    ],
)
def test_an_invalid_sweep_is_reported(text, condition, said):
    with pytest.raises(ConfigurationError, match=said):
        parse_sweep(text, rule(condition))
