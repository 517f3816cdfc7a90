"""Rules as Flink SQL, held against texts that Flink 2.3's planner took.

When a text changes, let a Flink planner EXPLAIN it before the file in tests/golden/flink follows.
"""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from shopstream.cli.program import app
from shopstream.detection.rule import load_rules
from shopstream.engine.derived_columns import DERIVED_FIELDS
from shopstream.engine.flink import flink_sql
from shopstream.engine.window import WindowDeclaration, WindowKind

GOLDEN = Path(__file__).parents[1] / "golden" / "flink"

DECLARATIONS = (
    WindowDeclaration(
        "burst", WindowKind.SLIDING, ("user_id",), {"events": "count(*)"}, 10_000, 1_000, condition="events > 15"
    ),
    WindowDeclaration("site", WindowKind.TUMBLING, (), {"events": "count(*)", "mean": "avg(price)"}, 10_500),
    WindowDeclaration(
        "visits",
        WindowKind.SESSION,
        ("user_id", "user_session"),
        {"pages": "count(*) filter (where first_visit)"},
        gap_ms=1_800_000,
        condition="pages > 3",
    ),
    WindowDeclaration(
        "everything",
        WindowKind.SLIDING,
        ("user_id", "ip_net"),
        {
            "evidence": "sum(case when abs(ln(gap_ms / previous_gap_ms)) < 1 then 2.5 else -1 end)",
            "spread": "sum(abs(ln(gap_ms / previous_gap_ms))) filter (where gap_ms % 7 > 0)",
            "seen": "avg(gap_ms) filter (where viewed)",
            "hours": "count(distinct hour) filter (where first_visit)",
            "least": "max(least(gap_ms, 5, hour_of_day))",
            "roots": "sum(floor(sqrt(price)))",
            "walk": "max(previous_product_id)",
            "agent": "min(agent_hash)",
        },
        100 * 3_600_000,
        3_600_000,
        filter="event_type in ('view', 'cart') and not new_user and brand like 'a%'",
        condition="hours > 5 and evidence / hours >= 16",
    ),
)


@pytest.mark.parametrize("declaration", DECLARATIONS, ids=lambda d: d.name)
def test_the_text_is_the_one_that_flink_took(declaration):
    assert flink_sql(declaration) == (GOLDEN / f"{declaration.name}.sql").read_text()


def test_every_derived_column_is_made():
    names = [field.name for field in DERIVED_FIELDS]
    measures = {f"m_{name}": f"count({name})" for name in names}
    text = flink_sql(WindowDeclaration("all", WindowKind.TUMBLING, (), measures, 1_000))
    assert all(f"AS `{name}`" in text for name in names)


@pytest.mark.parametrize("rule", load_rules().values(), ids=lambda r: r.id)
def test_a_shipped_rule_is_views_and_one_query(rule):
    declaration = rule.window_declaration()
    statements = flink_sql(declaration).rstrip(";\n").split(";\n\n")
    assert all(statement.startswith(("SET ", "CREATE TEMPORARY VIEW ")) for statement in statements[:-1])
    assert statements[-1].startswith("SELECT * FROM (")
    assert f"AS `{next(iter(rule.measures))}`" in statements[-1]


@pytest.mark.parametrize(
    ("expression", "flink"),
    [
        ("max(product_id / user_id)", "MAX(CAST(`product_id` AS DOUBLE) / NULLIF(`user_id`, 0))"),
        ("max(product_id / 2)", "MAX(CAST(`product_id` AS DOUBLE) / 2)"),
        ("max(product_id % 10)", "MAX(MOD(`product_id`, 10))"),
        ("max(ln(price))", "MAX(CASE WHEN (`price`) > 0 THEN LN(`price`) END)"),
        ("max(greatest(gap_ms, 1))", "MAX(COALESCE(GREATEST(`gap_ms`, 1), `gap_ms`, 1))"),
        ("sum(price)", "SUM(`price`)"),
        (
            "sum(sqrt(price))",
            "CAST(SUM(TRY_CAST(CASE WHEN (`price`) >= 0 THEN SQRT(`price`) END AS DECIMAL(38, 9))) AS",
        ),
    ],
)
def test_what_flink_computes_otherwise_is_spelled_out(expression, flink):
    text = flink_sql(WindowDeclaration("w", WindowKind.TUMBLING, (), {"m": expression}, 1_000))
    assert flink in text


@pytest.mark.parametrize("target", ["duckdb", "batch", "flink"])
def test_a_rule_is_shown_in_each_target(target):
    result = CliRunner().invoke(app, ["rules", "show", "user_burst", "--sql", target])
    assert result.exit_code == 0, result.output
    assert "user_id" in result.output
    assert result.output.endswith(";\n")


def test_what_looks_back_says_how_long_flink_keeps_state():
    kept = {declaration.name: "table.exec.state.ttl" in flink_sql(declaration) for declaration in DECLARATIONS}
    assert kept == {"burst": False, "site": False, "visits": True, "everything": True}
