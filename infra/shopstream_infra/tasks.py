"""What it means: tasks on a schedule, which build the reports and keep the lake in order."""

from aws_cdk import Duration
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as events_targets
from aws_cdk import aws_kms as kms
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_scheduler_targets as targets
from constructs import Construct

from shopstream_infra.cluster import Cluster
from shopstream_infra.logs import log_group

__all__ = ["Tasks"]

_CPU = 1024
_MEMORY_MIB = 4096


class Tasks(Construct):
    """Two scheduled tasks; `failures` matches one that ends with an error."""

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
        self._scheduled("upkeep", upkeep, config.upkeep_schedule, "Merge the lake's files and forget old snapshots")
        self.failures = events.Rule(
            self,
            "Failures",
            rule_name=config.named("task-failed"),
            description="A scheduled task ended with an error",
            event_pattern=events.EventPattern(
                source=["aws.ecs"],
                detail_type=["ECS Task State Change"],
                detail={
                    "clusterArn": [cluster.cluster.cluster_arn],
                    "lastStatus": ["STOPPED"],
                    "group": [_group(cluster)],
                    "$or": [
                        {"containers": {"exitCode": [{"anything-but": 0}]}},
                        {"stopCode": ["TaskFailedToStart"]},
                    ],
                },
            ),
            targets=[
                events_targets.CloudWatchLogGroup(
                    log_group(self, "FailureLogs", config=config, key=key, name="failed-tasks")
                )
            ],
        )

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


def _group(cluster: Cluster) -> str:
    """Tells scheduled tasks from those of services."""
    return cluster.config.named("scheduled")
