"""Functions that turn signals into incidents; docs/lambda.md lists their settings."""

import json

import jsii
from aws_cdk import Duration, RemovalPolicy, Size, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as sources
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_scheduler_targets as targets
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from shopstream_infra.config import REPOSITORY, ConfigError, StageConfig
from shopstream_infra.environment import delivery_name, function_settings
from shopstream_infra.grants import publish, send, use_table, write_delivery
from shopstream_infra.incidents import Incidents
from shopstream_infra.lake import Lake
from shopstream_infra.logs import log_group
from shopstream_infra.nag import accept
from shopstream_infra.streams import Streams

__all__ = ["Detection"]


class Detection(Construct):
    """The detection function on the signals stream, the ticker, and the queue of failed signals."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        config: StageConfig,
        key: kms.IKey,
        streams: Streams,
        incidents: Incidents,
        lake: Lake,
        schedules: scheduler.ScheduleGroup,
    ) -> None:
        super().__init__(scope, construct_id)
        self._config, self._key, self._incidents, self._lake = config, key, incidents, lake
        self._code, self._runtime = _package(config)
        self.failed = sqs.Queue(
            self,
            "FailedSignals",
            queue_name=config.named("failed-signals"),
            encryption=sqs.QueueEncryption.KMS,
            encryption_master_key=key,
            enforce_ssl=True,
            retention_period=Duration.days(14),
            removal_policy=RemovalPolicy.DESTROY,
        )
        accept(self.failed, "AwsSolutions-SQS3", "This is the dead-letter queue: its messages wait for people")
        self.detection = self._function(
            "Detection",
            "detection",
            Duration.seconds(config.detection_timeout_s),
            config.detection_memory_mib,
            "Signals to incidents",
        )
        self.ticker = self._function(
            "Ticker", "ticker", Duration.seconds(50), 512, "Sends pending notifications, counts open incidents"
        )
        send(self.failed, self.detection)
        write_delivery(Stack.of(self), delivery_name(config), self.detection)
        self.detection.add_event_source(
            sources.KinesisEventSource(
                streams.signals,
                starting_position=lambda_.StartingPosition.TRIM_HORIZON,
                batch_size=100,
                max_batching_window=Duration.seconds(1),
                parallelization_factor=1,
                report_batch_item_failures=True,
                bisect_batch_on_error=True,
                retry_attempts=-1,
                max_record_age=Duration.days(1),
                on_failure=_OnFailure(self.failed),
            )
        )
        role = _scheduler(self, config.named("ticker-scheduler"), "Invokes the ticker every minute")
        scheduler.Schedule(
            self,
            "EveryMinute",
            schedule_name=config.named("ticker"),
            schedule_group=schedules,
            schedule=scheduler.ScheduleExpression.rate(Duration.minutes(1)),
            target=targets.LambdaInvoke(
                self.ticker,
                retry_attempts=0,  # the next minute comes anyway
                max_event_age=Duration.minutes(1),
                role=role,
            ),
            description="Sends pending notifications, counts open incidents",
        )
        accept(
            role,
            "AwsSolutions-IAM5",
            "The library grants the function's versions beside the function itself",
            findings=[r"/^Resource::<DetectionTicker[0-9A-F]+\.Arn>:\*$/"],
            children=True,
        )

    def _function(
        self, construct_id: str, name: str, timeout: Duration, memory_mib: int, description: str
    ) -> lambda_.Function:
        config = self._config
        logs = log_group(self, f"{construct_id}Logs", config=config, key=self._key, name=name)
        role = iam.Role(
            self,
            f"{construct_id}Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            description=f"Function {config.named(name)}",
        )
        logs.grant_write(role)
        function = lambda_.Function(
            self,
            construct_id,
            function_name=config.named(name),
            description=description,
            runtime=self._runtime,
            architecture=lambda_.Architecture.ARM_64,
            handler=f"shopstream.lambdas.{name}.handler",
            code=self._code,
            memory_size=memory_mib,
            ephemeral_storage_size=Size.mebibytes(512),
            timeout=timeout,
            retry_attempts=0,
            reserved_concurrent_executions=config.detection_reserved or None,
            environment={
                **function_settings(config, self._incidents, self._lake),
                "SHOPSTREAM_AWS__FAILED_SIGNALS": self.failed.queue_url,
            },
            environment_encryption=self._key,
            log_group=logs,
            role=role,
        )
        accept(function, "AwsSolutions-L1", "The Python version that the package was built for: make lambda")
        use_table(self._incidents.table, function)
        publish(self._incidents.topic, function)
        self._lake.grant_baselines(function)
        return function


@jsii.implements(lambda_.IEventSourceDlq)
class _OnFailure:
    """A queue as destination; the library's own class grants more than sending."""

    def __init__(self, queue: sqs.Queue) -> None:
        self._queue = queue

    def bind(
        self,
        _target: lambda_.IEventSourceMapping,
        _target_handler: lambda_.IFunction,
    ) -> lambda_.DlqDestinationConfig:
        """The queue's name for Lambda."""
        return lambda_.DlqDestinationConfig(destination=self._queue.queue_arn)


def _scheduler(scope: Construct, name: str, description: str) -> iam.Role:
    return iam.Role(
        scope,
        "Scheduler",
        role_name=name,
        assumed_by=iam.ServicePrincipal(
            "scheduler.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": Stack.of(scope).account}}
        ),
        description=description,
    )


def _package(config: StageConfig) -> tuple[lambda_.Code, lambda_.Runtime]:
    """The functions' package, and the only Python version that its compiled parts load in."""
    package = REPOSITORY / config.detection_zip
    described = package.with_suffix(".json")
    if not package.is_file() or not described.is_file():
        raise ConfigError(f"expected the functions' package at {package}, found none; run `make lambda`")
    runtime = json.loads(described.read_text(encoding="utf-8"))["runtime"]
    return lambda_.Code.from_asset(str(package)), lambda_.Runtime(runtime, lambda_.RuntimeFamily.PYTHON)
