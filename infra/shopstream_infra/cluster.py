"""Cluster, image, role, volumes and logs that all containers share."""

from collections.abc import Mapping, Sequence

from aws_cdk import Duration, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecr_assets as assets
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from shopstream_infra.config import REPOSITORY, StageConfig
from shopstream_infra.environment import delivery_name, worker_settings, workgroup_name
from shopstream_infra.grants import describe, publish, put_metrics, read_stream, use_table, write_delivery, write_stream
from shopstream_infra.incidents import Incidents
from shopstream_infra.lake import Lake
from shopstream_infra.logs import log_group
from shopstream_infra.nag import accept
from shopstream_infra.network import Network
from shopstream_infra.streams import Streams

__all__ = ["Cluster"]

_HOME = "/data"
_AGENT_FOLDERS = ("/managed-agents", "/var/lib/amazon/ssm", "/var/log/amazon/ssm")
"""ECS Exec's agent writes there; the rest of the root file system is read-only."""


class Cluster(Construct):
    """The ECS cluster of all tasks. They share one role, since ECS Exec may run any command in any of them."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        config: StageConfig,
        key: kms.IKey,
        network: Network,
        streams: Streams,
        incidents: Incidents,
        lake: Lake,
    ) -> None:
        super().__init__(scope, construct_id)
        self.config, self.network = config, network
        self.environment = worker_settings(config, streams, incidents, lake)
        self.logs = log_group(self, "Logs", config=config, key=key, name="worker")
        self.cluster = ecs.Cluster(
            self,
            "Cluster",
            cluster_name=config.prefix,
            vpc=network.vpc,
            container_insights_v2=ecs.ContainerInsights.ENABLED,
            execute_command_configuration=ecs.ExecuteCommandConfiguration(
                kms_key=key,
                logging=ecs.ExecuteCommandLogging.OVERRIDE,
                log_configuration=ecs.ExecuteCommandLogConfiguration(
                    cloud_watch_log_group=log_group(self, "Sessions", config=config, key=key, name="sessions"),
                    cloud_watch_encryption_enabled=True,
                ),
            ),
        )
        self._image = self._make_image()
        self.role = iam.Role(
            self,
            "Role",
            role_name=config.named("worker"),
            assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"),
            description="Containers of shopstream",
        )
        self._grant(streams, incidents, lake)
        accept(
            self.role,
            "AwsSolutions-IAM5",
            "No resource ARNs exist for metrics (narrowed to this stage's namespace), sessions of ECS Exec, "
            "and the list of log groups that such a session requests",
            findings=["Resource::*"],
            children=True,
        )
        accept(
            self.role,
            "AwsSolutions-IAM5",
            "Objects below prefixes of the lake's buckets, tables of its database, and log streams of sessions",
            findings=[
                r"/^Resource::<Lake[A-Za-z]+[0-9A-F]{8}\.Arn>\/[a-z]+\/\*$/",
                f"/^Resource::.*:table\\/{lake.database_name}\\/\\*$/",
                r"/^Resource::.*:log-group:<ClusterSessions[0-9A-F]+>:\*$/",
            ],
            children=True,
        )
        self._starter = iam.Role(
            self,
            "Starter",
            role_name=config.named("task-starter"),
            assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"),
            description="Pulls the image and creates the log streams of tasks",
        )
        self._starter.add_to_policy(iam.PolicyStatement(actions=["ecr:GetAuthorizationToken"], resources=["*"]))
        accept(
            self._starter,
            "AwsSolutions-IAM5",
            "ecr:GetAuthorizationToken has no resource-level permissions",
            findings=["Resource::*"],
            children=True,
        )

    def task(self, scope: Construct, name: str, *, cpu: int, memory_mib: int) -> ecs.FargateTaskDefinition:
        """An ARM task with the shared role, a data volume and the agent's folders."""
        task = ecs.FargateTaskDefinition(
            scope,
            "Task",
            family=self.config.named(name),
            cpu=cpu,
            memory_limit_mib=memory_mib,
            ephemeral_storage_gib=self.config.worker_disk_gib,
            task_role=self.role,
            execution_role=self._starter,
            runtime_platform=ecs.RuntimePlatform(
                cpu_architecture=ecs.CpuArchitecture.ARM64, operating_system_family=ecs.OperatingSystemFamily.LINUX
            ),
        )
        task.add_volume(name="data")
        accept(
            task,
            "AwsSolutions-ECS2",
            "Names and addresses, no secrets: credentials come from the task's role",
        )
        return task

    def container(
        self,
        task: ecs.FargateTaskDefinition,
        name: str,
        command: Sequence[str],
        *,
        essential: bool = True,
        entry_point: Sequence[str] | None = None,
        health: Sequence[str] = (),
        defaults: Mapping[str, str] | None = None,
    ) -> ecs.ContainerDefinition:
        """A container of the image: not root, read-only except its volumes, logging to the stage's group.

        `defaults` are variables of its own; a stage's settings win over them.
        """
        container = task.add_container(
            name,
            container_name=name,
            image=self._image,
            command=list(command),
            entry_point=list(entry_point) if entry_point else None,
            environment={**(defaults or {}), **self.environment},
            essential=essential,
            enable_restart_policy=not essential,
            readonly_root_filesystem=True,
            user="10001:10001",
            stop_timeout=Duration.seconds(120),
            linux_parameters=ecs.LinuxParameters(task, f"{name}Linux", init_process_enabled=True),
            logging=ecs.LogDriver.aws_logs(
                stream_prefix=name, log_group=self.logs, mode=ecs.AwsLogDriverMode.NON_BLOCKING
            ),
            health_check=ecs.HealthCheck(
                command=list(health), interval=Duration.seconds(60), start_period=Duration.seconds(120), retries=3
            )
            if health
            else None,
        )
        own = [
            ("/tmp", f"{name}-tmp"),  # noqa: S108  a volume of its own
            *((folder, f"{name}-{folder.strip('/').replace('/', '-')}") for folder in _AGENT_FOLDERS),
        ]
        container.add_mount_points(ecs.MountPoint(container_path=_HOME, source_volume="data", read_only=False))
        for folder, volume in own:
            task.add_volume(name=volume)
            container.add_mount_points(ecs.MountPoint(container_path=folder, source_volume=volume, read_only=False))
        return container

    def service(
        self, scope: Construct, name: str, task: ecs.FargateTaskDefinition, *, desired_count: int
    ) -> ecs.FargateService:
        """Keep a task running; a new version that does not come up is rolled back."""
        return ecs.FargateService(
            scope,
            "Service",
            service_name=self.config.named(name),
            cluster=self.cluster,
            task_definition=task,
            desired_count=desired_count,
            assign_public_ip=False,
            vpc_subnets=ec2.SubnetSelection(
                subnets=self.network.vpc.private_subnets or self.network.vpc.isolated_subnets
            ),
            security_groups=[self.network.workers],
            circuit_breaker=ecs.DeploymentCircuitBreaker(enable=True, rollback=True),
            min_healthy_percent=100,  # a new worker starts beside the old one and waits for its lease
            max_healthy_percent=200,
            enable_execute_command=True,
            propagate_tags=ecs.PropagatedTagSource.SERVICE,
            enable_ecs_managed_tags=True,
        )

    def _make_image(self) -> ecs.ContainerImage:
        if self.config.worker_image:
            repository, _, tag = self.config.worker_image.partition(":")
            return ecs.ContainerImage.from_ecr_repository(
                ecr.Repository.from_repository_name(self, "Repository", repository), tag or "latest"
            )
        return ecs.ContainerImage.from_docker_image_asset(
            assets.DockerImageAsset(
                self,
                "Image",
                directory=str(REPOSITORY),
                file="docker/Dockerfile",
                platform=assets.Platform.LINUX_ARM64,
            )
        )

    def _grant(self, streams: Streams, incidents: Incidents, lake: Lake) -> None:
        read_stream(streams.events, self.role)
        if streams.signals:
            write_stream(streams.signals, self.role)
        use_table(streams.leases, self.role, indexes=False)
        use_table(incidents.table, self.role)
        publish(incidents.topic, self.role)
        lake.grant_write(self.role)
        lake.grant_query(self.role, workgroup_name(self.config))
        write_delivery(Stack.of(self), delivery_name(self.config), self.role)
        describe(incidents.table, incidents.topic, delivery_name(self.config), self.role)
        put_metrics(self.config, self.role)
