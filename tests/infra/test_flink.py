"""The Flink application and the Studio notebook are made where the stage asks for them."""


def application(stage, mode):
    (found,) = [
        a
        for a in stage.properties("AWS::KinesisAnalyticsV2::Application")
        if a.get("ApplicationMode", "STREAMING") == mode
    ]
    return found


def test_the_shipped_stages_have_neither(stage):
    assert stage.resources("AWS::KinesisAnalyticsV2::Application") == {}


def test_the_job_runs_on_flink_1_20_with_checkpoints_snapshots_and_scaling(variant):
    job = application(variant, "STREAMING")
    configuration = job["ApplicationConfiguration"]
    assert job["RuntimeEnvironment"] == "FLINK-1_20"
    assert configuration["ApplicationSnapshotConfiguration"] == {"SnapshotsEnabled": True}
    flink = configuration["FlinkApplicationConfiguration"]
    assert flink["CheckpointConfiguration"]["CheckpointingEnabled"] is True
    assert flink["ParallelismConfiguration"]["AutoScalingEnabled"] is True
    assert flink["MonitoringConfiguration"]["MetricsLevel"] == "APPLICATION"


def test_the_job_s_code_comes_from_the_stage_s_setting(variant):
    content = application(variant, "STREAMING")["ApplicationConfiguration"]["ApplicationCodeConfiguration"]
    assert content["CodeContent"]["S3ContentLocation"]["FileKey"] == "shopstream-flink.zip"
    assert "my-jobs" in str(content["CodeContent"]["S3ContentLocation"]["BucketARN"])


def test_the_job_reads_events_and_writes_signals(variant):
    groups = application(variant, "STREAMING")["ApplicationConfiguration"]["EnvironmentProperties"]["PropertyGroups"]
    assert set(groups[0]["PropertyMap"]) == {"events", "signals", "region"}


def test_the_notebook_is_interactive_and_has_a_database_of_its_own(variant):
    notebook = application(variant, "INTERACTIVE")
    assert notebook["RuntimeEnvironment"] == "ZEPPELIN-FLINK-3_0"
    assert "shopstream_dev_studio" in str(notebook["ApplicationConfiguration"]["ZeppelinApplicationConfiguration"])
    databases = {database["DatabaseInput"]["Name"] for database in variant.properties("AWS::Glue::Database")}
    assert "shopstream_dev_studio" in databases


def test_applications_log_to_the_stage(variant):
    options = variant.resources("AWS::KinesisAnalyticsV2::ApplicationCloudWatchLoggingOption")
    assert len(options) == 2
    for option in options.values():
        assert "log-stream" in str(option["Properties"]["CloudWatchLoggingOption"]["LogStreamARN"])
