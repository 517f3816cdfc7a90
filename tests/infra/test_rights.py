"""Rights are as narrow as AWS lets them be."""

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


def test_only_actions_that_know_no_resource_are_for_all_resources(any_stage):
    for place, statement in [*statements(any_stage), *inline(any_stage)]:
        if "*" in listed(statement["Resource"]):
            assert set(listed(statement["Action"])) <= _KNOW_NO_RESOURCES, place


def test_metrics_go_only_to_the_namespace_of_the_stage(any_stage):
    conditions = [
        statement["Condition"]
        for _, statement in statements(any_stage)
        if "cloudwatch:PutMetricData" in listed(statement["Action"]) and "ssmmessages" not in str(statement)
    ]
    assert conditions
    namespace = {"StringEquals": {"cloudwatch:namespace": any_stage.config.metrics_namespace}}
    assert all(condition == namespace for condition in conditions)


def test_nobody_may_change_streams_tables_or_rights(any_stage):
    forbidden = ("iam:Create", "iam:Put", "iam:Attach", "dynamodb:DeleteTable", "kinesis:DeleteStream", "kms:Schedule")
    actions = {action for _, statement in statements(any_stage) for action in listed(statement["Action"])}
    assert not [action for action in actions if action.startswith(forbidden)]


def test_roles_are_taken_only_by_services(any_stage):
    for role in any_stage.properties("AWS::IAM::Role"):
        for statement in role["AssumeRolePolicyDocument"]["Statement"]:
            assert set(statement["Principal"]) == {"Service"}


@pytest.mark.parametrize("service", ["cloudwatch", "events", "budgets"])
def test_the_ops_topic_hears_services_of_this_account_only(any_stage, service):
    told = [
        statement
        for policy in any_stage.properties("AWS::SNS::TopicPolicy")
        for statement in policy["PolicyDocument"]["Statement"]
        if statement.get("Principal") == {"Service": f"{service}.amazonaws.com"}
    ]
    assert [statement["Condition"] for statement in told] == [
        {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
    ]


def test_topics_and_queues_take_nothing_without_tls(any_stage):
    policies = [*any_stage.properties("AWS::SNS::TopicPolicy"), *any_stage.properties("AWS::SQS::QueuePolicy")]
    assert len(policies) == len(any_stage.resources("AWS::SNS::Topic")) + len(any_stage.resources("AWS::SQS::Queue"))
    for policy in policies:
        denied = [s for s in policy["PolicyDocument"]["Statement"] if s["Effect"] == "Deny"]
        assert any(s["Condition"] == {"Bool": {"aws:SecureTransport": "false"}} for s in denied)
