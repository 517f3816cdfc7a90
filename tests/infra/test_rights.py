"""Rights are as narrow as AWS lets them be."""

import re
from pathlib import Path

import pytest

_KNOW_NO_RESOURCES = {
    "cloudwatch:PutMetricData",
    "ecr:GetAuthorizationToken",
    "glue:GetSecurityConfiguration",
    "logs:DescribeLogGroups",
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
}
"""Actions for which AWS defines no resource."""


def listed(value):
    return value if isinstance(value, list) else [value]


def statements(stage, kind="AWS::IAM::Policy"):
    for (stack, name), resource in stage.resources(kind).items():
        for statement in resource["Properties"]["PolicyDocument"]["Statement"]:
            yield f"{stack}/{name}", statement


def inline(stage):
    for (stack, name), resource in stage.resources("AWS::IAM::Role").items():
        for policy in resource["Properties"].get("Policies", []):
            for statement in policy["PolicyDocument"]["Statement"]:
                yield f"{stack}/{name}", statement


def test_no_action_is_a_wildcard(any_stage):
    for place, statement in [*statements(any_stage), *inline(any_stage)]:
        assert not [action for action in listed(statement["Action"]) if "*" in action], place


def test_only_actions_without_resource_level_permissions_are_for_all_resources(any_stage):
    for place, statement in [*statements(any_stage), *inline(any_stage)]:
        if "*" in listed(statement["Resource"]):
            assert set(listed(statement["Action"])) <= _KNOW_NO_RESOURCES, place


def test_metrics_continuely_to_the_namespace_of_the_stage(any_stage):
    conditions = [
        statement["Condition"]
        for _, statement in statements(any_stage)
        if "cloudwatch:PutMetricData" in listed(statement["Action"]) and "ssmmessages" not in str(statement)
    ]
    assert conditions
    namespace = {"StringEquals": {"cloudwatch:namespace": any_stage.config.metrics_namespace}}
    assert all(condition == namespace for condition in conditions)


def test_no_role_may_change_streams_tables_or_permissions(any_stage):
    forbidden = ("iam:Create", "iam:Put", "iam:Attach", "dynamodb:DeleteTable", "kinesis:DeleteStream", "kms:Schedule")
    actions = {action for _, statement in statements(any_stage) for action in listed(statement["Action"])}
    assert not [action for action in actions if action.startswith(forbidden)]


def test_roles_are_taken_only_by_services(any_stage):
    for role in any_stage.properties("AWS::IAM::Role"):
        for statement in role["AssumeRolePolicyDocument"]["Statement"]:
            assert set(statement["Principal"]) == {"Service"}


@pytest.mark.parametrize("service", ["cloudwatch", "events", "budgets"])
def test_the_ops_topic_accepts_services_of_this_account_only(any_stage, service):
    told = [
        statement
        for policy in any_stage.properties("AWS::SNS::TopicPolicy")
        for statement in policy["PolicyDocument"]["Statement"]
        if statement.get("Principal") == {"Service": f"{service}.amazonaws.com"}
    ]
    assert [statement["Condition"] for statement in told] == [
        {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
    ]


def test_topics_and_queues_require_tls(any_stage):
    policies = [*any_stage.properties("AWS::SNS::TopicPolicy"), *any_stage.properties("AWS::SQS::QueuePolicy")]
    assert len(policies) == len(any_stage.resources("AWS::SNS::Topic")) + len(any_stage.resources("AWS::SQS::Queue"))
    for policy in policies:
        denied = [s for s in policy["PolicyDocument"]["Statement"] if s["Effect"] == "Deny"]
        assert any(s["Condition"] == {"Bool": {"aws:SecureTransport": "false"}} for s in denied)


_SOURCES = Path(__file__).parents[2] / "src" / "shopstream"
_NEEDED = {
    "batch_get_item": ("dynamodb:BatchGetItem",),
    "batch_write_item": ("dynamodb:BatchWriteItem",),
    "delete_item": ("dynamodb:DeleteItem",),
    "delete_objects": ("s3:DeleteObject",),
    "describe_delivery_stream": ("firehose:DescribeDeliveryStream",),
    "describe_stream_summary": ("kinesis:DescribeStreamSummary",),
    "describe_table": ("dynamodb:DescribeTable",),
    "describe_time_to_live": ("dynamodb:DescribeTimeToLive",),
    "get_database": ("glue:GetDatabase",),
    "get_item": ("dynamodb:GetItem",),
    "get_object": ("s3:GetObject",),
    "get_records": ("kinesis:GetRecords",),
    "get_shard_iterator": ("kinesis:GetShardIterator",),
    "get_tables": ("glue:GetTables",),
    "get_topic_attributes": ("sns:GetTopicAttributes",),
    "get_work_group": ("athena:GetWorkGroup",),
    "head_object": ("s3:GetObject",),
    "list_shards": ("kinesis:ListShards",),
    "list_subscriptions_by_topic": ("sns:ListSubscriptionsByTopic",),
    "put_item": ("dynamodb:PutItem",),
    "put_metric_data": ("cloudwatch:PutMetricData",),
    "put_object": ("s3:PutObject",),
    "put_record_batch": ("firehose:PutRecordBatch",),
    "put_records": ("kinesis:PutRecords",),
    "query": ("dynamodb:Query",),
    "scan": ("dynamodb:Scan",),
    "send_message": ("sqs:SendMessage",),
    "transact_write_items": ("dynamodb:UpdateItem",),  # positions of leases; nothing else is in a transaction
    "update_item": ("dynamodb:UpdateItem",),
}
"""boto3's method → the actions that IAM asks for."""


def calls():
    """Methods of boto3's clients that the sources call, by files that hold such clients."""
    for path in _SOURCES.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if re.search(r"_client\b|\bclient\(", text):
            yield from re.findall(r"\.([a-z]+_[a-z_]+)\(", text)
            yield from re.findall(r'get_paginator\(\s*"(\w+)"', text)


def test_every_call_of_the_service_is_granted(stage):
    granted = {action for _, statement in statements(stage) for action in listed(statement["Action"])}
    called = set(calls()) & set(_NEEDED)
    assert {"put_records", "get_records", "update_item", "put_metric_data"} <= called
    assert not {action for method in called for action in _NEEDED[method]} - granted
