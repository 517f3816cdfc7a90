"""What is kept: the bucket and the Glue database of the Iceberg tables."""

from aws_cdk import Duration, RemovalPolicy, Stack
from aws_cdk import aws_glue as glue
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from shopstream_infra.config import StageConfig

__all__ = ["Lake"]


class Lake(Construct):
    """`bucket` holds `warehouse/` (tables), `raw/` (CSV to come in), `checkpoints/` (the worker's) and `athena/`."""

    def __init__(self, scope: Construct, construct_id: str, *, config: StageConfig, key: kms.IKey) -> None:
        super().__init__(scope, construct_id)
        self.key = key
        self.bucket = s3.Bucket(
            self,
            "Bucket",
            encryption=s3.BucketEncryption.KMS,
            encryption_key=key,
            bucket_key_enabled=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            versioned=config.retains,
            removal_policy=RemovalPolicy.RETAIN if config.retains else RemovalPolicy.DESTROY,
            auto_delete_objects=not config.retains,
            lifecycle_rules=[s3.LifecycleRule(abort_incomplete_multipart_upload_after=Duration.days(1))],
        )
        self.database_name = config.prefix.replace("-", "_")
        glue.CfnDatabase(
            self,
            "Database",
            catalog_id=Stack.of(self).account,
            database_input=glue.CfnDatabase.DatabaseInputProperty(name=self.database_name),
        )
        self.warehouse = f"s3://{self.bucket.bucket_name}/warehouse"
        self.checkpoints = f"s3://{self.bucket.bucket_name}/checkpoints"

    def grant_write(self, grantee: iam.IGrantable) -> None:
        """Read and write the tables, their files and the checkpoints."""
        self.bucket.grant_read_write(grantee)
        stack = Stack.of(self)
        grantee.grant_principal.add_to_principal_policy(
            iam.PolicyStatement(
                actions=[
                    "glue:GetDatabase",
                    "glue:GetTable",
                    "glue:GetTables",
                    "glue:CreateTable",
                    "glue:UpdateTable",
                    "glue:DeleteTable",
                ],
                resources=[
                    stack.format_arn(service="glue", resource="catalog"),
                    stack.format_arn(service="glue", resource="database", resource_name=self.database_name),
                    stack.format_arn(service="glue", resource="table", resource_name=f"{self.database_name}/*"),
                ],
            )
        )
