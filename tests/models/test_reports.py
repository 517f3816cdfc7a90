"""The reports, as people and programs get them."""

import csv
import io
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from shopstream.errors import StateError
from shopstream.models.names import ReportName
from shopstream.models.reports import report, scope


def run(home, *arguments):
    return subprocess.run(
        [Path(sys.executable).with_name("shopstream"), "--home", home, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )


def test_unique_visitors_are_listed_by_day(built):
    rows = report(ReportName.UNIQUE_VISITORS, built.reports).rows
    assert [(str(row["shop_date"]), row["visitors"], row["new_visitors"], row["buyers"]) for row in rows] == [
        ("2019-11-01", 2, 2, 1),
        ("2019-11-02", 3, 2, 0),
    ]


def test_the_headline_names_the_busiest_day(built):
    found = report(ReportName.UNIQUE_VISITORS, built.reports)
    assert found.headline == "4 visitors on 2 days; the busiest day, 2019-11-02, had 3"


def test_the_limit_keeps_the_latest_days(built):
    found = report(ReportName.UNIQUE_VISITORS, built.reports, 1)
    assert [str(row["shop_date"]) for row in found.rows] == ["2019-11-02"]
    assert found.total_rows == 2


def test_abandoned_carts_are_distinguished_from_open_ones(built):
    found = report(ReportName.ABANDONED_CARTS, built.reports)
    assert [(row["user_id"], row["value"], row["state"]) for row in found.rows] == [
        ("2", Decimal("25.5000"), "abandoned"),
        ("3", Decimal("10.0000"), "open"),
    ]
    assert found.headline == ("1 cart lines abandoned, worth 25.50; 1 still open; 0 of 1 purchases had no cart event")


def test_a_category_without_code_is_called_by_its_id(built):
    categories = {row["category"] for row in report(ReportName.TOP_CATEGORIES, built.reports).rows}
    assert categories == {"electronics.smartphone", "(no code) 2053013555631882655"}


def test_the_brand_nan_is_treated_like_any_other(built):
    rows = report(ReportName.BRAND_MARKETING, built.reports).rows
    assert {row["brand"]: row["reason"] for row in rows} == {
        "acme": "seen by 2 visitors: fewer than the 100 a verdict needs",
        "nan": "seen by 1 visitors: fewer than the 100 a verdict needs",
    }


def test_the_scope_names_time_zone_events_and_duplicates(built):
    found = scope(built.reports)
    assert (found.timezone, found.events, found.duplicates, found.visitors) == ("Asia/Almaty", 8, 1, 4)


@pytest.mark.parametrize("name", list(ReportName))
def test_without_a_build_the_remedy_is_named(tmp_path, name):
    with pytest.raises(StateError, match="run `shopstream build` first"):
        report(name, tmp_path / "reports.duckdb")


def test_a_foreign_file_is_distinguished_from_reports(tmp_path):
    (tmp_path / "reports.duckdb").write_text("no database")
    with pytest.raises(StateError, match="expected a reports file"):
        report(ReportName.UNIQUE_VISITORS, tmp_path / "reports.duckdb")


def test_commands_print_clean_json_and_csv(built):
    as_json = run(built.home, "report", "brand_marketing", "--format", "json")
    assert (as_json.returncode, as_json.stderr) == (0, "")
    assert [row["brand"] for row in json.loads(as_json.stdout)] == ["acme", "nan"]
    as_csv = run(built.home, "query", "select product_id, price from events order by 1 desc", "--format", "csv")
    assert (as_csv.returncode, as_csv.stderr) == (0, "")
    assert next(csv.DictReader(io.StringIO(as_csv.stdout))) == {"product_id": "2", "price": "10.0000"}


def test_build_prints_json_alone_on_stdout(lakehouse, append, shop_events, tmp_path):
    append(lakehouse, shop_events)
    done = run(tmp_path, "build", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows_unique_visitors"] == 2


def test_a_table_reports_omitted_rows(built):
    shown = run(built.home, "report", "abandoned_carts", "--limit", "1")
    assert "Abandoned carts: 1 cart lines abandoned" in shown.stdout
    assert "1 of 2 rows; --limit 0 shows all." in shown.stderr
    cut = run(built.home, "query", "select event_id from events", "--limit", "1")
    assert "first 1 rows" in cut.stderr


def test_wrong_sql_ends_in_one_sentence(built):
    wrong = run(built.home, "query", "drop table events")
    assert wrong.returncode == 1
    assert "expected a statement that reads" in wrong.stderr
    assert "Traceback" not in wrong.stderr
