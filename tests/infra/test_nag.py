"""cdk-nag's AwsSolutions: nothing is found that is not accepted, and nothing accepted that is not found."""

import re

import pytest

_LEAST_WORDS = 4


def accepted(stage):
    """(stack, logical id, suppression) of each suppression in the templates."""
    for (stack, name), resource in stage.resources().items():
        for rule in resource.get("Metadata", {}).get("cdk_nag", {}).get("rules_to_suppress", []):
            yield stack, name, rule


def test_no_finding_is_left(any_stage):
    assert [message for message in any_stage.messages if message[0] in {"ERROR", "WARNING"}] == []


def test_each_suppression_has_a_reason(any_stage):
    for _, name, rule in accepted(any_stage):
        assert len(rule["reason"].split()) >= _LEAST_WORDS, f"{name} suppresses {rule['id']} without a reason"


def found(stage):
    """(rule, finding, text) of each finding that is accepted."""
    for _, _, text in stage.messages:
        if told := re.match(r"CdkNagSuppression(?:\[(.*?)\])?: (\S+) was triggered", text):
            yield told[2], told[1] or "", text


def test_each_suppression_suppresses_something(any_stage):
    for _, name, rule in accepted(any_stage):
        fitting = [finding for told, finding, text in found(any_stage) if told == rule["id"] and rule["reason"] in text]
        assert fitting, f"{name} suppresses {rule['id']}, which is not found: delete it"
        for wanted in rule.get("applies_to", []):
            pattern = wanted["regex"].strip("/") if isinstance(wanted, dict) else re.escape(wanted)
            assert any(re.search(pattern, finding) for finding in fitting), (
                f"{name} accepts {wanted}, which is not found"
            )


def test_rights_on_everything_are_accepted_one_by_one(any_stage):
    named = {
        wanted for *_, rule in accepted(any_stage) for wanted in rule.get("applies_to", []) if isinstance(wanted, str)
    }
    wild = {finding for _, finding, _ in found(any_stage) if finding == "Resource::*" or finding.startswith("Action::")}
    assert wild <= named


@pytest.mark.parametrize("word", ["todo", "temporary", "legacy"])
def test_no_suppression_is_postponed(any_stage, word):
    assert all(word not in rule["reason"].lower() for _, _, rule in accepted(any_stage))
