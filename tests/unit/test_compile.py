"""From declarations to SQL: what is refused, what fires early, what the least number of events is."""

import pytest

from shopstream.engine.compile import compile_window
from shopstream.engine.window import WindowDeclaration, WindowKind
from shopstream.errors import RuleError


def declare(**changes) -> WindowDeclaration:
    parts = {
        "name": "w",
        "kind": WindowKind.SLIDING,
        "key": ("user_id",),
        "measures": {"events": "count(*)"},
        "size_ms": 10_000,
        "slide_ms": 1_000,
        "condition": "events > 5",
    }
    return WindowDeclaration(**(parts | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size_ms": 10_500}, "whole multiple of the slide"),
        ({"size_ms": 0}, "above zero"),
        ({"gap_ms": 5}, "without a gap"),
        ({"kind": WindowKind.TUMBLING}, "a tumbling window has no slide"),
        ({"kind": WindowKind.SESSION}, "without size and slide"),
        ({"key": ("visitor",)}, "key columns among"),
        ({"measures": {}}, "at least one measure"),
        ({"measures": {"user_id": "count(*)"}}, "not a valid measure name"),
        ({"measures": {"end_ms": "count(*)"}}, "not a valid measure name"),
        ({"measures": {"x y": "count(*)"}}, "not a valid measure name"),
        ({"name": "a; drop table t"}, "not a valid window name"),
        ({"measures": {"events": "count(*"}}, "not a SQL expression"),
        ({"measures": {"events": "price"}}, "inside one of count, sum"),
        ({"measures": {"events": "count(*) + price"}}, "inside one of count, sum"),
        ({"measures": {"events": "sum(count(*))"}}, "nests an aggregate"),
        ({"measures": {"events": "count(distinct user_id, product_id)"}}, "takes one expression"),
        ({"measures": {"events": "count(cookie)"}}, "names unknown ['cookie']"),
        ({"filter": "(select 1) = 1"}, "contains a query"),
        ({"filter": "secret = 1"}, "names unknown ['secret']"),
        ({"condition": "views > 1"}, "names unknown ['views']"),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused_with_its_name(changes, words):
    with pytest.raises(RuleError) as refusal:
        compile_window(declare(**changes))
    assert words in str(refusal.value)
    assert changes.get("name", "w") in str(refusal.value)


@pytest.mark.parametrize(
    ("measures", "condition", "monotone"),
    [
        ({"n": "count(*)"}, "n > 5", True),
        ({"n": "count(*)"}, "5 < n", True),
        ({"n": "count(*)", "m": "count(distinct product_id)"}, "n >= 5 and (m > 2 or n > 50)", True),
        ({"n": "count(*)", "top": "max(price)"}, "n > 5 and top > 100", True),
        ({"n": "count(*)"}, "n < 5", False),
        ({"n": "count(*)"}, "n = 5", False),
        ({"n": "count(*)"}, "not n > 5", False),
        ({"n": "count(*)", "p": "sum(price)"}, "n > 5 and p > 10", True),
        ({"p": "sum(product_id)"}, "p > 10", False),
        ({"p": "sum(case when gap_ms < 5 then 2.5 else abs(product_id) end)"}, "p > 10", True),
        ({"p": "sum(case when gap_ms < 5 then 2.5 else -1 end)"}, "p > 10", False),
        ({"p": "sum(greatest(ln(gap_ms), 0)) filter (where viewed)"}, "p > 10", True),
        ({"p": "sum(ln(gap_ms))"}, "p > 10", False),
        ({"n": "count(*)", "m": "count(distinct brand)"}, "2 * n + m > 10", True),
        ({"n": "count(*)", "m": "count(distinct brand)"}, "n - m > 10", False),
        ({"n": "count(*)", "low": "min(price)"}, "n - low > 10", True),
        ({"low": "min(price)"}, "low < 10", True),
        ({"low": "min(price)", "top": "max(price)"}, "top > 3 * low", True),
        ({"r": "count(*) / 3"}, "r > 2", True),
        ({"r": "3 / count(*)"}, "r > 2", False),
        ({"n": "count(*)", "low": "min(price)"}, "n > 5 and low > 10", False),
        ({"r": "count(*) filter (where event_type = 'cart') / count(*)"}, "r > 0.5", False),
    ],
)
def test_only_a_condition_that_cannot_turn_false_again_fires_early(measures, condition, monotone):
    assert compile_window(declare(measures=measures, condition=condition)).monotone is monotone


@pytest.mark.parametrize(
    ("condition", "least"),
    [
        ("n > 5", 6),
        ("n >= 5", 5),
        ("n > 5.5", 6),
        ("n >= 5.5", 6),
        ("5 < n", 6),
        ("n > 5 and m > 9", 10),
        ("n > 5 or m > 9", 0),
        ("p > 100", 0),
        ("n > 0 - 5", 0),
    ],
)
def test_the_least_number_of_events_follows_from_the_condition(condition, least):
    measures = {"n": "count(*)", "m": "count(distinct product_id)", "p": "sum(price)"}
    bounds = compile_window(declare(measures=measures, condition=condition)).bounds
    assert max((bound.least for bound in bounds if bound.counts), default=0) == least


def test_equal_aggregates_share_one_partial():
    parts = compile_window(
        declare(measures={"a": "count(*)", "b": "count(*) + 1", "c": "avg(price)", "d": "sum(price)"}, condition=None)
    )
    assert len(parts.partials) == 3
