"""Notifications through SNS, read back from queues that subscribe with a filter; the outbox lies in DynamoDB."""

import json
from contextlib import closing
from datetime import timedelta

import boto3
import pytest

from conformance.test_incidents import detection
from shopstream.clock import ManualClock
from shopstream.detection.detection import Severity
from shopstream.errors import RetryableError
from shopstream.incidents.aws import DynamoIncidentStore, SnsChannel, open_dynamo_sender, pull_incidents, retry_failed
from shopstream.incidents.settings import AlertingSettings, DynamoSettings
from shopstream.notify.message import Message
from shopstream.notify.outbox import read_notifications
from shopstream.notify.sender import Delivery, targets_of
from standins import faults

pytestmark = pytest.mark.aws

SETTINGS = AlertingSettings(notify_hold=timedelta(0), notify_severity=Severity.LOW)


class Desk:
    """A topic with queues, incidents in a table, and senders of both."""

    def __init__(self, dynamo, topic, folder):
        self.dynamo = dynamo
        self.topic = topic
        self.folder = folder
        self.clock = ManualClock(1_795_000_000_000)
        self.targets = targets_of(SETTINGS, topic)
        self.store = self.open_store("a.db")

    def open_store(self, name):
        copy = self.folder / name
        return DynamoIncidentStore(SETTINGS, self.dynamo, self.clock, self.targets, working_copy=copy)

    def sender(self):
        return self.store.sender([SnsChannel(self.topic)])

    def lone_sender(self, name):
        channels = [SnsChannel(self.topic)]
        return open_dynamo_sender(SETTINGS, self.dynamo, self.clock, channels, working_copy=self.folder / name)

    def queue(self, policy=None):
        """Subscribes a queue to the topic; returns what reads it."""
        sqs = boto3.client("sqs")
        url = sqs.create_queue(QueueName=f"q-{self.topic.rpartition(':')[2]}-{len(json.dumps(policy))}")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        attributes = {"FilterPolicy": json.dumps(policy)} if policy else {}
        boto3.client("sns").subscribe(TopicArn=self.topic, Protocol="sqs", Endpoint=arn, Attributes=attributes)

        def read():
            got = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
            for one in got:
                sqs.delete_message(QueueUrl=url, ReceiptHandle=one["ReceiptHandle"])
            return [json.loads(one["Body"]) for one in got]

        return read

    def told(self):
        pull_incidents(SETTINGS, self.dynamo, self.clock, self.folder / "reader.db")
        return read_notifications(self.folder / "reader.db")


@pytest.fixture
def proxy(fault_proxy, moto, dynamodb_local, aws_env):
    found = fault_proxy(moto)
    aws_env(dynamodb=dynamodb_local, sns=found.url, sqs=moto)
    return found


@pytest.fixture
def desk(proxy, make_table, fresh_name, tmp_path):
    assert proxy.url
    topic = boto3.client("sns").create_topic(Name=fresh_name("incidents"))["TopicArn"]
    made = Desk(DynamoSettings(table=make_table(indexed=True)), topic, tmp_path)
    with closing(made.store):
        yield made


def test_a_notification_reaches_a_queue_as_a_document_with_attributes(desk):
    read = desk.queue()
    desk.store.apply([detection(0)], 20_000)
    with closing(desk.sender()) as sender:
        assert sender.deliver_pending() == Delivery(sent=1, messages=1)
    (got,) = read()
    document = json.loads(got["Message"])
    (incident,) = document["incidents"]
    assert got["Subject"] == "[high] Too fast"
    assert (incident["rule"], incident["kind"], incident["peak"]["events"]) == ("user_burst", "opened", 20)
    assert "keys" not in incident, "a user's id is personal data"
    assert document["count"] == 1
    assert document["text"].startswith("Rule user_burst, one user_id: events > 15")
    assert {name: one["Value"] for name, one in got["MessageAttributes"].items()} == {
        "severity": "high",
        "count": "1",
        "campaign": "false",
        "kind": '["opened"]',
        "rule": '["user_burst"]',
        "nature": '["attack"]',
    }
    (told,) = desk.told()
    assert (told.target, told.state, told.attempts) == (desk.targets[0], "sent", 1)
    assert desk.targets[0].startswith("sns-")


def test_subscribers_filter_by_severity_and_rule(desk):
    critical = desk.queue({"severity": ["critical"]})
    carding = desk.queue({"rule": ["card_testing"], "nature": ["attack"]})
    with closing(desk.sender()) as sender:
        desk.store.apply([detection(0, rule="card_testing", tags=("owasp.oat-001",))], 20_000)
        sender.deliver_pending()
        desk.clock.advance(timedelta(minutes=11))
        desk.store.apply([detection(300_000, user=9, severity=Severity.CRITICAL)], 320_000)
        assert sender.deliver_pending().messages == 1
    assert [json.loads(one["Message"])["severity"] for one in critical()] == ["critical"]
    assert [json.loads(one["Message"])["incidents"][0]["rule"] for one in carding()] == ["card_testing"]


def test_what_gathers_in_the_interval_is_one_digest_that_every_filter_sees(desk):
    read = desk.queue({"rule": ["rule_b"]})
    desk.store.apply(
        [detection(0, rule=f"rule_{name}", user=name, tags=(f"owasp.oat-00{n}",)) for n, name in enumerate("abc")],
        20_000,
    )
    with closing(desk.sender()) as sender:
        assert sender.deliver_pending() == Delivery(sent=3, messages=1)
    (got,) = read()
    document = json.loads(got["Message"])
    assert (got["Subject"], document["count"]) == ("[high] 3 incidents", 3)
    assert {one["rule"] for one in document["incidents"]} == {"rule_a", "rule_b", "rule_c"}


def test_of_two_senders_one_tells(desk):
    read = desk.queue()
    desk.store.apply([detection(0)], 20_000)
    with closing(desk.lone_sender("b.db")) as first, closing(desk.lone_sender("c.db")) as second:
        taken = first._outbox.due(desk.targets[0], desk.clock.now_ms())
        assert len(taken) == 1
        assert second.deliver_pending() == Delivery()
        desk.clock.advance(timedelta(minutes=2))  # the first was killed while it sent
        assert second.deliver_pending() == Delivery(sent=1, messages=1)
        assert first.deliver_pending() == Delivery()
    assert len(read()) == 1


def test_a_lone_sender_hears_of_what_is_queued_later(desk):
    with closing(desk.lone_sender("b.db")) as sender:
        assert sender.deliver_pending() == Delivery()
        desk.store.apply([detection(0)], 20_000)
        assert sender.deliver_pending() == Delivery(sent=1, messages=1)
    assert desk.store.apply([detection(0)], 20_000) == []


@pytest.mark.parametrize("fault", [faults.denied(), faults.throttled(), faults.failing()])
def test_a_failure_waits_and_is_tried_again(desk, proxy, fault):
    read = desk.queue()
    proxy.on("Publish", fault, times=5)
    desk.store.apply([detection(0)], 20_000)
    with closing(desk.sender()) as sender:
        assert sender.deliver_pending() == Delivery(retried=1)
        (waiting,) = desk.told()
        assert (waiting.state, waiting.attempts) == ("pending", 1)
        assert desk.topic not in waiting.error
        proxy.clear()
        desk.clock.advance(timedelta(minutes=1))
        assert sender.deliver_pending() == Delivery(sent=1, messages=1)
    assert len(read()) == 1


def test_what_was_given_up_is_tried_again_when_a_person_says_so(desk, proxy):
    proxy.on("Publish", faults.denied(), times=None)
    desk.store.apply([detection(0)], 20_000)
    with closing(desk.sender()) as sender:
        for _ in range(SETTINGS.notify_attempts):
            sender.deliver_pending()
            desk.clock.advance(timedelta(hours=1))
        assert desk.told()[0].state == "failed"
        proxy.clear()
        assert retry_failed(SETTINGS, desk.dynamo, desk.clock, desk.folder / "person.db") == 1
        desk.store.refresh()
        assert sender.deliver_pending() == Delivery(sent=1, messages=1)


def test_a_missing_topic_is_a_failure_to_retry(desk):
    channel = SnsChannel(f"{desk.topic}-gone")
    with pytest.raises(RetryableError, match=f"not delivered to {channel.target}"):
        channel.send(Message("a", "b", Severity.LOW))
