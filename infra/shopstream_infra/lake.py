"""The lake's buckets and Glue databases."""

from collections.abc import Sequence

from aws_cdk import CfnResource, Duration, RemovalPolicy, Stack
from aws_cdk import aws_glue as glue
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from shopstream_infra.config import StageConfig

__all__ = ["FILES", "Lake"]

FILES = r"/^Resource::<Lake[A-Za-z]+[0-9A-F]{8}\.Arn>\/[a-z_\/]+\/\*$/"
"""cdk-nag's finding for objects below a prefix of a bucket."""

_READ = ("GetDatabase", "GetDatabases", "GetPartition", "GetPartitions", "GetTable", "GetTables", "GetTableVersions")
_WRITE = (
    *_READ,
    "BatchCreatePartition",
    "BatchDeletePartition",
    "BatchDeleteTable",
    "BatchDeleteTableVersion",
    "CreatePartition",
    "CreateTable",
    "DeletePartition",
    "DeleteTable",
    "DeleteTableVersion",
    "UpdatePartition",
    "UpdateTable",
)
_CATALOG = ("GetDataCatalog", "GetDatabase", "GetTableMetadata", "ListDatabases", "ListTableMetadata")
_KEPT_BACK = Duration.days(7)
"""How long overwritten or deleted objects can be restored in versioned buckets."""


class Lake(Construct):
    """Two buckets and two databases, all encrypted with the stage's key.

    `bucket` holds `warehouse/` (the tables) and `raw/` (CSV to come in); it keeps versions where the stage retains.
    `work` holds `checkpoints/` (the worker's, with shoppers' ids in them), `athena/` (results of queries),
    `delivery/` (what Firehose could not deliver) and `glue/` (what jobs leave).
    """

    def __init__(self, scope: Construct, construct_id: str, *, config: StageConfig, key: kms.IKey) -> None:
        super().__init__(scope, construct_id)
        self._config, self.key = config, key
        self._logs = self._access_logs()
        self.bucket = self._bucket(
            "Bucket",
            versioned=config.retains,
            rules=[
                s3.LifecycleRule(
                    id="raw-files-are-read-rarely",
                    prefix="raw/",
                    transitions=[
                        s3.Transition(
                            storage_class=s3.StorageClass.INFREQUENT_ACCESS, transition_after=Duration.days(30)
                        )
                    ],
                )
            ],
        )
        self.work = self._bucket(
            "Work",
            versioned=False,  # checkpoints and results are overwritten all the time
            rules=[
                s3.LifecycleRule(id=f"{prefix}-expires", prefix=f"{prefix}/", expiration=Duration.days(days))
                for prefix, days in (("athena", 7), ("glue", 7), ("delivery", 90))
            ],
        )
        self.database_name = config.prefix.replace("-", "_")
        self.raw_database_name = f"{self.database_name}_raw"
        # Deleting a Glue database deletes its tables, and only they know their files in the lake.
        self._database("Database", self.database_name).apply_removal_policy(config.removal_policy)
        self._database("RawDatabase", self.raw_database_name).apply_removal_policy(RemovalPolicy.DESTROY)
        self.warehouse = f"s3://{self.bucket.bucket_name}/warehouse"
        self.raw = f"s3://{self.bucket.bucket_name}/raw"
        self.checkpoints = f"s3://{self.work.bucket_name}/checkpoints"
        self.results = f"s3://{self.work.bucket_name}/athena/"

        if not config.retains:
            _silence_lint(Stack.of(self))

    def tables(self, database: str) -> str:
        """cdk-nag's finding for all tables of a database."""
        return f"/^Resource::.*:table\\/{database}\\/\\*$/"

    def grant_write(self, grantee: iam.IGrantable) -> None:
        """Read and write the tables, their files and the checkpoints; read raw files."""
        self._files(grantee, self.bucket, ["warehouse/*"], write=True)
        self._files(grantee, self.bucket, ["raw/*"], write=False)
        self._files(grantee, self.work, ["checkpoints/*"], write=True)
        self.grant_baselines(grantee, write=True)
        self.grant_catalog(grantee, [self.database_name], write=True)

    def grant_baselines(self, grantee: iam.IGrantable, *, write: bool = False) -> None:
        """Read (or write) the baselines, if the stage has a key for them."""
        key = self._config.baselines_key
        if key:
            self._files(grantee, self.bucket, [key, f"{key.removesuffix('.json')}.products.parquet"], write=write)

    def grant_read(self, grantee: iam.IGrantable) -> None:
        """Read the tables and their files."""
        self._files(grantee, self.bucket, ["warehouse/*"], write=False)
        self.grant_catalog(grantee, [self.database_name], write=False)

    def grant_append(self, grantee: iam.IGrantable, table: str) -> None:
        """Read and append one table of the lake."""
        self._files(grantee, self.bucket, [f"warehouse/{self.database_name}/{table}/*"], write=True)
        stack = Stack.of(self)
        grantee.grant_principal.add_to_principal_policy(
            iam.PolicyStatement(
                actions=["glue:GetDatabase", "glue:GetTable", "glue:UpdateTable"],
                resources=[
                    stack.format_arn(service="glue", resource="catalog"),
                    stack.format_arn(service="glue", resource="database", resource_name=self.database_name),
                    stack.format_arn(service="glue", resource="table", resource_name=f"{self.database_name}/{table}"),
                ],
            )
        )

    def grant_raw(self, grantee: iam.IGrantable) -> None:
        """Read raw files."""
        self._files(grantee, self.bucket, ["raw/*"], write=False)

    def grant_work(self, grantee: iam.IGrantable, prefix: str) -> None:
        """Write below one prefix of the work bucket."""
        self._files(grantee, self.work, [f"{prefix}/*"], write=True)

    def grant_query(self, grantee: iam.IGrantable, workgroup: str) -> None:
        """Run queries in a workgroup and fetch results; access to the data is granted separately."""
        actions = (
            "BatchGetQueryExecution",
            "GetQueryExecution",
            "GetQueryResults",
            "GetQueryResultsStream",
            "GetWorkGroup",
            "ListQueryExecutions",
            "StartQueryExecution",
            "StopQueryExecution",
        )
        arn = Stack.of(self).format_arn(service="athena", resource="workgroup", resource_name=workgroup)
        grantee.grant_principal.add_to_principal_policy(
            iam.PolicyStatement(actions=[f"athena:{action}" for action in actions], resources=[arn])
        )
        catalog = Stack.of(self).format_arn(service="athena", resource="datacatalog", resource_name="AwsDataCatalog")
        grantee.grant_principal.add_to_principal_policy(
            iam.PolicyStatement(actions=[f"athena:{action}" for action in _CATALOG], resources=[catalog])
        )
        self.grant_work(grantee, "athena")

    def grant_catalog(self, grantee: iam.IGrantable, databases: Sequence[str], *, write: bool) -> None:
        """Read or write tables of these databases in the Glue Data Catalog."""
        stack = Stack.of(self)
        grantee.grant_principal.add_to_principal_policy(
            iam.PolicyStatement(
                actions=[f"glue:{action}" for action in (_WRITE if write else _READ)],
                resources=[
                    stack.format_arn(service="glue", resource="catalog"),
                    *(stack.format_arn(service="glue", resource="database", resource_name=name) for name in databases),
                    *(
                        stack.format_arn(service="glue", resource="table", resource_name=f"{name}/*")
                        for name in databases
                    ),
                ],
            )
        )

    def _files(self, grantee: iam.IGrantable, bucket: s3.Bucket, patterns: list[str], *, write: bool) -> None:
        read = ["s3:GetObject"]
        change = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
        policy = grantee.grant_principal.add_to_principal_policy
        policy(
            iam.PolicyStatement(
                actions=read + change if write else read,
                resources=[bucket.arn_for_objects(pattern) for pattern in patterns],
            )
        )
        # For the whole bucket: with a condition on the prefix, S3 answers 403, not 404, for a missing object.
        whole = ["s3:GetBucketLocation", "s3:ListBucket", *(["s3:ListBucketMultipartUploads"] if write else [])]
        policy(iam.PolicyStatement(actions=whole, resources=[bucket.bucket_arn]))
        actions = ["kms:Decrypt", "kms:GenerateDataKey"] if write else ["kms:Decrypt"]
        self.key.grant(grantee, *actions)

    def _database(self, construct_id: str, name: str) -> glue.CfnDatabase:
        return glue.CfnDatabase(
            self,
            construct_id,
            catalog_id=Stack.of(self).account,
            database_input=glue.CfnDatabase.DatabaseInputProperty(name=name),
        )

    def _bucket(self, name: str, *, versioned: bool, rules: Sequence[s3.LifecycleRule]) -> s3.Bucket:
        cleaning = s3.LifecycleRule(
            id="leftovers",
            abort_incomplete_multipart_upload_after=Duration.days(1),
            noncurrent_version_expiration=_KEPT_BACK if versioned else None,
            expired_object_delete_marker=True if versioned else None,
        )
        return s3.Bucket(
            self,
            name,
            encryption=s3.BucketEncryption.KMS,
            encryption_key=self.key,
            bucket_key_enabled=True,  # one KMS call for many objects
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            versioned=versioned,
            server_access_logs_bucket=self._logs,
            server_access_logs_prefix=f"{name.lower()}/",
            removal_policy=self._config.removal_policy,
            auto_delete_objects=not self._config.retains,
            lifecycle_rules=[cleaning, *rules],
        )

    def _access_logs(self) -> s3.Bucket:
        return s3.Bucket(
            self,
            "AccessLogs",
            encryption=s3.BucketEncryption.S3_MANAGED,  # S3 cannot deliver access logs to a bucket with a customer key
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            removal_policy=self._config.removal_policy,
            auto_delete_objects=not self._config.retains,
            lifecycle_rules=[s3.LifecycleRule(id="logs-expire", expiration=Duration.days(self._config.log_days))],
        )


def _silence_lint(stack: Stack) -> None:
    """Silence cfn-lint: the CDK's function that empties buckets names its role twice."""
    provider = stack.node.find_child("Custom::S3AutoDeleteObjectsCustomResourceProvider")
    handler = provider.node.find_child("Handler")
    if not isinstance(handler, CfnResource):
        raise TypeError(f"expected the CDK's function, got {type(handler).__name__}")
    handler.add_metadata("cfn-lint", {"config": {"ignore_checks": ["W3005"]}})
