"""Scheduled tasks, which build the reports and maintain the lake."""

from aws_cdk import ArnFormat, Duration, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_scheduler_targets as targets
from constructs import Construct

from shopstream_infra.cluster import Cluster
from shopstream_infra.logs import log_group

__all__ = ["Tasks"]

_CPU = 1024
_MEMORY_MIB = 4096


class Tasks(Construct):
    """Two scheduled tasks, and a rule that matches failed ones."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        cluster: Cluster,
        key: kms.IKey,
        schedules: scheduler.ScheduleGroup,
    ) -> None:
        super().__init__(scope, construct_id)
        config = cluster.config
        self._cluster, self._schedules = cluster, schedules
        self._scheduled("build", "shopstream build", config.build_schedule, "Build the reports from the lake")
        upkeep = "shopstream lake compact && shopstream lake expire && shopstream lake orphans --delete"
        self._scheduled("upkeep", upkeep, config.upkeep_schedule, "Compact the lake and expire old snapshots")
        failures = log_group(self, "FailureLogs", config=config, key=key, name="failed-tasks")
        policy = logs.CfnResourcePolicy(
            self,
            "FailurePolicy",
            policy_name=config.named("failed-tasks"),
            policy_document=Stack.of(self).to_json_string(_may_write(failures)),
        )
        rule = events.CfnRule(
            self,
            "Failures",
            name=config.named("task-failed"),
            description="A scheduled task ended with an error, or did not start",
            event_pattern={
                "source": ["aws.ecs"],
                "detail-type": ["ECS Task State Change"],
                "detail": {
                    "clusterArn": [cluster.cluster.cluster_arn],
                    "group": [_group(cluster)],
                    "lastStatus": ["STOPPED"],
                    "$or": [
                        {"containers": {"exitCode": [{"anything-but": 0}]}},
                        {"stopCode": ["TaskFailedToStart"]},
                    ],
                },
            },
            targets=[events.CfnRule.TargetProperty(id="log", arn=_bare_arn(failures))],
        )
        rule.node.add_dependency(policy)

    def _scheduled(self, name: str, command: str, schedule: str, description: str) -> None:
        cluster, config = self._cluster, self._cluster.config
        task = cluster.task(Construct(self, name.capitalize()), name, cpu=_CPU, memory_mib=_MEMORY_MIB)
        cluster.container(task, name, [command], entry_point=["/bin/sh", "-ec"])
        scheduler.Schedule(
            self,
            f"{name.capitalize()}Schedule",
            schedule_name=config.named(name),
            schedule_group=self._schedules,
            schedule=scheduler.ScheduleExpression.expression(schedule),
            description=description,
            target=targets.EcsRunFargateTask(
                cluster.cluster,
                task_definition=task,
                assign_public_ip=False,
                vpc_subnets=ec2.SubnetSelection(
                    subnets=cluster.network.vpc.private_subnets or cluster.network.vpc.isolated_subnets
                ),
                security_groups=[cluster.network.workers],
                group=_group(cluster),
                retry_attempts=2,
                max_event_age=Duration.hours(1),
            ),
        )


def _may_write(group: logs.LogGroup) -> dict[str, object]:
    return iam.PolicyDocument(
        statements=[
            iam.PolicyStatement(
                principals=[
                    iam.ServicePrincipal("events.amazonaws.com"),
                    iam.ServicePrincipal("delivery.logs.amazonaws.com"),
                ],
                actions=["logs:CreateLogStream", "logs:PutLogEvents"],
                resources=[group.log_group_arn],
            )
        ]
    ).to_json()


def _bare_arn(group: logs.LogGroup) -> str:
    """The ARN without the suffix of its streams, which EventBridge rejects."""
    return Stack.of(group).format_arn(
        service="logs",
        resource="log-group",
        resource_name=group.log_group_name,
        arn_format=ArnFormat.COLON_RESOURCE_NAME,
    )


def _group(cluster: Cluster) -> str:
    """The task group that marks scheduled tasks."""
    return cluster.config.named("scheduled")
