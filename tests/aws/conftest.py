"""A shop's day on its way through both profiles, once for all tests that look at what came of it."""

import json
from contextlib import closing
from dataclasses import dataclass

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aws.shop import AwsShop, Shop, ended_well, incidents_of, reports_of, verdicts_of, write_day
from shopstream.adapters.ports import adapters_of
from shopstream.lakehouse.ports import LakeTable
from standins import environment


@dataclass
class Came:
    """What came of the day, whoever asks: plain data."""

    status: dict
    incidents: dict
    verdicts: list
    reports: dict
    events: list


@dataclass
class CameOnAws(Came):
    messages: list
    delivered: list
    metrics: dict
    embedded_metrics: list
    catalog: dict
    items: list
    shop: AwsShop


@pytest.fixture(scope="session")
def shop_day(tmp_path_factory):
    """A CSV of a shop's day, and the truth about it."""
    path = tmp_path_factory.mktemp("day") / "day.csv"
    truth = write_day(path)
    return path, json.loads(truth.read_text())


@pytest.fixture(scope="session")
def aws_services(moto, kinesalite, dynamodb_local, tmp_path_factory):
    """Services for whole shops; their environment is there while the block lasts."""
    with pytest.MonkeyPatch.context() as patch:
        environment.shut(patch, tmp_path_factory.mktemp("aws"))
        environment.point_at(patch, {"kinesis": kinesalite, "dynamodb": dynamodb_local, **of_moto(moto)})
        yield patch


def of_moto(moto):
    names = ("s3", "glue", "sns", "sqs", "sts", "cloudwatch", "firehose", "athena")
    return dict.fromkeys(names, moto)


@pytest.fixture(scope="session")
def on_aws(aws_services, shop_day, fresh_name, tmp_path_factory):
    """Through the AWS profile: CSV in S3, Kinesis, worker, signals, function, DynamoDB; lake in S3."""
    assert aws_services
    home = tmp_path_factory.mktemp("on-aws")
    with AwsShop(home / "worker", fresh_name) as shop:
        shop.run("simulate", shop.upload(shop_day[0]))
        shop.run("run", "--until-caught-up", "--quiet")
        log = ended_well(shop.function(home / "function", "--until-idle"), "the function")
        yield came_on_aws(shop, log)


@pytest.fixture(scope="session")
def embedded(shop_day, tmp_path_factory):
    """Through the embedded profile."""
    with Shop(tmp_path_factory.mktemp("embedded") / "home", SHOPSTREAM_STREAM__SHARDS="2") as shop:
        shop.run("simulate", str(shop_day[0]))
        shop.run("run", "--until-caught-up", "--quiet")
        return Came(**came(shop))


def came(shop):
    shop.run("build", "--target", "duckdb", "--format", "json")
    settings = shop.settings()
    with closing(adapters_of(settings).open_incidents()) as store:
        incidents, verdicts = incidents_of(store), verdicts_of(store)
    with closing(adapters_of(settings).open_lakehouse()) as lakehouse:
        files = lakehouse.data_files(LakeTable.EVENTS)
        tables = [pq.read_table(file, filesystem=lakehouse.file_system) for file in files]
    events = pa.concat_tables(tables, promote_options="permissive").to_pylist()
    return {
        "status": shop.rows("status"),
        "incidents": incidents,
        "verdicts": verdicts,
        "reports": reports_of(settings.reports_path),
        "events": sorted((row["event_id"], row["is_late"], row["price"]) for row in events),
    }


def came_on_aws(shop, log):
    cloudwatch, s3 = boto3.client("cloudwatch"), boto3.client("s3")
    metrics = {}
    for metric in cloudwatch.list_metrics(Namespace=shop.metrics)["Metrics"]:
        found = cloudwatch.get_metric_statistics(
            Namespace=shop.metrics,
            MetricName=metric["MetricName"],
            Dimensions=metric["Dimensions"],
            StartTime="2020-01-01T00:00:00Z",
            EndTime="2100-01-01T00:00:00Z",
            Period=86_400,
            Statistics=["Sum"],
        )
        metrics[metric["MetricName"]] = sum(point["Sum"] for point in found["Datapoints"])
    delivered = [
        json.loads(line)
        for item in s3.list_objects_v2(Bucket=shop.bucket, Prefix="delivered/").get("Contents", ())
        for line in s3.get_object(Bucket=shop.bucket, Key=item["Key"])["Body"].read().splitlines()
    ]
    tables = boto3.client("glue").get_tables(DatabaseName=shop.database)["TableList"]
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return CameOnAws(
        **came(shop),
        messages=shop.messages(),
        delivered=delivered,
        metrics=metrics,
        embedded_metrics=[line for line in lines if "_aws" in line],
        catalog={table["Name"]: table["Parameters"] for table in tables},
        items=boto3.client("dynamodb").scan(TableName=shop.table)["Items"],
        shop=shop,
    )
