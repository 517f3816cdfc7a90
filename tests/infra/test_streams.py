"""Streams, table and topics, as the service expects them."""

from dataclasses import replace

import pytest

from shopstream_infra.config import STAGES


def by_name(stage, kind, name):
    key = {"AWS::Kinesis::Stream": "Name", "AWS::DynamoDB::Table": "TableName", "AWS::SNS::Topic": "TopicName"}[kind]
    (found,) = [
        properties for properties in stage.properties(kind) if properties[key] == f"{stage.config.prefix}{name}"
    ]
    return found


def test_the_signals_stream_has_one_shard_which_orders_signals(stage):
    signals = by_name(stage, "AWS::Kinesis::Stream", "-signals")
    assert signals["ShardCount"] == 1
    assert signals["StreamModeDetails"] == {"StreamMode": "PROVISIONED"}
    assert signals["RetentionPeriodHours"] == 168


@pytest.fixture(scope="module")
def detection_in_worker(synthesise):
    return synthesise(replace(STAGES["dev"], detection="worker"))["dev"]


def test_with_detection_in_the_worker_there_are_no_signals_stream_and_no_functions(detection_in_worker):
    names = {stream["Name"] for stream in detection_in_worker.properties("AWS::Kinesis::Stream")}
    assert names == {"shopstream-dev-events"}
    assert detection_in_worker.resources("AWS::Lambda::EventSourceMapping") == {}
    assert detection_in_worker.resources("AWS::SQS::Queue") == {}
    assert [message for message in detection_in_worker.messages if message[0] == "ERROR"] == []


def test_the_events_stream_grows_by_itself(stage):
    events = by_name(stage, "AWS::Kinesis::Stream", "-events")
    assert events["StreamModeDetails"] == {"StreamMode": "ON_DEMAND"}
    assert "ShardCount" not in events
    assert events["RetentionPeriodHours"] == stage.config.events_retention_hours


def test_a_provisioned_events_stream_has_the_configured_shards(variant):
    events = by_name(variant, "AWS::Kinesis::Stream", "-events")
    assert (events["ShardCount"], events["StreamModeDetails"]) == (4, {"StreamMode": "PROVISIONED"})


def test_the_table_has_the_keys_that_the_store_writes(stage):
    table = by_name(stage, "AWS::DynamoDB::Table", "")
    assert [(key["AttributeName"], key["KeyType"]) for key in table["KeySchema"]] == [("pk", "HASH"), ("sk", "RANGE")]
    (index,) = table["GlobalSecondaryIndexes"]
    assert [key["AttributeName"] for key in index["KeySchema"]] == ["gsi1pk", "gsi1sk"]
    assert index["IndexName"] == "gsi1"
    assert {a["AttributeType"] for a in table["AttributeDefinitions"]} == {"S"}
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    assert table["BillingMode"] == "PAY_PER_REQUEST"


def test_the_lease_table_is_keyed_by_consumer_and_shard(stage):
    leases = by_name(stage, "AWS::DynamoDB::Table", "-leases")
    assert [key["AttributeName"] for key in leases["KeySchema"]] == ["pk", "sk"]
    assert leases["BillingMode"] == "PAY_PER_REQUEST"


def test_topics_are_those_of_incidents_and_of_the_pipeline(stage):
    assert {topic["TopicName"] for topic in stage.properties("AWS::SNS::Topic")} == {
        f"{stage.config.prefix}-incidents",
        f"{stage.config.prefix}-ops",
    }


def test_topics_have_no_subscribers_without_an_address(stage):
    assert stage.resources("AWS::SNS::Subscription") == {}


def test_a_configured_address_is_subscribed(variant):
    assert {(s["Protocol"], s["Endpoint"]) for s in variant.properties("AWS::SNS::Subscription")} == {
        ("email", "ops@example.com"),
        ("email", "shop@example.com"),
    }


def test_names_of_the_stages_are_disjoint():
    assert len({config.prefix for config in STAGES.values()}) == len(STAGES)
