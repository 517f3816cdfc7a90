"""Buckets, crawler, Athena, Firehose, QuickSight, budget: what is there, and who may do what."""

import json
import re
from dataclasses import replace

import pytest

from shopstream_infra import raw
from shopstream_infra.athena import QUERIES, read_query
from shopstream_infra.config import STAGES, ConfigError
from shopstream_infra.visuals import DATA_SETS

OWNER = "arn:aws:quicksight:us-east-1:111122223333:user/default/alice"
READERS = "arn:aws:quicksight:us-east-1:111122223333:group/default/shop"


@pytest.fixture(scope="session")
def full(synthesise, tmp_path_factory):
    """A stage with everything that is off as shipped."""
    folder = tmp_path_factory.mktemp("backfill")
    (folder / "shopstream.whl").write_bytes(b"wheel")
    config = replace(
        STAGES["dev"],
        quicksight_owner=OWNER,
        quicksight_readers=READERS,
        crawler_schedule="cron(0 1 * * ? *)",
        backfill_wheel=str(folder / "shopstream.whl"),
    )
    return synthesise(config)["dev"]


def statements(stage, role):
    """Statements of the policies of the roles whose logical id begins so."""
    for policy in stage.properties("AWS::IAM::Policy"):
        if any(reference.get("Ref", "").startswith(role) for reference in policy["Roles"]):
            yield from policy["PolicyDocument"]["Statement"]


def actions(stage, role):
    return {
        action
        for statement in statements(stage, role)
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }


def lint(stage, stack):
    from cfnlint.api import lint_file  # noqa: PLC0415

    return [str(match) for match in lint_file(stage.files[stack])]


# buckets


def test_no_bucket_is_public_and_each_is_encrypted(stage):
    buckets = stage.resources("AWS::S3::Bucket")
    assert len(buckets) == 3
    for (_, name), bucket in buckets.items():
        properties = bucket["Properties"]
        assert all(properties["PublicAccessBlockConfiguration"].values())
        (rule,) = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        expected = "AES256" if name.startswith("LakeAccessLogs") else "aws:kms"
        assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == expected


def test_buckets_speak_tls_only(stage):
    policies = stage.properties("AWS::S3::BucketPolicy")
    assert len(policies) == 3
    for policy in policies:
        denied = [one["Condition"] for one in policy["PolicyDocument"]["Statement"] if one["Effect"] == "Deny"]
        assert {"Bool": {"aws:SecureTransport": "false"}} in denied


def test_production_keeps_its_buckets_and_versions_of_the_lake(stages):
    for name, policy in (("prod", "Retain"), ("dev", "Delete")):
        for bucket in stages[name].resources("AWS::S3::Bucket").values():
            assert bucket["DeletionPolicy"] == policy
        versioned = [
            bucket for bucket in stages[name].properties("AWS::S3::Bucket") if "VersioningConfiguration" in bucket
        ]
        assert len(versioned) == (1 if name == "prod" else 0)


def test_query_results_expire_after_a_week(stage):
    rules = [
        rule
        for bucket in stage.properties("AWS::S3::Bucket")
        for rule in bucket["LifecycleConfiguration"]["Rules"]
        if rule.get("Prefix") == "athena/"
    ]
    assert [rule["ExpirationInDays"] for rule in rules] == [7]


def test_a_missing_object_differs_from_a_forbidden_one(stage):
    """S3 answers 404 to whoever may list the whole bucket, 403 to others, also where a condition names the prefix."""
    listing = [one for one in statements(stage, "") if "s3:ListBucket" in one["Action"]]
    assert listing
    assert not [one for one in listing if "Condition" in one]


def test_checkpoints_and_tables_never_expire(stage):
    for bucket in stage.properties("AWS::S3::Bucket"):
        for rule in bucket["LifecycleConfiguration"]["Rules"]:
            if "ExpirationInDays" in rule and "ServerSideEncryptionByDefault" in str(bucket["BucketEncryption"]):
                assert rule.get("Prefix") in {"athena/", "glue/", "delivery/", None}
                assert rule.get("Prefix") or "AES256" in str(bucket["BucketEncryption"])


def test_the_function_reads_baselines_and_the_worker_writes_them(variant):
    def may(role, action):
        return any(
            action in one["Action"] and "baselines/baselines.json" in json.dumps(one["Resource"])
            for one in statements(variant, role)
        )

    assert may("DetectionDetectionRole", "s3:GetObject")
    assert not may("DetectionDetectionRole", "s3:PutObject")
    assert may("ClusterRole", "s3:PutObject")
    assert "s3:ListBucket" in actions(variant, "DetectionDetectionRole")  # or a missing file would be a forbidden one


# Athena


def test_no_query_scans_more_than_the_limit_and_results_are_encrypted(stage):
    workgroup = stage.one("AWS::Athena::WorkGroup")
    configuration = workgroup["WorkGroupConfiguration"]
    assert workgroup["Name"] == stage.config.prefix
    assert configuration["EnforceWorkGroupConfiguration"] is True
    assert configuration["BytesScannedCutoffPerQuery"] == stage.config.query_limit_gb * 10**9
    assert configuration["ResultConfiguration"]["EncryptionConfiguration"]["EncryptionOption"] == "SSE_KMS"
    assert configuration["PublishCloudWatchMetricsEnabled"] is True


def test_every_query_of_the_repository_is_saved_with_its_description(stage):
    saved = {query["Name"]: query for query in stage.properties("AWS::Athena::NamedQuery")}
    assert set(saved) == {file.stem for file in QUERIES.glob("*.sql")}
    assert all(query["Description"] and query["WorkGroup"] == stage.config.prefix for query in saved.values())


def test_a_query_without_a_description_is_refused(tmp_path):
    file = tmp_path / "bare.sql"
    file.write_text("select 1")
    with pytest.raises(ConfigError, match=r"bare\.sql to begin with `-- description`"):
        read_query(file)


# Firehose


def test_detections_are_appended_to_their_table_and_failed_ones_are_kept(stage):
    delivery = stage.one("AWS::KinesisFirehose::DeliveryStream")
    destination = delivery["IcebergDestinationConfiguration"]
    (table,) = destination["DestinationTableConfigurationList"]
    assert (table["DestinationTableName"], destination["AppendOnly"]) == ("detections", True)
    assert table["S3ErrorOutputPrefix"] == "delivery/detections/"
    assert destination["CloudWatchLoggingOptions"]["Enabled"] is True
    assert delivery["DeliveryStreamEncryptionConfigurationInput"]["KeyType"] == "CUSTOMER_MANAGED_CMK"


def test_firehose_may_change_one_table_only(stage):
    catalog = [one for one in statements(stage, "DeliveryRole") if "glue:UpdateTable" in one["Action"]]
    assert len(catalog) == 1
    tables = [arn for arn in catalog[0]["Resource"] if ":table/" in json.dumps(arn)]
    assert len(tables) == 1
    assert re.search(r"detections", json.dumps(tables))
    assert "glue:DeleteTable" not in actions(stage, "DeliveryRole")


# crawler and backfill


def test_the_crawler_starts_by_hand_and_never_deletes_tables(stage):
    crawler = stage.one("AWS::Glue::Crawler")
    assert "Schedule" not in crawler
    assert crawler["SchemaChangePolicy"]["DeleteBehavior"] == "LOG"
    assert crawler["DatabaseName"] == f"{stage.config.prefix.replace('-', '_')}_raw"


def test_the_crawler_may_not_write_files(stage):
    assert {"s3:PutObject", "s3:DeleteObject"}.isdisjoint(actions(stage, "RawFilesCrawlerRole"))


def test_the_backfill_exists_only_with_its_wheel(stage, full):
    assert stage.properties("AWS::Glue::Job") == []
    job = full.one("AWS::Glue::Job")
    arguments = job["DefaultArguments"]
    assert (job["GlueVersion"], job["MaxRetries"]) == ("5.0", 0)
    assert {"--warehouse", "--database", "--additional-python-modules", "--conf"} <= set(arguments)
    assert full.one("AWS::Glue::Crawler")["Schedule"] == {"ScheduleExpression": "cron(0 1 * * ? *)"}


def test_the_error_about_a_missing_wheel_says_how_to_build_it(synthesise):
    with pytest.raises(ConfigError, match="build it"):
        synthesise(replace(STAGES["dev"], backfill_wheel="dist/no-such.whl"))


def test_the_backfill_s_script_is_in_the_repository():
    assert raw.SCRIPT.is_file()


# QuickSight


def test_quicksight_has_no_resources_without_an_owner(stage):
    assert [kind for kind in stage.resources().values() if kind["Type"].startswith("AWS::QuickSight")] == []


def test_the_role_of_quicksight_cannot_change_the_lake(full):
    source = full.one("AWS::QuickSight::DataSource")["DataSourceParameters"]["AthenaParameters"]
    assert source["WorkGroup"] == full.config.prefix
    assert "RoleArn" in source
    for one in statements(full, "QuickSightRole"):
        if "s3:PutObject" in one["Action"]:
            assert "/athena/*" in json.dumps(one["Resource"])
            assert "warehouse" not in json.dumps(one["Resource"])
    assert not any(re.match(r"glue:(Create|Update|Delete|Batch)", action) for action in actions(full, "QuickSightRole"))


def test_every_data_set_is_refreshed_daily(full):
    sets = {one["DataSetId"] for one in full.properties("AWS::QuickSight::DataSet")}
    schedules = full.properties("AWS::QuickSight::RefreshSchedule")
    assert len(sets) == len(DATA_SETS)
    assert {one["DataSetId"] for one in schedules} == sets
    assert {one["Schedule"]["ScheduleFrequency"]["TimeOfTheDay"] for one in schedules} == {"04:00"}


def test_readers_may_only_read_the_dashboard(full):
    granted = [
        (resource["Type"], permission["Actions"])
        for resource in full.resources().values()
        for permission in resource["Properties"].get("Permissions", [])
        if isinstance(permission, dict) and permission.get("Principal") == READERS
    ]
    ((kind, allowed),) = granted
    assert kind == "AWS::QuickSight::Dashboard"
    assert not [action for action in allowed if re.search("Update|Delete|Pass|Create", action)]


def test_the_control_s_parameter_reaches_quicksight_unchanged(full):
    fields = full.one("AWS::QuickSight::Dashboard")["Definition"]["CalculatedFields"]
    shown = next(field["Expression"] for field in fields if field["Name"] == "visitors_shown")
    text, values = shown["Fn::Sub"]
    assert text.replace("${Dollar}", values["Dollar"]) == (
        "ifelse(${Bots} = 'with bots', {visitors_with_bots}, {visitors})"
    )


def test_optional_resources_pass_the_checks(full):
    assert [message for message in full.messages if message[0] in {"ERROR", "WARNING"}] == []
    assert lint(full, "analytics") == []


# budget and settings


def test_the_budget_counts_this_stage_and_notifies_before_the_limit(stage):
    budget = stage.one("AWS::Budgets::Budget")
    assert budget["Budget"]["BudgetLimit"] == {"Amount": stage.config.monthly_budget_usd, "Unit": "USD"}
    assert budget["Budget"]["CostFilters"] == {"TagKeyValue": [f"user:stage${stage.config.name}"]}
    told = {
        (one["Notification"]["NotificationType"], one["Notification"]["Threshold"])
        for one in budget["NotificationsWithSubscribers"]
    }
    assert told == {("ACTUAL", 80), ("ACTUAL", 100), ("FORECASTED", 100)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_limit_gb": 0}, "at least 1"),
        ({"quicksight_owner": "alice"}, "an ARN such as"),
        ({"quicksight_readers": READERS}, "empty without quicksight_owner"),
        ({"quicksight_refresh": "25:00"}, "hh:mm"),
        ({"backfill_workers": 1}, "at least 2"),
    ],
)
def test_a_quicksight_value_that_aws_would_reject_is_rejected_early(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(STAGES["dev"], **changes)
