"""The lake on S3 and Glue as others see it: Athena's view of the tables, other readers, commands, reports."""

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import boto3
import duckdb
import pytest
from typer.testing import CliRunner

from shopstream.cli.program import app
from shopstream.errors import ConfigurationError
from shopstream.lakehouse.aws import AwsLakehouse
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.ports import LakeTable
from shopstream.lakehouse.settings import GlueSettings, LakehouseSettings
from shopstream.models.dbt import build
from shopstream.models.names import ReportName
from shopstream.models.query import query
from shopstream.models.reports import report

pytestmark = pytest.mark.aws

EVENTS = LakeTable.EVENTS
READER = Path(__file__).resolve().parents[2] / ".venv-reader" / "bin" / "python"
HEADER = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"

PYICEBERG = """
import json, os, sys
from pyiceberg.catalog import load_catalog

place = {"s3.endpoint": os.environ["AWS_ENDPOINT_URL"], "s3.region": os.environ["AWS_REGION"]}
table = load_catalog("other", type="glue", **place).load_table(sys.argv[1] + ".events")
assert not any(name.startswith("shopstream") for name in sys.modules)
rows = table.scan(row_filter="event_time < '2019-11-01T00:00:20+00:00'").to_arrow()
print(json.dumps({"users": sorted(rows["user_id"].to_pylist()), "type": str(rows.schema.field("event_time").type)}))
"""

DUCKDB = """
import glob, json, os, sys
import duckdb, duckdb_extension_avro, duckdb_extension_iceberg

connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'")
for package in (duckdb_extension_avro, duckdb_extension_iceberg):
    (file,) = glob.glob(os.path.dirname(package.__file__) + "/**/*.duckdb_extension", recursive=True)
    connection.execute("LOAD '" + file + "'")
rows = connection.execute(
    "SELECT user_id FROM iceberg_scan(?, version = ?, allow_moved_paths = true) ORDER BY 1", sys.argv[1:]
)
print(json.dumps([user for (user,) in rows.fetchall()]))
"""


@pytest.fixture
def glue(aws_env, moto, make_bucket, fresh_name):
    aws_env(default=moto)
    return GlueSettings(warehouse=f"s3://{make_bucket()}/lake", database=fresh_name("lake").replace("-", "_"))


@pytest.fixture
def lake(glue):
    with closing(AwsLakehouse(LakehouseSettings(), glue)) as lakehouse:
        yield lakehouse


@pytest.fixture
def filled(lake, lake_events):
    for turn in range(3):
        lake.append(EVENTS, lake_events(turn * 10, 10, start_ms=1_572_566_400_000 + turn * 10_000), {"a": turn})
    return lake


def run(python, program, *arguments):
    done = subprocess.run([python, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_athena_finds_iceberg_tables_with_types_it_reads(filled, glue):
    client = boto3.client("glue")
    tables = {table["Name"]: table for table in client.get_tables(DatabaseName=glue.database)["TableList"]}
    assert set(tables) == set(LakeTable)
    for name, table in tables.items():
        assert table["TableType"] == "EXTERNAL_TABLE"
        assert table["Parameters"]["table_type"] == "ICEBERG"
        assert table["Parameters"]["metadata_location"] == filled.catalog.load(name).metadata_location
        assert table["StorageDescriptor"]["Location"] == f"{glue.warehouse}/{glue.database}/{name}"
    columns = {column["Name"]: column["Type"] for column in tables["events"]["StorageDescriptor"]["Columns"]}
    assert columns["price"] == "decimal(18,4)"
    assert columns["user_id"] == "bigint"
    schema = filled.catalog.load(EVENTS).schema()
    assert str(schema.find_field("event_time").field_type) == "timestamptz"  # Athena: timestamp(6) with time zone
    assert filled.catalog.load(EVENTS).format_version == 2


def test_plain_pyiceberg_reads_the_tables_from_glue(filled, glue):
    seen = run(sys.executable, PYICEBERG, glue.database)
    assert seen == {"users": list(range(20)), "type": "timestamp[us, tz=UTC]"}
    assert filled.compact(EVENTS) == 2
    assert run(sys.executable, PYICEBERG, glue.database) == seen


def test_duckdbs_own_iceberg_extension_reads_a_copy_of_the_bucket(filled, tmp_path):
    assert READER.exists(), "expected the reader's environment; make it with `make .venv-reader/.done`"
    filled.compact(EVENTS)
    root = filled.catalog.location(EVENTS)
    client, bucket = boto3.client("s3"), root.removeprefix("s3://").partition("/")[0]
    for location, _ in filled.catalog.storage.listing(root):
        path = tmp_path / "events" / location.removeprefix(f"{root}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, location.removeprefix(f"s3://{bucket}/"), str(path))
    version = filled.catalog.load(EVENTS).metadata_location.rpartition("/")[2].removesuffix(".metadata.json")
    assert run(str(READER), DUCKDB, str(tmp_path / "events"), version) == list(range(30))


def test_a_users_query_reads_the_lake_and_nothing_else_in_the_bucket(filled, glue, tmp_path):
    found = query("SELECT count(*) AS n, sum(price) AS total FROM events", filled, tmp_path / "reports.duckdb")
    assert [(row["n"], str(row["total"])) for row in found.rows] == [(30, "4.3500")]
    bucket = glue.warehouse.removeprefix("s3://").partition("/")[0]
    boto3.client("s3").put_object(Bucket=bucket, Key="secret.csv", Body=b"a\n1\n")
    with pytest.raises(ConfigurationError, match="the query cannot run"):
        query(f"SELECT * FROM read_csv('s3://{bucket}/secret.csv')", filled, tmp_path / "reports.duckdb")


def test_the_commands_of_the_lake_work_on_s3(glue, tmp_path, monkeypatch):
    monkeypatch.setenv("SHOPSTREAM_PROFILE", "aws")
    monkeypatch.setenv("SHOPSTREAM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SHOPSTREAM_AWS__GLUE__WAREHOUSE", glue.warehouse)
    monkeypatch.setenv("SHOPSTREAM_AWS__GLUE__DATABASE", glue.database)
    bucket = glue.warehouse.removeprefix("s3://").partition("/")[0]
    line = "2019-11-01 00:00:{:02} UTC,view,{},7,,acme,{},1,s\n"
    body = HEADER + "".join(line.format(n, n, "9.99" if n else "oops") for n in range(20))
    boto3.client("s3").put_object(Bucket=bucket, Key="raw/day.csv", Body=body.encode())

    def shopstream(*arguments):
        done = CliRunner().invoke(app, [*arguments, "--format", "json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    (loaded,) = shopstream("lake", "ingest", f"s3://{bucket}/raw/day.csv")
    assert (loaded["outcome"], loaded["events"], loaded["dead_letters"]) == ("loaded", 19, 1)
    (again,) = shopstream("lake", "ingest", f"s3://{bucket}/raw/day.csv")
    assert again["outcome"] == "skipped"
    assert {row["table"]: row["rows"] for row in shopstream("lake", "status")} == {
        "events": 19,
        "dead_letters": 1,
        "detections": 0,
    }
    assert [row["files_less"] for row in shopstream("lake", "compact")] == [0, 0, 0]
    assert sum(row["files_deleted"] for row in shopstream("lake", "expire", "--keep", "1")) == 0
    assert shopstream("lake", "orphans") == []
    assert shopstream("query", "SELECT count(*) AS n FROM events") == [{"n": 19}]
    where = CliRunner().invoke(app, ["lake", "status"]).output
    assert glue.database in where.replace("\n", "")


def test_reports_over_the_lake_on_s3_are_those_over_local_files(lake, tmp_path, lake_events):
    rows = [lake_events(turn * 700, 700, start_ms=1_572_566_400_000 + turn * 40_000_000) for turn in range(4)]
    with closing(EmbeddedLakehouse(tmp_path / "lake")) as local:
        for turn, part in enumerate(rows):
            for lakehouse in (local, lake):
                lakehouse.append(EVENTS, part, {"a": turn})
        files = {}
        for name, lakehouse in {"local": local, "s3": lake}.items():
            (tmp_path / name).mkdir()
            files[name] = tmp_path / name / "reports.duckdb"
            build(lakehouse, files[name], "Asia/Almaty")
    for name in ReportName:
        assert report(name, files["s3"], limit=0) == report(name, files["local"], limit=0)
    with duckdb.connect(files["s3"], read_only=True) as connection:
        assert connection.execute("SELECT events FROM report_scope").fetchall() == [(2800,)]
