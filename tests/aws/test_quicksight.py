"""The QuickSight API takes what the stack gives it: its own model of parameters, and a stand-in that stores them.

Nothing is drawn here: no stand-in does.
"""

import importlib.util
from pathlib import Path

import boto3
import pytest
from botocore.validate import ParamValidator

pytestmark = pytest.mark.aws

ACCOUNT = "123456789012"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def visuals():
    spec = importlib.util.spec_from_file_location("visuals", ROOT / "infra" / "shopstream_infra" / "visuals.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def quicksight(aws_env, moto):
    aws_env(quicksight=moto)
    return boto3.client("quicksight")


def test_source_sets_and_dashboard_are_taken_and_read_back(quicksight, visuals, fresh_name):
    source = fresh_name("lake")
    made = quicksight.create_data_source(
        AwsAccountId=ACCOUNT,
        DataSourceId=source,
        Name="Lake",
        Type="ATHENA",
        DataSourceParameters={
            "AthenaParameters": {
                "WorkGroup": "shopstream-dev",
                "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/shopstream-dev-quicksight",
            }
        },
    )
    arns = {}
    for name, data_set in visuals.DATA_SETS.items():
        answer = quicksight.create_data_set(
            AwsAccountId=ACCOUNT,
            DataSetId=fresh_name(name.replace("_", "-")),
            Name=data_set.title,
            ImportMode="SPICE",
            PhysicalTableMap=visuals.physical_table(data_set, made["Arn"], "shopstream_dev"),
        )
        arns[name] = answer["Arn"]
    dashboard = fresh_name("shop")
    quicksight.create_dashboard(
        AwsAccountId=ACCOUNT, DashboardId=dashboard, Name="Shop", Definition=visuals.definition(arns)
    )
    kept = quicksight.describe_data_source(AwsAccountId=ACCOUNT, DataSourceId=source)["DataSource"]
    assert kept["DataSourceParameters"]["AthenaParameters"]["WorkGroup"] == "shopstream-dev"
    assert quicksight.describe_dashboard(AwsAccountId=ACCOUNT, DashboardId=dashboard)["Dashboard"]["Name"] == "Shop"


def test_the_sheet_is_what_the_api_of_an_analysis_takes(quicksight, visuals):
    """The client holds parameters against the service's model before it sends them; the stand-in knows no analyses."""
    arns = dict.fromkeys(visuals.DATA_SETS, f"arn:aws:quicksight:us-east-1:{ACCOUNT}:dataset/one")
    wanted = {"AwsAccountId": ACCOUNT, "AnalysisId": "shop", "Name": "Shop", "Definition": visuals.definition(arns)}
    model = quicksight.meta.service_model.operation_model("CreateAnalysis")
    assert ParamValidator().validate(wanted, model.input_shape).generate_report() == ""
