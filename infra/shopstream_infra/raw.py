"""CSV to come in: a crawler that makes tables of raw files, and a Spark job that loads months of them into the lake."""

from aws_cdk import Stack
from aws_cdk import aws_glue as glue
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from shopstream_infra.config import StageConfig
from shopstream_infra.lake import Lake
from shopstream_infra.nag import accept

__all__ = ["RawFiles"]

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
"""Of the REES46 files, as `shopstream.events.schema` has them."""


class RawFiles(Construct):
    """`raw/` of the lake's bucket, as tables in a database of its own, so that a crawler never touches the lake's."""

    def __init__(self, scope: Construct, construct_id: str, *, config: StageConfig, key: kms.IKey, lake: Lake) -> None:
        super().__init__(scope, construct_id)
        self._config, self._lake = config, lake
        self._encrypted = self._security(key)
        self._crawler()

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
            description="Tables of the CSV files below raw/, one for each folder",
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
        crawler.node.add_dependency(role)

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
                resources=["*"],  # the action knows no resources
            )
        )
        accept(
            role,
            "AwsSolutions-IAM5",
            "Files below one prefix, tables of one database, Glue's own log groups",
            children=True,
        )
        return role
