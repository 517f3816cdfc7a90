"""A Firehose stream that writes detections to the Iceberg table `detections`."""

from aws_cdk import RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesisfirehose as firehose
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from shopstream_infra.config import StageConfig
from shopstream_infra.environment import delivery_name
from shopstream_infra.lake import FILES, Lake
from shopstream_infra.logs import log_group
from shopstream_infra.nag import accept

__all__ = ["Delivery"]

_TABLE = "detections"
_RETRY_S = 3600
_BUFFER_S = 300
_BUFFER_MB = 64


class Delivery(Construct):
    """Delivers the function's detections to the table within five minutes; rejected ones go to `delivery/`.

    The table must exist: the worker creates it at its first start.
    """

    def __init__(self, scope: Construct, construct_id: str, *, config: StageConfig, key: kms.IKey, lake: Lake) -> None:
        super().__init__(scope, construct_id)
        stack = Stack.of(self)
        role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal(
                "firehose.amazonaws.com", conditions={"StringEquals": {"sts:ExternalId": stack.account}}
            ),
            description=f"Firehose stream {delivery_name(config)}",
        )
        group = log_group(self, "Logs", config=config, key=key, name="delivery")
        written = logs.LogStream(
            self, "LogStream", log_group=group, log_stream_name="iceberg", removal_policy=RemovalPolicy.DESTROY
        )
        self._grant(role, lake, group)
        kind = firehose.CfnDeliveryStream
        self.stream = kind(
            self,
            "Stream",
            delivery_stream_name=delivery_name(config),
            delivery_stream_type="DirectPut",
            delivery_stream_encryption_configuration_input=kind.DeliveryStreamEncryptionConfigurationInputProperty(
                key_type="CUSTOMER_MANAGED_CMK", key_arn=key.key_arn
            ),
            iceberg_destination_configuration=self._destination(role, lake, group, written),
        )
        self.stream.node.add_dependency(role.node.find_child("DefaultPolicy"))

    def _destination(
        self, role: iam.Role, lake: Lake, group: logs.LogGroup, written: logs.LogStream
    ) -> firehose.CfnDeliveryStream.IcebergDestinationConfigurationProperty:
        kind = firehose.CfnDeliveryStream
        return kind.IcebergDestinationConfigurationProperty(
            role_arn=role.role_arn,
            append_only=True,
            catalog_configuration=kind.CatalogConfigurationProperty(
                catalog_arn=Stack.of(self).format_arn(service="glue", resource="catalog")
            ),
            destination_table_configuration_list=[
                kind.DestinationTableConfigurationProperty(
                    destination_database_name=lake.database_name,
                    destination_table_name=_TABLE,
                    s3_error_output_prefix=f"delivery/{_TABLE}/",
                )
            ],
            buffering_hints=kind.BufferingHintsProperty(interval_in_seconds=_BUFFER_S, size_in_m_bs=_BUFFER_MB),
            retry_options=kind.RetryOptionsProperty(duration_in_seconds=_RETRY_S),
            cloud_watch_logging_options=kind.CloudWatchLoggingOptionsProperty(
                enabled=True, log_group_name=group.log_group_name, log_stream_name=written.log_stream_name
            ),
            s3_configuration=kind.S3DestinationConfigurationProperty(
                bucket_arn=lake.work.bucket_arn,
                role_arn=role.role_arn,
                error_output_prefix="delivery/",
                encryption_configuration=kind.EncryptionConfigurationProperty(
                    kms_encryption_config=kind.KMSEncryptionConfigProperty(awskms_key_arn=lake.key.key_arn)
                ),
            ),
        )

    def _grant(self, role: iam.Role, lake: Lake, group: logs.LogGroup) -> None:
        lake.grant_append(role, _TABLE)
        lake.grant_work(role, "delivery")
        group.grant(role, "logs:PutLogEvents")
        accept(
            role,
            "AwsSolutions-IAM5",
            "Files of one table and of one error prefix, whose names Firehose chooses",
            findings=[FILES],
            children=True,
        )
