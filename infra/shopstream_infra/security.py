"""The key that encrypts a stage's data."""

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from shopstream_infra.config import StageConfig

__all__ = ["Security"]


class Security(Construct):
    """One customer-managed key; grants of the stacks and the services below may use it."""

    def __init__(self, scope: Construct, construct_id: str, *, config: StageConfig) -> None:
        super().__init__(scope, construct_id)
        stack = Stack.of(self)
        self.key = kms.Key(
            self,
            "Key",
            alias=f"alias/{config.prefix}",
            description=f"Streams, tables, topics, logs and lake of {config.prefix}",
            enable_key_rotation=True,
            pending_window=config.key_pending,
            removal_policy=config.removal_policy,
        )
        self.key.add_to_resource_policy(
            iam.PolicyStatement(
                sid="LogsOfThisStage",
                principals=[iam.ServicePrincipal(f"logs.{stack.region}.amazonaws.com")],
                actions=["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:Describe*"],
                resources=["*"],  # in a key's policy: this key
                conditions={
                    "ArnLike": {
                        "kms:EncryptionContext:aws:logs:arn": [
                            stack.format_arn(service="logs", resource="log-group", resource_name=groups).replace(
                                "log-group/", "log-group:"
                            )
                            for groups in (f"/{config.prefix}/*", "/aws-glue/*")  # Glue names its log groups itself
                        ]
                    }
                },
            )
        )
        self.key.add_to_resource_policy(
            iam.PolicyStatement(
                sid="NotifyingServices",
                principals=[
                    iam.ServicePrincipal(service)
                    for service in ("cloudwatch.amazonaws.com", "events.amazonaws.com", "budgets.amazonaws.com")
                ],
                actions=["kms:Decrypt", "kms:GenerateDataKey*"],
                resources=["*"],
                conditions={"StringEquals": {"aws:SourceAccount": stack.account}},
            )
        )
