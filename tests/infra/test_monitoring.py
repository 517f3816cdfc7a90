"""Alarms have pages, look at metrics that exist, and tell those who run the pipeline once."""

from pathlib import Path

import pytest

from shopstream_infra.alarms import Alarm

_REPOSITORY = Path(__file__).parents[2]
_PACKAGE = _REPOSITORY / "src" / "shopstream"
_SOURCES = "".join(
    path.read_text(encoding="utf-8") for path in (_PACKAGE / "metrics.py", *(_PACKAGE / "lambdas").glob("*.py"))
)


def alarms(stage):
    """Name → properties, of both kinds."""
    return {alarm["AlarmName"].removeprefix(f"{stage.config.prefix}-"): alarm for alarm in _both(stage)}


def _both(stage):
    return [*stage.properties("AWS::CloudWatch::Alarm"), *stage.properties("AWS::CloudWatch::CompositeAlarm")]


def metrics(alarm):
    """Namespace, name and dimensions of the metrics that an alarm looks at."""
    stats = [entry["MetricStat"]["Metric"] for entry in alarm.get("Metrics", []) if "MetricStat" in entry]
    for metric in stats or ([alarm] if "MetricName" in alarm else []):
        yield metric["Namespace"], metric["MetricName"], {d["Name"]: d["Value"] for d in metric.get("Dimensions", [])}


def test_each_alarm_is_of_the_list(any_stage):
    assert set(alarms(any_stage)) <= {alarm.value for alarm in Alarm}


def test_each_alarm_of_the_list_is_made_in_some_stage(stages, variant):
    made = set().union(*(alarms(stage) for stage in (*stages.values(), variant)))
    assert made == {alarm.value for alarm in Alarm}


def test_each_alarm_has_its_page_and_each_page_its_alarm():
    pages = {path.stem for path in (_REPOSITORY / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages == {alarm.value for alarm in Alarm}


def test_an_alarm_says_where_its_page_is(any_stage):
    for name, alarm in alarms(any_stage).items():
        assert alarm["AlarmDescription"].endswith(f"docs/runbooks/{name}.md")


def test_only_alarms_outside_a_composite_notify(any_stage):
    rules = str([alarm["AlarmRule"] for alarm in any_stage.properties("AWS::CloudWatch::CompositeAlarm")])
    for (_, logical_id), resource in any_stage.resources("AWS::CloudWatch::Alarm").items():
        silent = "AlarmActions" not in resource["Properties"]
        assert silent == (logical_id in rules), logical_id
    for composite in any_stage.properties("AWS::CloudWatch::CompositeAlarm"):
        assert len(composite["AlarmActions"]) == 1


def test_our_own_metrics_are_published_under_these_names(any_stage):
    ours = {
        name
        for alarm in alarms(any_stage).values()
        for namespace, name, _ in metrics(alarm)
        if namespace == any_stage.config.metrics_namespace
    }
    assert ours
    assert not [name for name in ours if f'"{name}"' not in _SOURCES]


def test_our_own_metrics_have_the_dimensions_that_are_published(any_stage):
    for alarm in alarms(any_stage).values():
        for namespace, name, dimensions in metrics(alarm):
            if namespace == any_stage.config.metrics_namespace:
                assert set(dimensions) <= {"Service", "Severity"}
                assert dimensions["Service"] in {"worker", "detection"}
                assert ("Severity" in dimensions) == (name == "IncidentsOpened")


@pytest.mark.parametrize(
    ("kind", "key", "dimension"),
    [
        ("AWS::Kinesis::Stream", "Name", "StreamName"),
        ("AWS::Lambda::Function", "FunctionName", "FunctionName"),
        ("AWS::SQS::Queue", "QueueName", "QueueName"),
        ("AWS::DynamoDB::Table", "TableName", "TableName"),
        ("AWS::Events::Rule", "Name", "RuleName"),
        ("AWS::Scheduler::ScheduleGroup", "Name", "ScheduleGroup"),
        ("AWS::KinesisFirehose::DeliveryStream", "DeliveryStreamName", "DeliveryStreamName"),
        ("AWS::KinesisAnalyticsV2::Application", "ApplicationName", "Application"),
    ],
)
def test_alarms_use_resources_of_the_stage(any_stage, kind, key, dimension):
    made = {properties.get(key) for properties in any_stage.properties(kind)}
    watched = {
        dimensions[dimension]
        for alarm in alarms(any_stage).values()
        for _, _, dimensions in metrics(alarm)
        if dimension in dimensions
    }
    assert watched <= made


@pytest.mark.parametrize("name", ["silence", "worker-down"])
def test_missing_data_raises_the_alarm(stage, name):
    alarm = alarms(stage)[name]
    assert alarm["TreatMissingData"] == "breaching"
    assert alarm["ComparisonOperator"] == "LessThanThreshold"


def test_stream_behind_fires_at_a_quarter_of_the_retention(stages):
    assert alarms(stages["prod"])["stream-behind"]["Threshold"] == 168 * 3_600_000 / 4


def test_flink_alarms_replace_those_of_the_worker(stages, variant):
    assert {"flink-down", "flink-lag", "flink-checkpoints"} <= set(alarms(variant))
    assert "worker-down" not in alarms(variant)
    assert not [name for name in alarms(stages["prod"]) if name.startswith("flink")]


def test_the_dashboard_shows_every_alarm_and_every_step_of_the_flow(stage):
    dashboard = str(stage.one("AWS::CloudWatch::Dashboard")["DashboardBody"])
    assert dashboard.count('"Arn"') + dashboard.count("'Arn'") >= len(alarms(stage))
    for name in (
        "IncomingRecords",
        "EventsRead",
        "BehindSeconds",
        "IncidentsOpened",
        "NotificationsSent",
        "IteratorAge",
    ):
        assert name in dashboard
