"""Notifications through SNS, read back from queues that subscribe with a filter; the outbox lies in DynamoDB."""

import json
from contextlib import closing
from datetime import timedelta

import boto3
import pytest

from conformance.test_incidents import detection
from incident_desk import Desk as IncidentDesk
from shopstream.clock import ManualClock
from shopstream.detection.detection import Severity
from shopstream.errors import RetryableError
from shopstream.incidents.aws import DynamoIncidentStore
from shopstream.incidents.settings import DynamoSettings, IncidentSettings, NotifySettings
from shopstream.notify.aws import SnsChannel
from shopstream.notify.message import Message
from shopstream.notify.sender import DeliveryReport, Sender, targets_of
from standins import faults

pytestmark = pytest.mark.aws

SETTINGS = NotifySettings(hold=timedelta(0), severity=Severity.LOW)


class Desk:
    """A topic with queues, incidents in a table, and senders of both."""

    def __init__(self, dynamo, topic):
        self.dynamo = dynamo
        self.topic = topic
        self.clock = ManualClock(1_795_000_000_000)
        self.targets = targets_of(SETTINGS, topic)
        self.store = IncidentDesk(self.open_store, None, self.clock, self.targets, SETTINGS)

    def open_store(self):
        return DynamoIncidentStore(self.dynamo, IncidentSettings().retention, self.clock)

    def sender(self):
        return Sender(self.open_store(), [SnsChannel(self.topic)], SETTINGS, self.clock)

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
        return self.store.notifications()


@pytest.fixture
def proxy(fault_proxy, moto, dynamodb_local, aws_env):
    found = fault_proxy(moto)
    aws_env(dynamodb=dynamodb_local, sns=found.url, sqs=moto)
    return found


@pytest.fixture
def desk(proxy, make_table, fresh_name):
    assert proxy.url
    topic = boto3.client("sns").create_topic(Name=fresh_name("incidents"))["TopicArn"]
    made = Desk(DynamoSettings(table=make_table(indexed=True)), topic)
    with closing(made.store):
        yield made


def test_a_notification_reaches_a_queue_as_a_document_with_attributes(desk):
    read = desk.queue()
    desk.store.apply([detection(0)], 20_000)
    with closing(desk.sender()) as sender:
        assert sender.deliver_pending() == DeliveryReport(sent=1, messages=1)
    (got,) = read()
    document = json.loads(got["Message"])
    (incident,) = document["incidents"]
    assert got["Subject"] == "[high] Too fast"
    assert (incident["rule"], incident["kind"], incident["peak"]["events"]) == ("user_burst", "opened", 20)
    assert "keys" not in incident, "a user's id is personal data"
    assert document["count"] == 1
    assert "Who: one user\n" in document["text"]
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
        assert sender.deliver_pending() == DeliveryReport(sent=3, messages=1)
    (got,) = read()
    document = json.loads(got["Message"])
    assert (got["Subject"], document["count"]) == ("[high] 3 incidents", 3)
    assert {one["rule"] for one in document["incidents"]} == {"rule_a", "rule_b", "rule_c"}


def test_of_two_senders_one_sends(desk):
    read = desk.queue()
    desk.store.apply([detection(0)], 20_000)
    with closing(desk.sender()) as first, closing(desk.sender()) as second:
        taken = first._store.pending(desk.targets[0], desk.clock.now_ms())
        assert len(taken) == 1
        assert second.deliver_pending() == DeliveryReport()
        desk.clock.advance(timedelta(minutes=2))  # the first was killed while it sent
        assert second.deliver_pending() == DeliveryReport(sent=1, messages=1)
        assert first.deliver_pending() == DeliveryReport()
    assert len(read()) == 1


def test_a_lone_sender_hears_of_what_is_queued_later(desk):
    with closing(desk.sender()) as sender:
        assert sender.deliver_pending() == DeliveryReport()
        desk.store.apply([detection(0)], 20_000)
        assert sender.deliver_pending() == DeliveryReport(sent=1, messages=1)
    assert desk.store.apply([detection(0)], 20_000) == []


@pytest.mark.parametrize("fault", [faults.denied(), faults.throttled(), faults.failing()])
def test_a_failure_waits_and_is_tried_again(desk, proxy, fault):
    read = desk.queue()
    proxy.on("Publish", fault, times=5)
    desk.store.apply([detection(0)], 20_000)
    with closing(desk.sender()) as sender:
        assert sender.deliver_pending() == DeliveryReport(retried=1)
        (waiting,) = desk.told()
        assert (waiting.state, waiting.attempts) == ("pending", 1)
        assert desk.topic not in waiting.error
        proxy.clear()
        desk.clock.advance(timedelta(minutes=1))
        assert sender.deliver_pending() == DeliveryReport(sent=1, messages=1)
    assert len(read()) == 1


def test_what_was_given_up_is_tried_again_when_a_person_says_so(desk, proxy):
    proxy.on("Publish", faults.denied(), times=None)
    desk.store.apply([detection(0)], 20_000)
    with closing(desk.sender()) as sender:
        for _ in range(SETTINGS.attempts):
            sender.deliver_pending()
            desk.clock.advance(timedelta(hours=1))
        assert desk.told()[0].state == "failed"
        proxy.clear()
        assert desk.store.retry_failed(desk.clock.now_ms()) == 1
        assert sender.deliver_pending() == DeliveryReport(sent=1, messages=1)


def test_a_missing_topic_is_a_failure_to_retry(desk):
    channel = SnsChannel(f"{desk.topic}-gone")
    with pytest.raises(RetryableError, match=f"not delivered to {channel.target}"):
        channel.send(Message("a", "b", Severity.LOW))
