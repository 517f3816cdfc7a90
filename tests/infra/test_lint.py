"""cfn-lint finds nothing in any template, nor does the CDK's own validation."""

import json

import pytest
from cfnlint.api import lint_file
from cfnlint.config import ManualArgs

# W3005: the library says twice that a function waits for its role; harmless, and not ours.
_LINT = ManualArgs(ignore_checks=["W3005"])
_STACKS = ("data", "network", "analytics", "service", "watch")


@pytest.mark.parametrize("stack", _STACKS)
def test_cfn_lint_finds_nothing(any_stage, stack):
    assert [str(match) for match in lint_file(any_stage.files[stack], config=_LINT)] == []


def test_each_template_is_small_enough(any_stage):
    for stack, template in any_stage.templates.items():
        assert len(template["Resources"]) < 400, f"{stack}: CloudFormation takes 500"
        assert len(json.dumps(template)) < 900_000, f"{stack}: CloudFormation takes 1 MB"
