"""Rules as data: what is packed is what judging needs, and nobody changes it afterwards."""

import json

import pytest

from shopstream.detection.loader import load_rules
from shopstream.detection.rule_bundle import pack_rules, unpack_rules
from shopstream.detection.rule_matcher import detect
from shopstream.errors import RuleError

RULES = load_rules()


def test_detections_of_packed_rules_are_those_of_the_rules(moments):
    packed = unpack_rules(pack_rules(RULES), "rules.json")
    signals = [signal for told, _ in moments for signal in told]
    found = detect(signals, packed)
    assert found
    assert found == detect(signals, RULES)


def test_rules_that_are_switched_off_are_not_packed():
    off = {"user_burst": RULES["user_burst"].model_copy(update={"status": "deprecated"})}
    on = {rule_id for rule_id, rule in RULES.items() if rule.enabled}
    assert unpack_rules(pack_rules(RULES | off), "rules.json").keys() == on - off.keys()


def test_the_same_rules_give_the_same_bytes():
    assert pack_rules(RULES) == pack_rules(dict(reversed(RULES.items())))


def test_a_pack_that_was_changed_is_refused():
    document = json.loads(pack_rules(RULES))
    document["rules"][0]["title"] = "All is well"
    with pytest.raises(RuleError, match="was changed after"):
        unpack_rules(json.dumps(document).encode(), "rules.json")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": 1}'])
def test_what_is_no_pack_is_refused(content):
    with pytest.raises(RuleError, match=r"rules\.json is damaged"):
        unpack_rules(content, "rules.json")
