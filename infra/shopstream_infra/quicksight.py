"""A QuickSight dashboard over the marts, if the stage names its owner."""

from typing import Any

from aws_cdk import CfnResource, Fn, Stack
from aws_cdk import aws_iam as iam
from constructs import Construct

from shopstream_infra.config import StageConfig
from shopstream_infra.environment import workgroup_name
from shopstream_infra.lake import FILES, Lake
from shopstream_infra.nag import accept
from shopstream_infra.visuals import BOTS, DATA_SETS, Json, definition, physical_table

__all__ = ["QuickSight"]

_SOURCE = (
    "DescribeDataSource",
    "DescribeDataSourcePermissions",
    "PassDataSource",
    "UpdateDataSource",
    "DeleteDataSource",
    "UpdateDataSourcePermissions",
)
_SET = (
    "DescribeDataSet",
    "DescribeDataSetPermissions",
    "PassDataSet",
    "DescribeIngestion",
    "ListIngestions",
    "UpdateDataSet",
    "DeleteDataSet",
    "CreateIngestion",
    "CancelIngestion",
    "UpdateDataSetPermissions",
)
_ANALYSIS = (
    "DescribeAnalysis",
    "DescribeAnalysisPermissions",
    "QueryAnalysis",
    "UpdateAnalysis",
    "RestoreAnalysis",
    "DeleteAnalysis",
    "UpdateAnalysisPermissions",
)
_LOOK_AROUND = ("ListDataCatalogs", "ListEngineVersions", "ListWorkGroups")
_LOOK = ("DescribeDashboard", "ListDashboardVersions", "QueryDashboard")
_DASHBOARD = (
    *_LOOK,
    "UpdateDashboard",
    "DeleteDashboard",
    "UpdateDashboardPermissions",
    "DescribeDashboardPermissions",
    "UpdateDashboardPublishedVersion",
)


class QuickSight(Construct):
    """Data source, SPICE data sets with a daily refresh, an editable analysis, a published dashboard.

    QuickSight must be subscribed to in the account before. It reads as `role`: queries of this stage's workgroup, and
    the marts' files.
    """

    def __init__(self, scope: Construct, construct_id: str, *, config: StageConfig, lake: Lake) -> None:
        super().__init__(scope, construct_id)
        self._config, self._stack = config, Stack.of(self)
        role = self._role(lake)
        source = self._make(
            "Source",
            "DataSource",
            {
                "DataSourceId": config.named("lake"),
                "Name": f"Lake of {config.prefix}",
                "Type": "ATHENA",
                "DataSourceParameters": {
                    "AthenaParameters": {"WorkGroup": workgroup_name(config), "RoleArn": role.role_arn}
                },
                "Permissions": [self._may(config.quicksight_owner, _SOURCE)],
            },
        )
        source.node.add_dependency(role.node.find_child("DefaultPolicy"))
        arns = {name: self._data_set(name, source, lake) for name in DATA_SETS}
        shown = _literal(definition(arns))
        self._make(
            "Analysis",
            "Analysis",
            {
                "AnalysisId": config.named("shop"),
                "Name": f"Shop ({config.name})",
                "Definition": shown,
                "Permissions": [self._may(config.quicksight_owner, _ANALYSIS)],
            },
        )
        readers = [self._may(config.quicksight_readers, _LOOK)] if config.quicksight_readers else []
        self._make(
            "Dashboard",
            "Dashboard",
            {
                "DashboardId": config.named("shop"),
                "Name": f"Shop ({config.name})",
                "Definition": shown,
                "Permissions": [self._may(config.quicksight_owner, _DASHBOARD), *readers],
                "DashboardPublishOptions": {"ExportToCSVOption": {"AvailabilityStatus": "ENABLED"}},
            },
        )

    def _data_set(self, name: str, source: CfnResource, lake: Lake) -> str:
        construct_id = "".join(word.capitalize() for word in name.split("_"))
        made = self._make(
            construct_id,
            "DataSet",
            {
                "DataSetId": self._config.named(name.replace("_", "-")),
                "Name": DATA_SETS[name].title,
                "ImportMode": "SPICE",
                "PhysicalTableMap": physical_table(
                    DATA_SETS[name], source.get_att("Arn").to_string(), lake.database_name
                ),
                "Permissions": [self._may(self._config.quicksight_owner, _SET)],
            },
        )
        schedule = self._make(
            f"{construct_id}Refresh",
            "RefreshSchedule",
            {
                "DataSetId": self._config.named(name.replace("_", "-")),
                "Schedule": {
                    "ScheduleId": "daily",
                    "RefreshType": "FULL_REFRESH",
                    "ScheduleFrequency": {
                        "Interval": "DAILY",
                        "TimeZone": "UTC",
                        "TimeOfTheDay": self._config.quicksight_refresh,
                    },
                },
            },
        )
        schedule.add_resource_dependency(made)
        return made.get_att("Arn").to_string()

    def _role(self, lake: Lake) -> iam.Role:
        role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("quicksight.amazonaws.com"),  # which passes no account for a condition
            description=f"QuickSight reads the marts of {self._config.prefix}",
        )
        lake.grant_read(role)
        lake.grant_query(role, workgroup_name(self._config))
        role.add_to_policy(
            iam.PolicyStatement(
                actions=[f"athena:{action}" for action in _LOOK_AROUND],
                resources=["*"],  # list actions have no resource-level permissions
            )
        )
        accept(
            role,
            "AwsSolutions-IAM5",
            "Tables of one database, their files, and results of one workgroup",
            findings=[FILES, lake.tables(lake.database_name)],
            children=True,
        )
        accept(
            role,
            "AwsSolutions-IAM5",
            "List actions know no resource ARNs; QuickSight lists catalogs and workgroups for its selection",
            findings=["Resource::*"],
            children=True,
        )
        return role

    def _make(self, construct_id: str, kind: str, properties: Json) -> CfnResource:
        """A CloudFormation resource; for QuickSight its properties are those of the API."""
        return CfnResource(
            self,
            construct_id,
            type=f"AWS::QuickSight::{kind}",
            properties={"AwsAccountId": self._stack.account, **properties},
        )

    @staticmethod
    def _may(principal: str, actions: tuple[str, ...]) -> Json:
        return {"Principal": principal, "Actions": [f"quicksight:{action}" for action in actions]}


def _literal(value: Any) -> Any:  # noqa: ANN401  JSON
    """Escape `${Bots}` of QuickSight's expressions, which CloudFormation would substitute."""
    if isinstance(value, dict):
        return {name: _literal(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_literal(inner) for inner in value]
    if isinstance(value, str) and f"${{{BOTS}}}" in value:
        return Fn.sub(value.replace("${", "${Dollar}{"), {"Dollar": "$"})
    return value
