"""A build replaces the reports as a whole, or not at all."""

from pathlib import Path

import duckdb
import pytest
from filelock import FileLock

from shopstream.errors import ConfigurationError, RetryableError, StateError
from shopstream.lakehouse.ports import LakeTable
from shopstream.models.dbt import build
from shopstream.models.names import ReportName
from shopstream.models.reports import open_reports, report


def days(connection):
    return connection.execute("select shop_date::text, visitors from unique_visitors order by 1").fetchall()


def test_the_result_counts_events_duplicates_and_rows(built):
    assert (built.result.events, built.result.duplicates) == (8, 1)
    assert built.result.rows["unique_visitors"] == 2
    assert built.result.reports_path == built.reports.resolve()


def test_days_are_the_shops(built):
    # 23:30 UTC of the first is 05:30 of the second in Almaty (UTC+6 in 2019).
    with duckdb.connect(built.reports, read_only=True) as connection:
        assert days(connection) == [("2019-11-01", 2), ("2019-11-02", 3)]


def test_the_reports_file_holds_the_marts_and_nothing_else(built):
    with duckdb.connect(built.reports, read_only=True) as connection:
        found = connection.execute(
            "select table_schema, table_name, table_type from information_schema.tables"
        ).fetchall()
    assert {row[1] for row in found} == set(built.result.rows)
    assert {(row[0], row[2]) for row in found} == {("main", "BASE TABLE")}


def test_the_scratch_files_are_gone_and_the_log_is_kept(built):
    assert not (built.home / "build" / "scratch").exists()
    assert (built.home / "logs" / "dbt.log").is_file()
    assert sorted(path.name for path in built.home.glob("reports*")) == ["reports.duckdb"]


def test_progress_names_each_step_once_and_counts_to_the_end(built):
    assert "stg_events" in {name for name, _, _ in built.steps}
    totals = {total for _, _, total in built.steps}
    assert len(totals) == 1
    assert sorted(done for _, done, _ in built.steps) == sorted({done for _, done, _ in built.steps})


def test_a_build_prints_nothing(lakehouse, append, shop_events, tmp_path, capfd):
    append(lakehouse, shop_events)
    build(lakehouse, tmp_path / "reports.duckdb", "UTC")
    assert capfd.readouterr() == ("", "")


def test_a_failing_test_is_named_with_its_model_and_the_old_reports_stay(
    lakehouse, append, shop_events, event, tmp_path
):
    path = tmp_path / "reports.duckdb"
    append(lakehouse, shop_events)
    build(lakehouse, path, "UTC")
    before = path.read_bytes()
    append(lakehouse, [event(99, "2019-11-03 00:00:00", "basket", 9)], 2)
    with pytest.raises(
        StateError, match=r"model stg_events: test accepted_values_stg_events_event_type\w* found 1 row"
    ):
        build(lakehouse, path, "UTC")
    assert path.read_bytes() == before
    assert not (tmp_path / "build" / "scratch").exists()


def test_a_failing_model_is_named(lakehouse, append, event, tmp_path):
    # two pieces at the highest price that fits give a revenue that does not
    highest = [event(n, "2019-11-01 08:00:00", "purchase", 1, price="99999999999999.0000") for n in (1, 2)]
    append(lakehouse, highest)
    with pytest.raises(StateError, match=r"model brand_marketing failed: .*(?i:overflow|out of range|cast)"):
        build(lakehouse, tmp_path / "reports.duckdb", "UTC")


def test_an_unknown_time_zone_is_refused_before_any_model_runs(lakehouse, tmp_path):
    with pytest.raises(ConfigurationError, match="'Mars/Olympus'"):
        build(lakehouse, tmp_path / "reports.duckdb", "Mars/Olympus")


def test_readers_keep_the_old_file_and_later_ones_see_the_new(lakehouse, append, shop_events, event, tmp_path):
    path = tmp_path / "reports.duckdb"
    append(lakehouse, shop_events)
    build(lakehouse, path, "UTC")
    with open_reports(path) as reader:
        reader.execute("use reports")
        before = days(reader)
        append(lakehouse, [event(99, "2019-11-03 00:00:00", "view", 9)], 2)
        build(lakehouse, path, "UTC", ["unique_visitors"])
        assert days(reader) == before
        with open_reports(path) as later:
            later.execute("use reports")
            assert days(later) == [*before, ("2019-11-03", 1)]
            # only the selected mart is new; the others stand as they stood
            assert later.execute("select max(shop_date)::text from abandoned_carts_daily").fetchall() == [
                ("2019-11-02",)
            ]


def test_an_empty_lake_gives_empty_reports_after_a_killed_build(lakehouse, tmp_path):
    (tmp_path / "build" / "scratch").mkdir(parents=True)
    (tmp_path / "build" / "scratch" / "staging.duckdb").write_text("half of it")
    result = build(lakehouse, tmp_path / "reports.duckdb", "UTC")
    assert result.events == 0
    assert {rows for name, rows in result.rows.items() if name != "report_scope"} == {0}
    for name in ReportName:
        found = report(name, result.reports_path)
        assert (found.rows, found.total_rows) == ([], 0)
        assert found.headline


def test_a_concurrent_build_is_refused(lakehouse, tmp_path):
    (tmp_path / "build").mkdir()
    with FileLock(tmp_path / "build" / "lock"), pytest.raises(RetryableError, match="but one holds"):
        build(lakehouse, tmp_path / "reports.duckdb", "UTC")


def test_a_missing_data_file_is_reported_before_any_model_runs(lakehouse, append, shop_events, tmp_path):
    append(lakehouse, shop_events)
    for file in lakehouse.data_files(LakeTable.EVENTS):
        Path(file.removeprefix("file://")).unlink()
    with pytest.raises(StateError, match=r"expected to read \d+ event files"):
        build(lakehouse, tmp_path / "reports.duckdb", "UTC")


def test_an_unknown_model_is_answered_with_the_known_ones(lakehouse, tmp_path):
    with pytest.raises(ConfigurationError, match=r"got brands; there are abandoned_carts, .*brand_marketing"):
        build(lakehouse, tmp_path / "reports.duckdb", "UTC", ["brands"])
