"""The Flink application for windows beyond one machine, and a Studio notebook."""

from aws_cdk import RemovalPolicy, Stack
from aws_cdk import aws_glue as glue
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesisanalyticsv2 as flink
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from shopstream_infra.config import StageConfig
from shopstream_infra.grants import read_stream, write_stream
from shopstream_infra.logs import log_group
from shopstream_infra.nag import accept
from shopstream_infra.streams import Streams

__all__ = ["FlinkApplication", "StudioNotebook"]

_SERVICE = "kinesisanalytics.amazonaws.com"
_Application = flink.CfnApplication


class FlinkApplication(Construct):
    """Managed Service for Apache Flink; runs the job in `flink_code`: events in, signals out."""

    def __init__(
        self, scope: Construct, construct_id: str, *, config: StageConfig, key: kms.IKey, streams: Streams
    ) -> None:
        super().__init__(scope, construct_id)
        bucket, _, path = config.flink_code.removeprefix("s3://").partition("/")
        role = _role(self, config.named("flink"), "The Flink job")
        read_stream(streams.events, role)
        write_stream(streams.signals, role)
        stack = Stack.of(self)
        bucket_arn = stack.format_arn(service="s3", region="", account="", resource=bucket)
        role.add_to_policy(
            iam.PolicyStatement(actions=["s3:GetObject", "s3:GetObjectVersion"], resources=[f"{bucket_arn}/{path}"])
        )
        application = _Application(
            self,
            "Application",
            application_name=config.named("engine"),
            application_description="Windows over the events stream; signals go to the signals stream",
            runtime_environment="FLINK-1_20",
            service_execution_role=role.role_arn,
            application_configuration=_Application.ApplicationConfigurationProperty(
                application_code_configuration=_Application.ApplicationCodeConfigurationProperty(
                    code_content_type="ZIPFILE",
                    code_content=_Application.CodeContentProperty(
                        s3_content_location=_Application.S3ContentLocationProperty(bucket_arn=bucket_arn, file_key=path)
                    ),
                ),
                application_snapshot_configuration=_Application.ApplicationSnapshotConfigurationProperty(
                    snapshots_enabled=True
                ),
                application_system_rollback_configuration=_Application.ApplicationSystemRollbackConfigurationProperty(
                    rollback_enabled=True
                ),
                environment_properties=_Application.EnvironmentPropertiesProperty(
                    property_groups=[
                        _Application.PropertyGroupProperty(
                            property_group_id="shopstream",
                            property_map={
                                "events": streams.events.stream_arn,
                                "signals": streams.signals.stream_arn,
                                "region": stack.region,
                            },
                        )
                    ]
                ),
                flink_application_configuration=_Application.FlinkApplicationConfigurationProperty(
                    checkpoint_configuration=_Application.CheckpointConfigurationProperty(
                        configuration_type="CUSTOM",
                        checkpointing_enabled=True,
                        checkpoint_interval=10_000,
                        min_pause_between_checkpoints=5_000,
                    ),
                    monitoring_configuration=_Application.MonitoringConfigurationProperty(
                        configuration_type="CUSTOM", log_level="INFO", metrics_level="APPLICATION"
                    ),
                    parallelism_configuration=_Application.ParallelismConfigurationProperty(
                        configuration_type="CUSTOM",
                        auto_scaling_enabled=True,
                        parallelism=config.flink_parallelism,
                        parallelism_per_kpu=1,
                    ),
                ),
            ),
        )
        _log(self, application, role, log_group(self, "Logs", config=config, key=key, name="flink"))


class StudioNotebook(Construct):
    """A Zeppelin notebook over the streams; import notebooks/shopstream.zpln. It costs money while it runs."""

    def __init__(
        self, scope: Construct, construct_id: str, *, config: StageConfig, key: kms.IKey, streams: Streams
    ) -> None:
        super().__init__(scope, construct_id)
        stack = Stack.of(self)
        name = f"{config.prefix}_studio".replace("-", "_")
        database = glue.CfnDatabase(
            self,
            "Database",
            catalog_id=stack.account,
            database_input=glue.CfnDatabase.DatabaseInputProperty(
                name=name, description="Tables that the notebook defines over the streams"
            ),
        )
        role = _role(self, config.named("studio"), "The Studio notebook")
        read_stream(streams.events, role)
        if streams.signals:
            read_stream(streams.signals, role)
        database_arn = stack.format_arn(service="glue", resource="database", resource_name=name)
        actions = ("GetDatabase", "GetDatabases", "GetTable", "GetTables", "CreateTable", "UpdateTable", "DeleteTable")
        role.add_to_policy(
            iam.PolicyStatement(
                actions=[
                    *(f"glue:{action}" for action in actions),
                    "glue:GetUserDefinedFunction",
                    "glue:GetConnection",
                ],
                resources=[
                    stack.format_arn(service="glue", resource="catalog"),
                    database_arn,
                    stack.format_arn(service="glue", resource="table", resource_name=f"{name}/*"),
                    stack.format_arn(service="glue", resource="userDefinedFunction", resource_name=f"{name}/*"),
                    # Studio requests Hive's default database before it opens the named one.
                    stack.format_arn(service="glue", resource="database", resource_name="hive"),
                ],
            )
        )
        accept(
            role,
            "AwsSolutions-IAM5",
            "Tables and functions that people define in the notebook's own database",
            findings=[rf"/^Resource::.*:(table|userDefinedFunction)\/{name}\/\*$/"],
            children=True,
        )
        application = _Application(
            self,
            "Notebook",
            application_name=config.named("studio"),
            application_description="Explore events and signals with SQL",
            application_mode="INTERACTIVE",
            runtime_environment="ZEPPELIN-FLINK-3_0",
            service_execution_role=role.role_arn,
            application_configuration=_Application.ApplicationConfigurationProperty(
                flink_application_configuration=_Application.FlinkApplicationConfigurationProperty(
                    parallelism_configuration=_Application.ParallelismConfigurationProperty(
                        configuration_type="CUSTOM", auto_scaling_enabled=False, parallelism=2, parallelism_per_kpu=1
                    )
                ),
                zeppelin_application_configuration=_Application.ZeppelinApplicationConfigurationProperty(
                    catalog_configuration=_Application.CatalogConfigurationProperty(
                        glue_data_catalog_configuration=_Application.GlueDataCatalogConfigurationProperty(
                            database_arn=database_arn
                        )
                    ),
                    monitoring_configuration=_Application.ZeppelinMonitoringConfigurationProperty(log_level="INFO"),
                    custom_artifacts_configuration=[
                        _Application.CustomArtifactConfigurationProperty(
                            artifact_type="DEPENDENCY_JAR",
                            maven_reference=_Application.MavenReferenceProperty(
                                group_id="org.apache.flink",
                                artifact_id="flink-sql-connector-kinesis",
                                version="1.15.4",
                            ),
                        )
                    ],
                ),
            ),
        )
        application.node.add_dependency(database)
        _log(self, application, role, log_group(self, "Logs", config=config, key=key, name="studio"))


def _role(scope: Construct, name: str, description: str) -> iam.Role:
    account = Stack.of(scope).account
    return iam.Role(
        scope,
        "Role",
        role_name=name,
        description=description,
        assumed_by=iam.ServicePrincipal(_SERVICE, conditions={"StringEquals": {"aws:SourceAccount": account}}),
    )


def _log(scope: Construct, application: _Application, role: iam.Role, group: logs.LogGroup) -> None:
    """Send the application's log to a stream of the group; the application starts once it may write there."""
    stream = logs.LogStream(
        scope, "Stream", log_group=group, log_stream_name="application", removal_policy=RemovalPolicy.DESTROY
    )
    group.grant_write(role)
    role.add_to_policy(
        iam.PolicyStatement(
            actions=["logs:DescribeLogStreams", "logs:DescribeLogGroups"], resources=[group.log_group_arn]
        )
    )
    stream_arn = f"{group.log_group_arn.removesuffix(':*')}:log-stream:{stream.log_stream_name}"
    option = flink.CfnApplicationCloudWatchLoggingOption(
        scope,
        "Logging",
        application_name=application.ref,
        cloud_watch_logging_option=flink.CfnApplicationCloudWatchLoggingOption.CloudWatchLoggingOptionProperty(
            log_stream_arn=stream_arn
        ),
    )
    option.node.add_dependency(application)
    application.node.add_dependency(role)
