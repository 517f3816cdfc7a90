"""Permissions that several stacks grant, each as narrow as AWS allows."""

from aws_cdk import Stack
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesis as kinesis
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs

from shopstream_infra.config import StageConfig

__all__ = [
    "describe",
    "publish",
    "put_metrics",
    "read_stream",
    "send",
    "use_table",
    "write_delivery",
    "write_stream",
]

# A transaction needs the permissions of its actions, here UpdateItem.
_TABLE_ACTIONS = (
    "BatchGetItem",
    "BatchWriteItem",
    "DeleteItem",
    "DescribeTable",
    "GetItem",
    "PutItem",
    "Query",
    "Scan",
    "UpdateItem",
)


def use_table(table: dynamodb.Table, grantee: iam.IGrantable, *, indexes: bool = True) -> None:
    """Read and write items, scans included; no change of the table itself."""
    resources = [table.table_arn, *([f"{table.table_arn}/index/gsi1"] if indexes else [])]
    grantee.grant_principal.add_to_principal_policy(
        iam.PolicyStatement(actions=[f"dynamodb:{action}" for action in _TABLE_ACTIONS], resources=resources)
    )
    _use_key(table, grantee, "kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey")


def read_stream(stream: kinesis.Stream, grantee: iam.IGrantable) -> None:
    """List shards and read records."""
    actions = ("DescribeStreamSummary", "GetRecords", "GetShardIterator", "ListShards")
    grantee.grant_principal.add_to_principal_policy(
        iam.PolicyStatement(actions=[f"kinesis:{action}" for action in actions], resources=[stream.stream_arn])
    )
    _use_key(stream, grantee, "kms:Decrypt")


def write_stream(stream: kinesis.Stream, grantee: iam.IGrantable) -> None:
    """Put records and list shards."""
    actions = ("DescribeStreamSummary", "ListShards", "PutRecord", "PutRecords")
    grantee.grant_principal.add_to_principal_policy(
        iam.PolicyStatement(actions=[f"kinesis:{action}" for action in actions], resources=[stream.stream_arn])
    )
    _use_key(stream, grantee, "kms:GenerateDataKey")


def publish(topic: sns.Topic, grantee: iam.IGrantable) -> None:
    """Send messages to a topic."""
    grantee.grant_principal.add_to_principal_policy(
        iam.PolicyStatement(
            actions=["sns:Publish"],
            resources=[topic.topic_arn],
        )
    )
    if topic.master_key:
        topic.master_key.grant(grantee, "kms:Decrypt", "kms:GenerateDataKey")


def send(queue: sqs.Queue, grantee: iam.IGrantable) -> None:
    """Send messages to a queue."""
    grantee.grant_principal.add_to_principal_policy(
        iam.PolicyStatement(actions=["sqs:SendMessage"], resources=[queue.queue_arn])
    )
    _use_key(queue, grantee, "kms:Decrypt", "kms:GenerateDataKey")


def write_delivery(scope: Stack, name: str, grantee: iam.IGrantable) -> None:
    """Put records into a Firehose stream."""
    grantee.grant_principal.add_to_principal_policy(
        iam.PolicyStatement(
            actions=["firehose:PutRecordBatch"],
            resources=[scope.format_arn(service="firehose", resource="deliverystream", resource_name=name)],
        )
    )


def describe(table: dynamodb.Table, topic: sns.Topic, delivery: str, grantee: iam.IGrantable) -> None:
    """Describe these resources, as `shopstream doctor` does."""
    grantee.grant_principal.add_to_principal_policy(
        iam.PolicyStatement(
            actions=[
                "dynamodb:DescribeTimeToLive",
                "firehose:DescribeDeliveryStream",
                "sns:GetTopicAttributes",
                "sns:ListSubscriptionsByTopic",
            ],
            resources=[
                table.table_arn,
                topic.topic_arn,
                Stack.of(topic).format_arn(service="firehose", resource="deliverystream", resource_name=delivery),
            ],
        )
    )


def put_metrics(config: StageConfig, grantee: iam.IGrantable) -> None:
    """Put metrics into this stage's namespace; a condition narrows the action, which knows no resource ARNs."""
    grantee.grant_principal.add_to_principal_policy(
        iam.PolicyStatement(
            actions=["cloudwatch:PutMetricData"],
            resources=["*"],
            conditions={"StringEquals": {"cloudwatch:namespace": config.metrics_namespace}},
        )
    )


def _use_key(resource: dynamodb.Table | kinesis.Stream | sqs.Queue, grantee: iam.IGrantable, *actions: str) -> None:
    key = resource.encryption_master_key if isinstance(resource, sqs.Queue) else resource.encryption_key
    if key:
        key.grant(grantee, *actions)
