"""An Athena workgroup that limits the bytes a query scans, and saved queries."""

from pathlib import Path

from aws_cdk import Stack
from aws_cdk import aws_athena as athena
from constructs import Construct

from shopstream_infra.config import REPOSITORY, ConfigError, StageConfig
from shopstream_infra.environment import workgroup_name
from shopstream_infra.lake import Lake

__all__ = ["QUERIES", "Athena", "read_query"]

QUERIES = REPOSITORY / "infra" / "queries"
"""One file per query: NAME.sql, whose first line is `-- ` and a description."""

_GB = 10**9
_MARK = "-- "


class Athena(Construct):
    """The workgroup; its settings override those of a client, so that all results are encrypted."""

    def __init__(self, scope: Construct, construct_id: str, *, config: StageConfig, lake: Lake) -> None:
        super().__init__(scope, construct_id)
        self.workgroup = athena.CfnWorkGroup(
            self,
            "Workgroup",
            name=workgroup_name(config),
            description=f"Queries over the lake of {config.prefix}; one scans at most {config.query_limit_gb} GB",
            state="ENABLED",
            recursive_delete_option=True,  # deletes its saved queries, too; they are in the repository
            work_group_configuration=athena.CfnWorkGroup.WorkGroupConfigurationProperty(
                enforce_work_group_configuration=True,
                publish_cloud_watch_metrics_enabled=True,
                bytes_scanned_cutoff_per_query=config.query_limit_gb * _GB,
                engine_version=athena.CfnWorkGroup.EngineVersionProperty(
                    selected_engine_version="Athena engine version 3"
                ),
                result_configuration=athena.CfnWorkGroup.ResultConfigurationProperty(
                    output_location=lake.results,
                    encryption_configuration=athena.CfnWorkGroup.EncryptionConfigurationProperty(
                        encryption_option="SSE_KMS", kms_key=lake.key.key_arn
                    ),
                    expected_bucket_owner=Stack.of(self).account,
                ),
            ),
        )
        for file in sorted(QUERIES.glob("*.sql")):
            description, sql = read_query(file)
            query = athena.CfnNamedQuery(
                self,
                "".join(word.capitalize() for word in file.stem.split("_")),
                database=lake.database_name,
                work_group=workgroup_name(config),
                name=file.stem,
                description=description,
                query_string=sql,
            )
            query.add_resource_dependency(self.workgroup)


def read_query(file: Path) -> tuple[str, str]:
    """Return a query's description and its SQL.

    Raises:
        ConfigError: the file does not begin with a description.
    """
    first, _, sql = file.read_text(encoding="utf-8").partition("\n")
    if not first.startswith(_MARK) or not sql.strip():
        raise ConfigError(
            f"expected {file.name} to begin with `-- description`, then SQL, got {first!r}; add a description"
        )
    return first.removeprefix(_MARK), sql.strip()
