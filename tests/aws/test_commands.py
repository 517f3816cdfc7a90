"""Commands in the AWS profile, without a shop's day: what doctor finds, and what it says to do."""

import json
import time

import boto3
import pytest

from aws.shop import AwsShop
from shopstream.adapters.ports import adapters_of
from shopstream.dashboard.panels import Panels

pytestmark = [pytest.mark.aws, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def shop(aws_services, fresh_name, tmp_path_factory):
    assert aws_services
    with AwsShop(tmp_path_factory.mktemp("commands") / "home", fresh_name) as shop:
        boto3.client("glue").create_database(DatabaseInput={"Name": shop.database})
        boto3.client("athena").create_work_group(
            Name=shop.database, Configuration={"BytesScannedCutoffPerQuery": 10_000_000_000}
        )
        shop.environment["SHOPSTREAM_AWS__GLUE__WORKGROUP"] = shop.database
        yield shop


def findings(shop, **changed):
    """Check → (is it well, what was found), with other settings."""
    before = dict(shop.environment)
    shop.environment |= changed
    try:
        process = shop.command("doctor", "--format", "json")
    finally:
        shop.environment = before
    out, err = process.communicate(timeout=120)
    assert out, err

    return {row["check"]: (row["ok"], row["finding"]) for row in json.loads(out)}


def test_doctor_finds_everything_in_order(shop):
    assert [name for name, (ok, _) in findings(shop).items() if not ok] == []


def test_doctor_leaves_nothing_in_the_buckets(shop):
    findings(shop)
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket=shop.bucket, Prefix="checkpoints/doctor")


def test_doctor_names_each_thing_that_is_not_there_and_what_to_do(shop):
    found = findings(
        shop,
        SHOPSTREAM_AWS__KINESIS__EVENTS="no-such-stream",
        SHOPSTREAM_AWS__DYNAMODB__TABLE="no-such-table",
        SHOPSTREAM_AWS__DYNAMODB__TOPIC_ARN="arn:aws:sns:eu-central-1:123456789012:no-such-topic",
        SHOPSTREAM_AWS__GLUE__DATABASE="no_such_database",
        SHOPSTREAM_AWS__GLUE__WAREHOUSE="s3://no-such-bucket-anywhere/lake",
        SHOPSTREAM_AWS__DELIVERY="no-such-delivery",
    )
    for check in ("events", "incidents", "topic", "catalog", "lake", "delivery"):
        ok, finding = found[check]
        assert not ok, check
        assert "no-such" in finding or "no_such" in finding
        assert "deploy it, or correct the name" in finding
    assert found["signals"][0]


def test_doctor_refuses_signals_in_several_shards(shop):
    ok, finding = findings(shop, SHOPSTREAM_AWS__KINESIS__SIGNALS=shop.events)["signals"]
    assert not ok
    assert "has 2 open shards, expected 1" in finding


def test_doctor_refuses_a_table_without_its_index(shop):
    ok, finding = findings(shop, SHOPSTREAM_AWS__DYNAMODB__TABLE=shop.leases)["incidents"]
    assert not ok
    assert "lacks its index gsi1" in finding


def test_doctor_reports_a_topic_without_subscribers(shop):
    topic = boto3.client("sns").create_topic(Name="nobody")["TopicArn"]
    ok, finding = findings(shop, SHOPSTREAM_AWS__DYNAMODB__TOPIC_ARN=topic)["topic"]
    assert not ok
    assert "nobody has subscribed to topic nobody" in finding


def test_doctor_says_where_credentials_come_from_when_there_are_none(shop):
    found = findings(shop, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    ok, finding = found["credentials"]
    assert not ok
    assert "run `aws configure`" in finding


def test_the_page_opens_before_an_engine_ran(shop):
    panels = {
        name: json.loads(text) for name, text in Panels(adapters_of(shop.settings()).dashboard_home()).read().items()
    }
    assert panels["health"] == {**panels["health"], "engine_running": False, "checkpoint": 0, "shards": 2, "lag_ms": 0}
    assert panels["incidents"]["total"] == 0
    assert panels["live"] is None


def test_a_second_engine_stands_by_until_the_first_ends(shop):
    first = shop.command("run", "--quiet")
    _until_it_holds_the_lease(shop, first)
    before = dict(shop.environment)
    shop.environment |= {"SHOPSTREAM_HOME": f"{shop.home}-second"}
    second = shop.command("run", "--until-caught-up", "--quiet")
    shop.environment = before
    assert "Standing by" in second.stderr.readline()
    assert second.poll() is None
    first.terminate()
    _, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    _, err = second.communicate(timeout=120)
    assert second.returncode == 0, err


def _until_it_holds_the_lease(shop, process):
    while not boto3.client("dynamodb").scan(TableName=shop.leases)["Items"]:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)


def test_a_test_message_reaches_those_who_subscribed(shop):
    shop.run("notify", "test")
    assert len(shop.messages()) == 1
