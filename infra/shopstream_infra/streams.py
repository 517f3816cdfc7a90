"""The events stream, the signals stream, and the table of leases."""

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_kinesis as kinesis
from aws_cdk import aws_kms as kms
from constructs import Construct

from shopstream_infra.config import StageConfig
from shopstream_infra.nag import accept
from shopstream_infra.tables import table

__all__ = ["Streams"]


class Streams(Construct):
    """Streams keep records for days at most; the lake keeps them for good, so all of this is removed with the stage."""

    def __init__(self, scope: Construct, construct_id: str, *, config: StageConfig, key: kms.IKey) -> None:
        super().__init__(scope, construct_id)
        provisioned = config.events_mode == "provisioned"
        self.events = kinesis.Stream(
            self,
            "Events",
            stream_name=config.named("events"),
            stream_mode=kinesis.StreamMode.PROVISIONED if provisioned else kinesis.StreamMode.ON_DEMAND,
            shard_count=config.events_shards if provisioned else None,
            retention_period=Duration.hours(config.events_retention_hours),
            encryption=kinesis.StreamEncryption.KMS,
            encryption_key=key,
            removal_policy=RemovalPolicy.DESTROY,
        )
        self.signals = self._signals(config, key) if config.detection == "lambda" else None
        for stream in filter(None, (self.events, self.signals)):
            accept(
                stream,
                "AwsSolutions-KDS3",
                "The stage's own key, so that disabling it locks records too; its calls cost cents a month",
            )
        self.leases = table(self, "Leases", name=config.named("leases"), key=key, removal_policy=RemovalPolicy.DESTROY)

    def _signals(self, config: StageConfig, key: kms.IKey) -> kinesis.Stream:
        """The stream from the worker to the detection function."""
        return kinesis.Stream(
            self,
            "Signals",
            stream_name=config.named("signals"),
            stream_mode=kinesis.StreamMode.PROVISIONED,
            shard_count=1,  # orders all signals
            retention_period=Duration.hours(config.signals_retention_hours),
            encryption=kinesis.StreamEncryption.KMS,
            encryption_key=key,
            removal_policy=RemovalPolicy.DESTROY,
        )
