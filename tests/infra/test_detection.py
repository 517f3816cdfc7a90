"""The functions are set as docs/lambda.md says."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from aws_cdk import App

from shopstream_infra.config import STAGES, ConfigError
from shopstream_infra.stage import FLAGS, ShopstreamStage

_DOCS = (Path(__file__).parents[2] / "docs" / "lambda.md").read_text(encoding="utf-8")


def function(stage, name):
    (found,) = [
        f for f in stage.properties("AWS::Lambda::Function") if f.get("FunctionName") == f"{stage.config.prefix}-{name}"
    ]
    return found


@pytest.mark.parametrize(("name", "memory", "timeout"), [("detection", 1769, 120), ("ticker", 512, 50)])
def test_a_function_has_the_size_that_the_docs_name(stage, name, memory, timeout):
    made = function(stage, name)
    assert (made["MemorySize"], made["Timeout"]) == (memory, timeout)
    assert made["Architectures"] == ["arm64"]
    assert made["Handler"] == f"shopstream.lambdas.{name}.handler"
    assert f"`{made['Handler']}`" in _DOCS
    assert f"`{made['Runtime']}`" in _DOCS
    assert f"{memory} MB" in _DOCS
    assert f"{timeout} s" in _DOCS


def test_functions_get_all_settings_that_the_docs_name(stage):
    table = _DOCS[_DOCS.index("| variable (both functions)") :]
    named = set(re.findall(r"\| `([A-Z_]+)` \|", table))
    optional = {"SHOPSTREAM_AWS__BASELINES"}
    for name in ("detection", "ticker"):
        given = set(function(stage, name)["Environment"]["Variables"])
        assert named - optional <= given
        assert given <= named


def test_functions_get_the_baselines_of_the_stage(stages):
    variables = function(stages["dev"], "detection")["Environment"]["Variables"]
    assert "SHOPSTREAM_AWS__BASELINES" not in variables


def test_the_signals_stream_invokes_the_function_in_order_and_drops_nothing_early(stage):
    mapping = stage.one("AWS::Lambda::EventSourceMapping")
    assert (
        mapping.items()
        >= {
            "BatchSize": 100,
            "MaximumBatchingWindowInSeconds": 1,
            "ParallelizationFactor": 1,
            "BisectBatchOnFunctionError": True,
            "MaximumRetryAttempts": -1,
            "MaximumRecordAgeInSeconds": 86_400,
            "StartingPosition": "TRIM_HORIZON",
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
        }.items()
    )
    assert "Fn::GetAtt" in mapping["DestinationConfig"]["OnFailure"]["Destination"]
    assert "Signals" in str(mapping["EventSourceArn"])


def test_the_queue_of_failed_signals_has_the_documented_retention(stage):
    queue = stage.one("AWS::SQS::Queue")
    assert queue["MessageRetentionPeriod"] == 14 * 86_400
    assert queue["QueueName"] == f"{stage.config.prefix}-failed-signals"


def test_concurrency_is_reserved_in_prod_only(stages):
    assert function(stages["prod"], "detection")["ReservedConcurrentExecutions"] == 1
    assert "ReservedConcurrentExecutions" not in function(stages["dev"], "detection")


def test_the_ticker_runs_once_a_minute_without_retries(stage):
    (ticker,) = [s for s in stage.properties("AWS::Scheduler::Schedule") if s["Name"].endswith("-ticker")]
    assert ticker["ScheduleExpression"] == "rate(1 minute)"
    assert ticker["Target"]["RetryPolicy"]["MaximumRetryAttempts"] == 0


def test_the_error_about_a_missing_package_names_the_remedy(tmp_path):
    config = replace(STAGES["dev"], detection_zip=str(tmp_path / "none.zip"))
    with pytest.raises(ConfigError, match="run `make lambda`"):
        ShopstreamStage(App(outdir=str(tmp_path), context=FLAGS), config)
