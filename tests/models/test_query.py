"""A user's own SQL reads marts and lake, and nothing else."""

from decimal import Decimal

import pytest

from shopstream.errors import ConfigurationError
from shopstream.models.query import query


def test_queries_can_join_marts_and_lake(built):
    sources = ("sum(events) from unique_visitors", "count(*) from events", "count(*) from dead_letters")
    counts = [f"(select {source})" for source in sources]
    sql = f"select {', '.join(counts)}"
    assert list(query(sql, built.lakehouse, built.reports).rows[0].values()) == [8, 9, 0]


def test_the_lake_can_be_asked_before_the_first_build(built, tmp_path):
    none = tmp_path / "reports.duckdb"
    assert query("select count(*) as n from events", built.lakehouse, none).rows == [{"n": 9}]
    with pytest.raises(ConfigurationError, match="run `shopstream build`"):
        query("from unique_visitors", built.lakehouse, none)


def test_the_limit_says_when_it_cuts(built):
    result = query("select event_id from events order by all", built.lakehouse, built.reports, 2)
    assert (len(result.rows), result.cut) == (2, True)
    assert not query("select event_id from events limit 2", built.lakehouse, built.reports, 2).cut


def test_columns_of_the_same_name_are_all_there(built):
    assert query("select 1 as a, 2 as a", built.lakehouse, built.reports).rows == [{"a": 1, "a_2": 2}]


def test_values_fit_every_format(built):
    sql = "select 1.50::decimal(9,2) d, 'nan'::double n, [1, 2] l, {'a': uuid '00000000-0000-0000-0000-000000000001'} s"
    assert query(sql, built.lakehouse, built.reports).rows == [
        {"d": Decimal("1.50"), "n": "nan", "l": [1, 2], "s": {"a": "00000000-0000-0000-0000-000000000001"}}
    ]


@pytest.mark.parametrize("sql", ["show tables", "describe unique_visitors", "explain select 1", "from brand_marketing"])
def test_looking_around_is_reading(built, sql):
    assert query(sql, built.lakehouse, built.reports).rows


@pytest.mark.parametrize(
    "sql",
    [
        "delete from unique_visitors",
        "create table mine as select 1",
        "copy (select 1) to 'out.csv'",
        "attach 'other.duckdb'",
        "install httpfs",
        "set enable_external_access = true",
        "select 1; select 2",
        "",
        "selec 1",
    ],
)
def test_only_a_single_reading_statement_is_accepted(built, sql):
    with pytest.raises(ConfigurationError):
        query(sql, built.lakehouse, built.reports)


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_csv('{file}')",
        "select * from read_text('{file}')",
        "select * from '{file}'",
        "select * from glob('/*')",
        "select * from duckdb_secrets()",
        "select * from read_parquet('https://example.org/x.parquet')",
    ],
)
def test_other_files_and_the_network_are_out_of_reach(built, sql, tmp_path):
    file = tmp_path / "secret.csv"
    file.write_text("a\n1\n")
    with pytest.raises(ConfigurationError, match=r"(?i)permission|disabled"):
        query(sql.format(file=file), built.lakehouse, built.reports)


def test_an_error_in_the_sql_is_duckdbs_sentence(built):
    with pytest.raises(ConfigurationError, match="brnd"):
        query("select brnd from brand_marketing", built.lakehouse, built.reports)
