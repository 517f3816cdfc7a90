"""The Glue job: run by Spark, it puts into the lake what `lake ingest` puts there."""

import json
import os
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import boto3
import duckdb
import pytest

from shopstream.clock import SystemClock
from shopstream.lakehouse.aws import AwsLakehouse
from shopstream.lakehouse.ingest import ingest
from shopstream.lakehouse.settings import GlueSettings, LakehouseSettings
from shopstream.lakehouse.tables import create_views

pytestmark = pytest.mark.aws

ROOT = Path(__file__).parents[2]
SPARK = ROOT / "benchmarks" / ".work" / "venv-spark"
HEADER = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"


def month_of_csv(number, count):
    """A small month, sorted by time, some rows twice, some bad."""
    dice, lines = random.Random(number), []  # noqa: S311  no secret
    for second in sorted(dice.randrange(28 * 86_400) for _ in range(count)):
        day, rest = divmod(second, 86_400)
        time = f"2019-{number:02}-{day + 1:02} {rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02} UTC"
        kind, price = dice.choice(["view", "view", "cart", "purchase"]), dice.choice(["9.99", "1.50", "oops"])
        lines += [f"{time},{kind},{dice.randrange(50)},7,shop.a,acme,{price},{dice.randrange(99)},s\n"]
        lines += lines[-1:] * (dice.random() < 0.05)
    return (HEADER + "".join(lines)).encode()


def content(lakehouse):
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        create_views(connection, lakehouse)
        events = connection.execute("SELECT * EXCLUDE (arrival_time) FROM events ORDER BY event_time, event_id")
        letters = "SELECT * EXCLUDE (arrival_time) FROM dead_letters ORDER BY dead_letter_id"
        return events.fetchall(), connection.execute(letters).fetchall()


def test_the_job_and_the_load_in_one_process_make_the_same_lake(aws_env, moto, make_bucket, fresh_name):
    aws_env(default=moto)
    bucket = make_bucket()
    sizes = {"raw/2019-10.csv": 4000, "raw/2019-11.csv": 3000}
    for key, count in sizes.items():
        body = month_of_csv(int(key[-6:-4]), count)
        boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=body)
    names = {way: fresh_name(way).replace("-", "_") for way in ("job", "process")}
    site = next((SPARK / "lib").glob("python*/site-packages"))
    environment = os.environ | {
        "PYTHONPATH": str(site),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_HOME": str(site / "pyspark"),
    }
    arguments = ["--sources", f"s3://{bucket}/raw/", "--warehouse", f"s3://{bucket}/lake", "--database", names["job"]]
    command = [sys.executable, ROOT / "glue" / "backfill.py", *arguments, "--JOB_NAME", "backfill"]
    runs = []
    for _ in range(2):
        job = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
        assert job.returncode == 0, job.stderr[-3000:]
        runs.append([json.loads(line) for line in job.stdout.splitlines() if line.startswith("{")])
    glue = {way: GlueSettings(warehouse=f"s3://{bucket}/lake", database=name) for way, name in names.items()}
    with closing(AwsLakehouse(LakehouseSettings(), glue["process"])) as lake:
        results = [ingest(lake, f"s3://{bucket}/{key}", SystemClock()) for key in sizes]
        expected = content(lake)
    counts = ("rows", "events", "duplicates", "dead_letters")
    assert [[run[name] for name in counts] for run in runs[0]] == [[getattr(r, n) for n in counts] for r in results]
    assert all(run["skipped"] for run in runs[1])
    with closing(AwsLakehouse(LakehouseSettings(), glue["job"])) as lake:
        assert content(lake) == expected
        assert ingest(lake, f"s3://{bucket}/raw/2019-10.csv", SystemClock()).skipped
    assert len(expected[0]) == sum(result.events for result in results) > 4000
