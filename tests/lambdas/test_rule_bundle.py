"""Rule bundles hold what detections need of rules, and a changed bundle is refused."""

import json

import pytest

from shopstream.detection.rule import load_rules
from shopstream.detection.rule_matcher import detect, read_rule_bundle, write_rule_bundle
from shopstream.errors import RuleError

RULES = load_rules()


def test_bundled_rules_give_the_same_detections(moments):
    bundled = read_rule_bundle(write_rule_bundle(RULES), "rules.json")
    signals = [signal for told, _ in moments for signal in told]
    found = detect(signals, bundled)
    assert found
    assert found == detect(signals, RULES)


def test_disabled_rules_are_not_bundled():
    off = {"user_burst": RULES["user_burst"].model_copy(update={"status": "deprecated"})}
    on = {rule_id for rule_id, rule in RULES.items() if rule.enabled}
    assert read_rule_bundle(write_rule_bundle(RULES | off), "rules.json").keys() == on - off.keys()


def test_the_same_rules_give_the_same_bytes():
    assert write_rule_bundle(RULES) == write_rule_bundle(dict(reversed(RULES.items())))


def test_a_changed_bundle_is_refused():
    document = json.loads(write_rule_bundle(RULES))
    document["rules"][0]["headline"] = "All is well"
    with pytest.raises(RuleError, match="was changed by hand"):
        read_rule_bundle(json.dumps(document).encode(), "rules.json")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": 2}'])
def test_a_damaged_bundle_is_refused(content):
    with pytest.raises(RuleError, match=r"rules\.json is damaged"):
        read_rule_bundle(content, "rules.json")
