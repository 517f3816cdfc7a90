"""The models on Athena: the same marts as DuckDB builds from the same lake, read back by the same reports."""

from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import boto3
import duckdb
import pyarrow as pa
import pytest
import sqlglot
import yaml
from sqlglot import exp
from sqlglot.optimizer.qualify import qualify

from shopstream.errors import StateError
from shopstream.incidents.verdicts import VERDICT_SCHEMA
from shopstream.lakehouse.aws import AwsLakehouse
from shopstream.lakehouse.ports import LakeTable
from shopstream.lakehouse.settings import GlueSettings, LakehouseSettings
from shopstream.lakehouse.tables import TABLES
from shopstream.models.athena import MARTS, build_on_athena, fetch_marts
from shopstream.models.dbt import PROJECT, build
from shopstream.models.names import Bots, ReportName
from shopstream.models.reports import report
from standins import athena

pytestmark = [pytest.mark.aws, pytest.mark.filterwarnings("ignore:Delete operation did not match:UserWarning")]


QUERIES = Path(__file__).parents[2] / "infra" / "queries"


def declared_columns(mart):
    (model,) = yaml.safe_load((PROJECT / "marts" / f"{mart}.yml").read_text())["models"]
    return [column["name"] for column in model["columns"]]


@pytest.fixture
def lake(aws_env, moto, make_bucket, fresh_name):
    aws_env(default=moto)
    glue = GlueSettings(warehouse=f"s3://{make_bucket()}/lake", database=fresh_name("shop").replace("-", "_"))
    with closing(AwsLakehouse(LakehouseSettings(), glue)) as lakehouse:
        yield lakehouse


@pytest.fixture
def engine(lake, aws_env):  # noqa: ARG001  its Glue and S3 are the lake's
    with athena.running() as (address, engine):
        aws_env(athena=address)
        yield engine


def verdict(kind, actor, start, hours, word="bot"):
    start = datetime.fromisoformat(start + "+00:00")
    return {
        "actor_kind": kind,
        "actor": actor,
        "verdict": word,
        "from_time": start,
        "until_time": start + timedelta(hours=hours),
        "why": "too regular",
        "rule": "user_regular",
        "incident_id": "i1",
    }


BOTS = pa.Table.from_pylist(
    [
        verdict("user_id", "4", "2019-11-01 23:00:00", 2),
        verdict("user_session", "robot", "2019-11-01 20:00:00", 1),
        verdict("ip_net", "203.0.113.0/24", "2019-11-02 10:00:00", 1),
        verdict("agent_hash", "x", "2019-11-02 10:00:00", 1),
        verdict("user_id", "1", "2019-11-01 08:00:00", 1),
        verdict("user_id", "1", "2019-11-01 08:00:00", 1, word="human"),
    ],
    schema=VERDICT_SCHEMA,
)


@pytest.fixture
def many_events(shop_events, event):
    return [
        *shop_events,
        event(20, "2019-11-01 20:10:00", "cart", 9, session="robot"),
        event(21, "2019-11-02 10:20:00", "view", 8) | {"ip": "203.0.113.77", "user_agent": "curl/8"},
        event(22, "2019-11-02 10:21:00", "purchase", 8, price="3.99") | {"ip": "2001:DB8:1::1"},
    ]


def rows_of(path, mart):
    with duckdb.connect() as connection:
        connection.execute(f"attach '{path}' as reports (read_only)")
        described = connection.execute(f"describe reports.main.{mart}").fetchall()
        columns = [(name, kind) for name, kind, *_ in described if name != "built_at_utc"]
        names = ", ".join(name for name, _ in columns)
        return columns, connection.execute(f"select {names} from reports.main.{mart} order by all").fetchall()


def approximately(rows):
    return [tuple(round(value, 9) if isinstance(value, float) else value for value in row) for row in rows]


@pytest.mark.parametrize("timezone", ["UTC", "Asia/Almaty"])
@pytest.mark.usefixtures("engine")
def test_marts_of_athena_are_those_of_duckdb(lake, tmp_path, many_events, append, timezone):
    append(lake, many_events)
    for folder in ("duckdb", "athena"):
        (tmp_path / folder).mkdir()
    files = {folder: tmp_path / folder / "reports.duckdb" for folder in ("duckdb", "athena")}
    ours = build(lake, files["duckdb"], timezone, verdicts=BOTS)
    theirs = build_on_athena(lake, files["athena"], timezone, verdicts=BOTS, poll_s=0.01)
    assert theirs.rows == ours.rows
    assert (theirs.events, theirs.bot_events, theirs.duplicates) == (ours.events, ours.bot_events, ours.duplicates)
    assert theirs.bot_events == 3
    assert theirs.tests == ours.tests > 50
    for mart in MARTS:
        (columns, rows), (their_columns, their_rows) = (rows_of(files[name], mart) for name in ("duckdb", "athena"))
        assert their_columns == columns
        assert approximately(their_rows) == approximately(rows)
    for name in ReportName:
        for bots in Bots:
            left, right = (report(name, path, bots=bots) for path in files.values())
            assert (left.headline, left.rows) == (right.headline, right.rows)


def test_a_second_build_takes_the_place_of_the_first_and_leaves_nothing_else(
    lake, engine, tmp_path, many_events, append
):
    append(lake, many_events)
    here, elsewhere = tmp_path / "here" / "reports.duckdb", tmp_path / "elsewhere" / "reports.duckdb"
    here.parent.mkdir()
    select = ["report_scope"]
    first = build_on_athena(lake, here, "UTC", select, poll_s=0.01)
    assert first.bot_events == 0
    assert fetch_marts(lake, elsewhere)
    with duckdb.connect() as reader:
        reader.execute(f"attach '{here}' as reports (read_only)")
        old = reader.execute("from reports.main.report_scope").fetchall()
        second = build_on_athena(lake, here, "UTC", select, verdicts=BOTS, poll_s=0.01)
        assert reader.execute("from reports.main.report_scope").fetchall() == old
    assert second.bot_events == 3
    assert not fetch_marts(lake, here)
    assert fetch_marts(lake, elsewhere)
    assert not fetch_marts(lake, elsewhere)
    assert rows_of(elsewhere, "report_scope") == rows_of(here, "report_scope")
    tables = boto3.client("glue").get_tables(DatabaseName=lake.glue.database)["TableList"]
    assert [table["Name"] for table in tables if "__" in table["Name"]] == []
    actors = [row["actor"] for row in BOTS.to_pylist() if len(row["actor"]) > 1]
    assert not [text for text in engine.statements for actor in actors if actor in text]


def test_a_query_that_scans_more_than_the_workgroup_allows_is_reported(lake, engine, tmp_path, shop_events, append):
    append(lake, shop_events)
    engine.scan_limit_exceeded = True
    with pytest.raises(StateError, match="Bytes scanned limit was exceeded"):
        build_on_athena(lake, tmp_path / "reports.duckdb", "UTC", ["report_scope"], poll_s=0.01)
    assert not (tmp_path / "reports.duckdb").exists()


def test_reports_that_duckdb_built_here_stay(lake, tmp_path, shop_events, append):
    append(lake, shop_events)
    build(lake, tmp_path / "reports.duckdb", "UTC", ["report_scope"])
    before = (tmp_path / "reports.duckdb").stat().st_ino
    lake.catalog.replace("report_scope", pa.table({"events": pa.array([1], pa.int64())}))
    assert not fetch_marts(lake, tmp_path / "reports.duckdb")
    assert (tmp_path / "reports.duckdb").stat().st_ino == before
    assert fetch_marts(lake, tmp_path / "reports.duckdb", over_own=True)


@pytest.mark.parametrize("file", sorted(QUERIES.glob("*.sql")), ids=lambda path: path.stem)
def test_a_named_query_is_athenas_sql_over_tables_and_columns_that_are_there(file):
    first, _, sql = file.read_text().partition("\n")
    assert first.startswith("-- ")
    known = {mart: dict.fromkeys(declared_columns(mart), "text") for mart in MARTS}
    known |= {table.value: dict.fromkeys(TABLES[table].arrow().names, "text") for table in LakeTable}
    statement = sqlglot.parse_one(sql, read="athena")
    used = {table.name for table in statement.find_all(exp.Table)} - {cte.alias for cte in statement.find_all(exp.CTE)}
    assert used <= set(known)
    qualify(statement, schema=known, dialect="athena")
