"""The table of incidents, the topic of notifications, and the topic of operators."""

from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from shopstream_infra.config import StageConfig
from shopstream_infra.tables import table, text

__all__ = ["Incidents"]


class Incidents(Construct):
    """`table`: incidents, verdicts, detector state. `topic`: notifications. `ops`: alarms of the pipeline."""

    def __init__(self, scope: Construct, construct_id: str, *, config: StageConfig, key: kms.IKey) -> None:
        super().__init__(scope, construct_id)
        self.table = table(
            self,
            "Table",
            name=config.prefix,
            key=key,
            removal_policy=config.removal_policy,
            time_to_live="expires_at",
            deletion_protection=config.retains,
        )
        self.table.add_global_secondary_index(
            index_name="gsi1",
            partition_key=text("gsi1pk"),
            sort_key=text("gsi1sk"),
            projection_type=dynamodb.ProjectionType.INCLUDE,  # what lists are filtered and counted by, and no more
            non_key_attributes=["actor", "actor_kind", "closed", "expires_at", "rules", "severity", "status"],
        )
        self.topic = self._topic("Topic", config.named("incidents"), key, config.incidents_email)
        self.ops = self._topic("Ops", config.named("ops"), key, config.ops_email)
        for service in ("cloudwatch", "events", "budgets"):
            self.ops.add_to_resource_policy(
                iam.PolicyStatement(
                    sid=f"{service.capitalize()}OfThisAccount",
                    principals=[iam.ServicePrincipal(f"{service}.amazonaws.com")],
                    actions=["sns:Publish"],
                    resources=[self.ops.topic_arn],
                    conditions={"StringEquals": {"aws:SourceAccount": self.ops.env.account}},
                )
            )

    def _topic(self, construct_id: str, name: str, key: kms.IKey, email: str) -> sns.Topic:
        topic = sns.Topic(self, construct_id, topic_name=name, master_key=key, enforce_ssl=True)
        if email:
            topic.add_subscription(subscriptions.EmailSubscription(email))
        return topic
