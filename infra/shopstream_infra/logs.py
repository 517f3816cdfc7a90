"""Encrypted log groups with a retention, deleted with their stack."""

from aws_cdk import RemovalPolicy
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from shopstream_infra.config import StageConfig

__all__ = ["log_group"]


def log_group(scope: Construct, construct_id: str, *, config: StageConfig, key: kms.IKey, name: str) -> logs.LogGroup:
    """The log group `/shopstream-STAGE/NAME`; the key's policy allows this prefix."""
    return logs.LogGroup(
        scope,
        construct_id,
        log_group_name=f"/{config.prefix}/{name}",
        encryption_key=key,
        retention=config.log_retention,
        removal_policy=RemovalPolicy.DESTROY,
    )
