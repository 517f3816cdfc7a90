"""Variables of containers and functions are settings that docs/configuration.md knows."""

import re
import shlex
from pathlib import Path

import pytest

_DOCS = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
_KNOWN = set(re.findall(r"`(SHOPSTREAM_[A-Z0-9_]+)` \|", _DOCS))


def environments(stage):
    for function in stage.properties("AWS::Lambda::Function"):
        if "FunctionName" in function:
            yield function["FunctionName"], function["Environment"]["Variables"]
    for task in stage.properties("AWS::ECS::TaskDefinition"):
        for container in task["ContainerDefinitions"]:
            yield container["Name"], {one["Name"]: one["Value"] for one in container["Environment"]}


def test_each_variable_is_a_setting(stage):
    for place, variables in environments(stage):
        unknown = {name for name in variables if name.startswith("SHOPSTREAM_")} - _KNOWN
        assert not unknown, f"{place}: {unknown}"


_CHOSEN_ELSEWHERE = {
    "SHOPSTREAM_AWS__BASELINES",  # where the stage has some
    "SHOPSTREAM_AWS__FAILED_SIGNALS",  # the functions'
}


def test_workers_get_every_name_and_place_of_the_aws_profile(stage):
    rows = re.findall(r"`(SHOPSTREAM_AWS__[A-Z_]+)` \| (\S+) \|", _DOCS)
    names = {name for name, default in rows if default == "none" or default.startswith("`shopstream")}
    assert names - set(dict(environments(stage))["engine"]) == _CHOSEN_ELSEWHERE


def test_all_work_in_the_aws_profile_on_names_of_the_stage(stage):
    for _, variables in environments(stage):
        assert variables["SHOPSTREAM_PROFILE"] == "aws"
        assert variables["SHOPSTREAM_AWS__METRICS"] == stage.config.prefix


@pytest.mark.parametrize(
    "name", ["SHOPSTREAM_PROFILE", "SHOPSTREAM_AWS__GLUE__WAREHOUSE", "SHOPSTREAM_AWS__KINESIS__EVENTS"]
)
def test_the_stack_outputs_the_settings_for_people(stage, name):
    value = str(stage.templates["data"]["Outputs"]["Settings"]["Value"])
    assert f"{name}=" in value


def test_the_output_omits_the_home_of_containers(stage):
    assert "SHOPSTREAM_HOME" not in str(stage.templates["data"]["Outputs"]["Settings"])


def test_settings_of_the_program_reach_containers_functions_and_people(variant):
    settings = variant.config.settings
    for place, variables in environments(variant):
        assert settings.items() <= variables.items(), place
    parts = variant.templates["data"]["Outputs"]["Settings"]["Value"]["Fn::Join"][1]
    told = "".join(part if isinstance(part, str) else "NAME" for part in parts)
    read = dict(one.split("=", 1) for one in shlex.split(told))
    assert settings.items() <= read.items()


def test_a_stage_may_set_what_is_a_setting(variant):
    assert set(variant.config.settings) <= _KNOWN
