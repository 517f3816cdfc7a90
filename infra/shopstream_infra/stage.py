"""READ FIRST: a stage and its stacks.

    data ──┬──► network ──► service     worker, functions, schedules
           ├──► analytics               crawler, Athena, Firehose, QuickSight
           └──► watch                   alarms, dashboard, budget

`data` holds what must last (key, streams, tables, topics, lake); the others can be recreated from it.
"""

import shlex

from aws_cdk import CfnOutput, RemovalPolicy, Stack, Stage, Tags
from aws_cdk import aws_scheduler as scheduler
from constructs import Construct

from shopstream_infra.athena import Athena
from shopstream_infra.budget import Budget
from shopstream_infra.cluster import Cluster
from shopstream_infra.config import SERVICE, StageConfig
from shopstream_infra.dashboard import Dashboard
from shopstream_infra.delivery import Delivery
from shopstream_infra.detection import Detection
from shopstream_infra.environment import worker_settings
from shopstream_infra.flink import FlinkApplication, StudioNotebook
from shopstream_infra.incidents import Incidents
from shopstream_infra.lake import Lake
from shopstream_infra.metrics import Metrics
from shopstream_infra.monitoring import Monitoring
from shopstream_infra.nag import check
from shopstream_infra.network import Network
from shopstream_infra.quicksight import QuickSight
from shopstream_infra.raw import RawFiles
from shopstream_infra.security import Security
from shopstream_infra.streams import Streams
from shopstream_infra.tasks import Tasks
from shopstream_infra.worker import Archive, Worker

__all__ = ["FLAGS", "ShopstreamStage"]

FLAGS = {
    "@aws-cdk/aws-iam:minimizePolicies": True,
    "@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy": True,
    "@aws-cdk/core:defaultCrossStackReferences": "strong",
    "@aws-cdk/core:validateAgainstDefaultRules": True,
    "@aws-cdk/aws-kms:reduceCrossAccountRegionPolicyScope": True,
}
"""CDK behaviour that newer apps have by default."""


class ShopstreamStage(Stage):
    """All stacks of one stage; account and region come from the credentials."""

    def __init__(self, scope: Construct, config: StageConfig, *, report_accepted: bool = False) -> None:
        super().__init__(scope, config.name)
        self.config = config
        self._data()
        self._network()
        self._analytics()
        self._service()
        self._watch()
        Tags.of(self).add("application", SERVICE)
        Tags.of(self).add("stage", config.name)
        check(self, report_accepted=report_accepted)

    def _stack(self, name: str, description: str) -> Stack:
        return Stack(
            self,
            name,
            stack_name=self.config.named(name),
            description=f"{description} ({self.config.prefix})",
            termination_protection=self.config.retains and name == "data",
        )

    def _data(self) -> None:
        """Create what must last."""
        stack, config = self._stack("data", "Streams, tables, topics and lake"), self.config
        self.security = Security(stack, "Security", config=config)
        key = self.security.key
        self.streams = Streams(stack, "Streams", config=config, key=key)
        self.incidents = Incidents(stack, "Incidents", config=config, key=key)
        self.lake = Lake(stack, "Lake", config=config, key=key)
        settings = worker_settings(config, self.streams, self.incidents, self.lake)
        settings.pop("SHOPSTREAM_HOME")  # only for containers
        settings |= {name: shlex.quote(value) for name, value in config.settings.items()}  # quoted for a shell
        CfnOutput(stack, "Settings", value="\n".join(f"{name}={value}" for name, value in settings.items()))

    def _network(self) -> None:
        """Create the workers' network."""
        stack = self._stack("network", "Network of the workers")
        self.network = Network(stack, "Network", config=self.config, key=self.security.key)

    def _analytics(self) -> None:
        """Create crawler, Athena, Firehose into the lake, QuickSight."""
        stack, config = self._stack("analytics", "Crawler, queries, delivery and dashboards over the lake"), self.config
        key, lake = self.security.key, self.lake
        RawFiles(stack, "RawFiles", config=config, key=key, lake=lake)
        athena = Athena(stack, "Athena", config=config, lake=lake)
        Delivery(stack, "Delivery", config=config, key=key, lake=lake)
        if config.quicksight_owner:
            QuickSight(stack, "QuickSight", config=config, lake=lake).node.add_dependency(athena)

    def _service(self) -> None:
        """Create worker, functions and schedules."""
        stack, config = self._stack("service", "Worker, functions and schedules"), self.config
        key, streams, incidents, lake = self.security.key, self.streams, self.incidents, self.lake
        shared = {"config": config, "key": key, "streams": streams, "incidents": incidents, "lake": lake}
        self.schedules = scheduler.ScheduleGroup(
            stack, "Schedules", schedule_group_name=config.prefix, removal_policy=RemovalPolicy.DESTROY
        )
        self.cluster = Cluster(stack, "Cluster", network=self.network, **shared)
        if config.flink_code:
            self.flink = FlinkApplication(stack, "Flink", config=config, key=key, streams=streams)
        else:
            self.worker = Worker(stack, "Worker", cluster=self.cluster)
        self.archive = Archive(stack, "Archive", cluster=self.cluster)
        self.tasks = Tasks(stack, "Tasks", cluster=self.cluster, key=key, schedules=self.schedules)
        if config.detection == "lambda":
            self.detection = Detection(stack, "Detection", schedules=self.schedules, **shared)
        if config.flink_notebook:
            self.notebook = StudioNotebook(stack, "Notebook", config=config, key=key, streams=streams)

    def _watch(self) -> None:
        """Create alarms, dashboard, budget."""
        stack, metrics = self._stack("watch", "Alarms, dashboard and budget"), Metrics(self.config)
        monitoring = Monitoring(stack, "Monitoring", config=self.config, metrics=metrics, ops=self.incidents.ops)
        Dashboard(stack, "Dashboard", config=self.config, metrics=metrics, alarms=monitoring.alarms)
        Budget(stack, "Budget", config=self.config, ops=self.incidents.ops)
