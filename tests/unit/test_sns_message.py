"""What SNS is given: within its limits, whatever the incidents are."""

import json

import pytest

from shopstream.detection.detection import Severity
from shopstream.notify import aws as sns
from shopstream.notify.message import Message


def message(count=1, title="[high] Too fast", **changes):
    facts = {"kind": "opened", "rule": "user_burst", "rules": ["user_burst", "user_rate"], "nature": "attack"}
    incidents = tuple({**facts, "campaign": False, "reference": f"{n}:opened", **changes} for n in range(count))
    return Message(title, "text", Severity.HIGH, "digest:1", incidents)


@pytest.mark.parametrize(
    ("title", "subject"),
    [
        ("[high] Too fast", "[high] Too fast"),
        ("two\nlines\tand more ", "two lines and more"),
        ("Bücher € \x07 \N{BOMB}", "Bcher"),
        ("\N{BOMB}", "shopstream"),
        ("x" * 300, "x" * 100),
    ],
)
def test_a_subject_is_ascii_on_one_line_and_short(title, subject):
    assert sns._subject(title) == subject


def test_people_get_text_and_programs_a_document():
    texts = json.loads(sns._texts(message()))
    assert (texts["email"], texts["email-json"], texts["sms"]) == ("text", "text", "[high] Too fast")
    assert json.loads(texts["default"])["incidents"][0]["rules"] == ["user_burst", "user_rate"]


def test_a_document_too_large_lists_the_gravest_and_says_how_many_there_are():
    texts = sns._texts(message(count=5_000, title="ü" * 200, padding='"' * 100))
    assert len(texts.encode()) < 250_000
    document = json.loads(json.loads(texts)["default"])
    assert document["count"] == 5_000
    assert [one["reference"] for one in document["incidents"][:2]] == ["0:opened", "1:opened"]
    assert 100 < len(document["incidents"]) < 5_000


def test_a_filter_finds_every_rule_of_a_digest():
    attributes = sns._attributes(message(count=2, campaign=True))
    assert json.loads(attributes["rule"]["StringValue"]) == ["user_burst", "user_rate"]
    assert attributes["campaign"]["StringValue"] == "true"
    assert attributes["count"] == {"DataType": "Number", "StringValue": "2"}


def test_a_message_about_no_incident_has_no_empty_lists():
    attributes = sns._attributes(Message("a", "b", Severity.LOW))
    assert sorted(attributes) == ["campaign", "count", "severity"]
