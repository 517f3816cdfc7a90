"""Raw CSV: a crawler that creates tables of it, and a Spark job that loads it into the lake."""

from aws_cdk import Stack
from aws_cdk import aws_glue as glue
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3_assets as assets
from constructs import Construct

from shopstream_infra.config import REPOSITORY, ConfigError, StageConfig
from shopstream_infra.lake import FILES, Lake
from shopstream_infra.nag import accept

__all__ = ["SCRIPT", "RawFiles"]

SCRIPT = REPOSITORY / "glue" / "backfill.py"
_TIMEOUT_MIN = 720
_ASSETS = [
    "Action::s3:GetBucket*",
    "Action::s3:GetObject*",
    "Action::s3:List*",
    r"/^Resource::arn:<AWS::Partition>:s3:::cdk-.*\/\*$/",
]
_COLUMNS = (
    "event_time",
    "event_type",
    "product_id",
    "category_id",
    "category_code",
    "brand",
    "price",
    "user_id",
    "user_session",
)
"""Columns of the REES46 files, as in `shopstream.events.schema`."""


class RawFiles(Construct):
    """Tables of `raw/` in a database of their own, so that the crawler never touches the lake's."""

    def __init__(self, scope: Construct, construct_id: str, *, config: StageConfig, key: kms.IKey, lake: Lake) -> None:
        super().__init__(scope, construct_id)
        self._config, self._lake = config, lake
        self._encrypted = self._security(key)
        self._crawler()
        if config.backfill_wheel:
            self._backfill()

    def _security(self, key: kms.IKey) -> glue.CfnSecurityConfiguration:
        kind = glue.CfnSecurityConfiguration
        return kind(
            self,
            "Security",
            name=self._config.prefix,
            encryption_configuration=kind.EncryptionConfigurationProperty(
                cloud_watch_encryption=kind.CloudWatchEncryptionProperty(
                    cloud_watch_encryption_mode="SSE-KMS", kms_key_arn=key.key_arn
                ),
                job_bookmarks_encryption=kind.JobBookmarksEncryptionProperty(
                    job_bookmarks_encryption_mode="CSE-KMS", kms_key_arn=key.key_arn
                ),
                s3_encryptions=[kind.S3EncryptionProperty(s3_encryption_mode="SSE-KMS", kms_key_arn=key.key_arn)],
            ),
        )

    def _crawler(self) -> None:
        config, lake = self._config, self._lake
        role = self._role("CrawlerRole", "Crawler of raw files")
        lake.grant_raw(role)
        lake.grant_catalog(role, [lake.raw_database_name], write=True)
        self._accept(role, lake.raw_database_name)
        classifier = glue.CfnClassifier(
            self,
            "Classifier",
            csv_classifier=glue.CfnClassifier.CsvClassifierProperty(
                name=config.named("events-csv"),
                delimiter=",",
                quote_symbol='"',
                contains_header="PRESENT",
                header=list(_COLUMNS),
                allow_single_column=False,
            ),
        )
        crawler = glue.CfnCrawler(
            self,
            "Crawler",
            name=config.named("raw"),
            description="Tables of the CSV files below raw/, one per folder",
            role=role.role_arn,
            database_name=lake.raw_database_name,
            classifiers=[config.named("events-csv")],
            targets=glue.CfnCrawler.TargetsProperty(s3_targets=[glue.CfnCrawler.S3TargetProperty(path=f"{lake.raw}/")]),
            schema_change_policy=glue.CfnCrawler.SchemaChangePolicyProperty(
                update_behavior="UPDATE_IN_DATABASE", delete_behavior="LOG"
            ),
            recrawl_policy=glue.CfnCrawler.RecrawlPolicyProperty(recrawl_behavior="CRAWL_EVERYTHING"),
            crawler_security_configuration=config.prefix,
            schedule=glue.CfnCrawler.ScheduleProperty(schedule_expression=config.crawler_schedule)
            if config.crawler_schedule
            else None,
        )
        crawler.add_resource_dependency(classifier)
        crawler.add_resource_dependency(self._encrypted)
        crawler.node.add_dependency(role.node.find_child("DefaultPolicy"))

    def _backfill(self) -> None:
        """The job of docs/lake-on-aws.md; pass `--sources` when you start it."""
        config, lake = self._config, self._lake
        wheel = REPOSITORY / config.backfill_wheel
        if not wheel.is_file():
            raise ConfigError(
                f"expected shopstream's wheel at {wheel}, found none; build it (`uv build --wheel`), or leave "
                f"backfill_wheel of stage {config.name} empty"
            )
        role = self._role("BackfillRole", "Spark job that loads raw files")
        lake.grant_write(role)
        lake.grant_work(role, "glue")
        script = assets.Asset(self, "Script", path=str(SCRIPT))
        package = assets.Asset(self, "Wheel", path=str(wheel))
        script.grant_read(role)
        package.grant_read(role)
        self._accept(role, lake.database_name)
        accept(
            role,
            "AwsSolutions-IAM5",
            "Script and wheel are in the bucket of CDK assets under content hashes",
            findings=_ASSETS,
            children=True,
        )
        job = glue.CfnJob(
            self,
            "Backfill",
            name=config.named("backfill"),
            description="Loads CSV files of raw/ into the lake",
            role=role.role_arn,
            command=glue.CfnJob.JobCommandProperty(
                name="glueetl", python_version="3", script_location=script.s3_object_url
            ),
            glue_version="5.0",
            worker_type="G.1X",
            number_of_workers=config.backfill_workers,
            max_retries=0,  # a restart continues where it stopped; look for the cause first
            timeout=_TIMEOUT_MIN,
            execution_property=glue.CfnJob.ExecutionPropertyProperty(max_concurrent_runs=1),
            security_configuration=config.prefix,
            default_arguments={
                "--warehouse": lake.warehouse,
                "--database": lake.database_name,
                "--additional-python-modules": f"{package.s3_object_url},pyiceberg[glue],boto3",
                "--conf": "spark.speculation=false",
                "--TempDir": f"s3://{lake.work.bucket_name}/glue/",
                "--enable-metrics": "true",
                "--enable-continuous-cloudwatch-log": "true",
            },
        )
        job.add_resource_dependency(self._encrypted)
        job.node.add_dependency(role.node.find_child("DefaultPolicy"))

    def _role(self, construct_id: str, description: str) -> iam.Role:
        stack = Stack.of(self)
        role = iam.Role(
            self,
            construct_id,
            assumed_by=iam.ServicePrincipal(
                "glue.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": stack.account}}
            ),
            description=f"{description} of {self._config.prefix}",
        )
        groups = stack.format_arn(service="logs", resource="log-group", resource_name="/aws-glue/*")
        role.add_to_policy(
            iam.PolicyStatement(
                actions=["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", "logs:AssociateKmsKey"],
                resources=[groups.replace("log-group/", "log-group:")],
            )
        )
        role.add_to_policy(
            iam.PolicyStatement(
                actions=["glue:GetSecurityConfiguration"],
                resources=["*"],  # the action has no resource-level permissions
            )
        )
        return role

    def _accept(self, role: iam.Role, database: str) -> None:
        accept(
            role,
            "AwsSolutions-IAM5",
            "Files below prefixes of the lake's buckets, and tables of one database",
            findings=[FILES, self._lake.tables(database)],
            children=True,
        )
        accept(
            role,
            "AwsSolutions-IAM5",
            "Glue names its log groups itself, and glue:GetSecurityConfiguration has no resource-level permissions",
            findings=["Resource::*", r"/^Resource::.*:log-group:\/aws-glue\/\*$/"],
            children=True,
        )
