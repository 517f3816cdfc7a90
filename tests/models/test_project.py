"""What the dbt project promises about itself."""

import re

import duckdb
import pytest
import sqlglot
import yaml

from shopstream.events.columns import EventType
from shopstream.events.schema import EVENT_FIELDS, LAKE_FIELDS
from shopstream.models.dbt import PROJECT
from shopstream.models.names import ReportName

FOLDERS = ("staging", "intermediate", "marts")
MODELS = sorted(path for folder in FOLDERS for path in (PROJECT / folder).glob("*.sql"))
SOURCE = yaml.safe_load((PROJECT / "staging" / "sources.yml").read_text())["sources"][0]["tables"][0]
PERSONAL = {"ip", "user_agent", "url"}


def declared(path):
    (model,) = yaml.safe_load(path.with_suffix(".yml").read_text())["models"]
    return model


def promised(path):
    text = yaml.safe_load(path.read_text())
    count = len(text.get("unit_tests", []))
    for node in text.get("models", []) + [table for source in text.get("sources", []) for table in source["tables"]]:
        count += len(node.get("data_tests", []))
        count += sum(len(column.get("data_tests", [])) for column in node["columns"])
    return count


def test_every_report_has_a_mart():
    assert {name.value for name in ReportName} <= {path.stem for path in MODELS}


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_every_model_has_a_description_that_ends_with_the_grain(path):
    model = declared(path)
    assert model["name"] == path.stem
    assert re.search(r"One row per [^.]+\.$", model["description"].strip())


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_every_column_is_described_in_order_of_the_model(path, plain_sql):
    query = sqlglot.parse_one(plain_sql(path), read="duckdb")
    columns = declared(path)["columns"]
    assert [column["name"] for column in columns] == query.named_selects
    assert all(column["description"].strip().endswith(".") for column in columns)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_the_grain_and_the_key_columns_are_tested(path):
    model = declared(path)
    tests = [name for test in model.get("data_tests", []) for name in test]
    tests += [str(test) for column in model["columns"] for test in column.get("data_tests", [])]
    assert {"unique", "unique_grain"} & set(tests)
    assert "not_null" in tests
    if path.stem != "report_scope":
        assert yaml.safe_load(path.with_suffix(".yml").read_text())["unit_tests"]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_model_reads_as_athenas_sql(path, plain_sql):
    sqlglot.parse_one(plain_sql(path, athena=True), read="trino")


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_model_has_no_duckdb_only_syntax(path):
    text = re.sub(r"\{#.*?#\}|--[^\n]*", "", path.read_text(), flags=re.DOTALL).lower()
    for word in ("::", "qualify", "group by all", "exclude (", "filter (", "isodow", "strftime(", "list(", "any_value"):
        assert word not in text.replace("run_started_at.strftime(", "")


def test_the_source_has_the_columns_of_the_lake():
    found = [(c["name"], c["data_type"], c["description"]) for c in SOURCE["columns"]]
    assert found == [(field.name, field.duckdb, field.doc) for field in LAKE_FIELDS]


def test_staging_has_the_columns_of_the_lake_that_reports_need():
    model = declared(PROJECT / "staging" / "stg_events.sql")
    columns = {c["name"]: (c["data_type"], c["description"]) for c in model["columns"]}
    kept = {field.name: (field.duckdb, field.doc) for field in LAKE_FIELDS if field.name not in PERSONAL}
    assert {name: columns[name] for name in kept} == kept
    assert not PERSONAL & columns.keys()
    assert PERSONAL.issubset(field.name for field in EVENT_FIELDS)


def test_event_types_are_those_of_the_schema():
    text = (PROJECT / "staging" / "stg_events.yml").read_text()
    assert f"values: [{', '.join(EventType)}]" in text


def test_all_data_and_unit_tests_pass_on_a_small_lake(built):
    assert built.result.tests == sum(promised(path) for path in PROJECT.glob("*/*.yml"))


def test_a_table_has_the_declared_columns(built):
    with duckdb.connect(built.reports, read_only=True) as connection:
        for path in (PROJECT / "marts").glob("*.sql"):
            found = [row[0] for row in connection.execute(f"describe {path.stem}").fetchall()]
            assert found == [column["name"] for column in declared(path)["columns"]]


def test_the_page_of_the_reports_names_every_mart_and_every_definition():
    page = (PROJECT.parents[2] / "docs" / "models.md").read_text()
    assert {path.stem for path in (PROJECT / "marts").glob("*.sql")} <= set(re.findall(r"\w+", page))
    variables = yaml.safe_load((PROJECT / "dbt_project.yml").read_text())["vars"]
    for name, value in variables.items():
        assert f"`{name}" in page
        assert str(value) in page
