"""DynamoDB tables: keys `pk` and `sk`, on demand, encrypted, with point-in-time recovery."""

from aws_cdk import RemovalPolicy
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_kms as kms
from constructs import Construct

__all__ = ["table", "text"]


def text(name: str) -> dynamodb.Attribute:
    """A text attribute of a key."""
    return dynamodb.Attribute(name=name, type=dynamodb.AttributeType.STRING)


def table(
    scope: Construct,
    construct_id: str,
    *,
    name: str,
    key: kms.IKey,
    removal_policy: RemovalPolicy,
    time_to_live: str | None = None,
    deletion_protection: bool | None = None,
) -> dynamodb.Table:
    """A table encrypted with the stage's key."""
    return dynamodb.Table(
        scope,
        construct_id,
        table_name=name,
        partition_key=text("pk"),
        sort_key=text("sk"),
        time_to_live_attribute=time_to_live,
        billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
        encryption=dynamodb.TableEncryption.CUSTOMER_MANAGED,
        encryption_key=key,
        point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
            point_in_time_recovery_enabled=True
        ),
        deletion_protection=deletion_protection,
        removal_policy=removal_policy,
    )
