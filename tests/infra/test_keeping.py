"""What is encrypted, how long things are kept, and what a destroyed stage leaves behind."""

import re

STATEFUL = {
    "AWS::DynamoDB::Table",
    "AWS::EC2::Volume",
    "AWS::ECR::Repository",
    "AWS::EFS::FileSystem",
    "AWS::Glue::Database",
    "AWS::KMS::Key",
    "AWS::Kinesis::Stream",
    "AWS::Logs::LogGroup",
    "AWS::RDS::DBInstance",
    "AWS::S3::Bucket",
    "AWS::SQS::Queue",
}


def kept(stage):
    """Resources that stay when their stack goes."""
    return {key for key, resource in stage.resources().items() if resource.get("DeletionPolicy") == "Retain"}


def test_destroying_dev_leaves_nothing(stages):
    assert kept(stages["dev"]) == set()


def test_buckets_of_dev_are_emptied_when_they_go(stages):
    dev = stages["dev"]
    assert len(dev.resources("Custom::S3AutoDeleteObjects")) == len(dev.resources("AWS::S3::Bucket"))


def test_destroying_prod_keeps_what_cannot_be_recreated(stages):
    prod = stages["prod"]
    kinds = {prod.resources()[key]["Type"] for key in kept(prod)}
    assert kinds == {"AWS::DynamoDB::Table", "AWS::Glue::Database", "AWS::KMS::Key", "AWS::S3::Bucket"} | (
        kinds & {"AWS::S3::BucketPolicy"}
    )
    databases = [resource for key, resource in prod.resources("AWS::Glue::Database").items() if key in kept(prod)]
    assert [one["Properties"]["DatabaseInput"]["Name"] for one in databases] == ["shopstream_prod"]
    tables = [resource for key, resource in prod.resources("AWS::DynamoDB::Table").items() if key in kept(prod)]
    assert [table["Properties"]["TableName"] for table in tables] == ["shopstream-prod"]
    assert set(prod.resources("AWS::S3::Bucket")) <= kept(prod)


def test_every_resource_states_its_removal_policy(stage):
    for key, resource in stage.resources().items():
        if resource["Type"] in STATEFUL:
            assert resource["DeletionPolicy"] == resource["UpdateReplacePolicy"], key
            assert resource["DeletionPolicy"] in {"Delete", "Retain"}, key


def test_what_cannot_be_recreated_is_protected_in_prod(stages):
    tables = {table["TableName"]: table for table in stages["prod"].properties("AWS::DynamoDB::Table")}
    assert tables["shopstream-prod"]["DeletionProtectionEnabled"] is True


def test_all_stored_data_is_encrypted_with_the_stage_key(stage):
    for stream in stage.properties("AWS::Kinesis::Stream"):
        assert stream["StreamEncryption"]["EncryptionType"] == "KMS"
    for table in stage.properties("AWS::DynamoDB::Table"):
        assert table["SSESpecification"]["SSEType"] == "KMS"
    for queue in stage.properties("AWS::SQS::Queue"):
        assert queue["KmsMasterKeyId"]
    for topic in stage.properties("AWS::SNS::Topic"):
        assert topic["KmsMasterKeyId"]
    for group in stage.properties("AWS::Logs::LogGroup"):
        assert group["KmsKeyId"]
    for function in stage.properties("AWS::Lambda::Function"):
        assert "Environment" not in function or function["KmsKeyArn"] or "CustomResource" in str(function)
    assert stage.one("AWS::KMS::Key")["EnableKeyRotation"] is True


def test_logs_have_the_retention_of_the_stage(stage):
    assert {group["RetentionInDays"] for group in stage.properties("AWS::Logs::LogGroup")} == {stage.config.log_days}


def test_the_key_serves_the_logs_of_this_stage_only(stage):
    (statement,) = [
        s for s in stage.one("AWS::KMS::Key")["KeyPolicy"]["Statement"] if s.get("Sid") == "LogsOfThisStage"
    ]
    pattern = str(statement["Condition"]["ArnLike"]["kms:EncryptionContext:aws:logs:arn"])
    assert f":log-group:/{stage.config.prefix}/*" in pattern
    for group in stage.properties("AWS::Logs::LogGroup"):
        assert group["LogGroupName"].startswith(f"/{stage.config.prefix}/")


def test_tables_can_be_restored_to_a_point_in_time(stage):
    for table in stage.properties("AWS::DynamoDB::Table"):
        assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


def test_all_that_can_carry_tags_carries_those_of_the_stage(stage):
    for kind in ("AWS::Kinesis::Stream", "AWS::DynamoDB::Table", "AWS::S3::Bucket", "AWS::Lambda::Function"):
        for properties in stage.properties(kind):
            if "CustomResource" in str(properties):  # the library's, which empties buckets
                continue
            tags = {tag["Key"]: tag["Value"] for tag in properties["Tags"]}
            assert tags.items() >= {"application": "shopstream", "stage": stage.config.name}.items()


def test_no_account_and_no_secret_stands_in_a_template(stage):
    for path in stage.files.values():
        text = path.read_text()
        assert not re.search(r"AKIA[0-9A-Z]{16}", text)
        assert not re.findall(r":\d{12}:", text)
