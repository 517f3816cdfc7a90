"""What goes wrong between the incident store and DynamoDB: clear errors, nothing lost, nothing twice."""

import secrets
from datetime import timedelta

import boto3
import pytest
from boto3.dynamodb.conditions import Key

from conformance.test_incidents import detection
from incident_desk import Desk
from shopstream.aws.clients import dynamodb_client, query_all
from shopstream.clock import ManualClock, SystemClock
from shopstream.errors import BackpressureError, ConfigurationError, RetryableError, StateError
from shopstream.incidents.aws import DynamoIncidentStore, ItemTooLargeError
from shopstream.incidents.incident import Change, State, TriageStatus
from shopstream.incidents.settings import DynamoSettings, IncidentSettings, NotifySettings
from shopstream.incidents.verdicts import read_verdicts
from standins import faults

pytestmark = pytest.mark.aws

SETTINGS, NOTIFY = IncidentSettings(), NotifySettings(hold=timedelta(0))
QUICK = SystemClock()


@pytest.fixture
def proxy(fault_proxy, dynamodb_local, aws_env):
    found = fault_proxy(dynamodb_local)
    aws_env(dynamodb=found.url)
    return found


@pytest.fixture
def dynamo(proxy, make_table):
    assert proxy.url
    return DynamoSettings(table=make_table(indexed=True))


@pytest.fixture
def open_desk(dynamo):
    opened = []

    def make(clock=QUICK, targets=("sns-a",)):
        opened.append(
            Desk(lambda: DynamoIncidentStore(dynamo, SETTINGS.retention, clock), SETTINGS, clock, targets, NOTIFY)
        )
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def desk(open_desk):
    return open_desk()


@pytest.fixture
def now(dynamo):
    """Incidents as a reader finds them."""
    return lambda clock=QUICK: DynamoIncidentStore(dynamo, SETTINGS.retention, clock).list()


def test_a_throttled_write_is_backpressure_and_comes_again(proxy, desk, now):
    proxy.on("UpdateItem", faults.throttled(), times=5)
    with pytest.raises(BackpressureError, match="throttles"):
        desk.apply([detection(0)], 20_000)
    assert now() == []
    proxy.clear()
    desk.restart()
    assert [one.change for one in desk.apply([detection(0)], 20_000)] == [Change.OPENED]
    assert len(now()) == 1


def test_a_short_throttling_is_waited_for(proxy, desk, now):
    proxy.on("UpdateItem", faults.throttled(), times=2)
    desk.apply([detection(0)], 20_000)
    assert len(now()) == 1


@pytest.mark.parametrize("operation", ["PutItem", "UpdateItem", "BatchWriteItem"])
def test_a_lost_answer_writes_once(proxy, desk, now, operation):
    proxy.on(operation, faults.lost_answer())
    assert [one.change for one in desk.apply([detection(0)], 20_000)] == [Change.OPENED]
    (incident,) = now()
    assert (incident.windows, incident.notifications, len(desk.notifications())) == (1, 1, 1)


def test_when_all_answers_are_lost_the_repetition_finds_it_done(proxy, desk, now):
    proxy.on("UpdateItem", faults.lost_answer(), times=5)
    with pytest.raises(RetryableError, match="cannot be reached"):
        desk.apply([detection(0)], 20_000)
    desk.restart()
    desk.apply([detection(0)], 20_000)
    (incident,) = now()
    assert (incident.windows, incident.notifications, len(desk.notifications())) == (1, 1, 1)


@pytest.mark.parametrize("operation", ["PutItem", "UpdateItem", "BatchWriteItem"])
def test_a_put_that_breaks_anywhere_is_whole_after_it_comes_again(proxy, desk, now, operation):
    desk.apply([detection(0, user=user) for user in range(3)], 0)
    desk.commit()
    more = [detection(1_000, user=user) for user in range(9)]
    proxy.on(operation, faults.failing(), times=60)
    with pytest.raises(RetryableError):
        desk.apply(more, 1_000)
    proxy.clear()
    desk.restart()
    desk.apply(more, 1_000)
    (campaign,) = now()
    assert (campaign.episodes, len(campaign.actors), campaign.windows) == (9, 9, 12)


def test_a_person_in_between_loses_nothing(desk, open_desk, now):
    (opened,) = desk.apply([detection(0)], 0)
    open_desk().set_status(opened.incident_id, TriageStatus.ACKNOWLEDGED, comment="mine")
    desk.apply([detection(1_000)], 0)
    (incident,) = now()
    assert (incident.state, incident.comment, incident.windows) == (State.ACKNOWLEDGED, "mine", 2)


def test_parts_of_a_batch_that_are_put_off_are_read_and_written_again(proxy, desk, now):
    proxy.on("BatchWriteItem", faults.partly(), times=3)
    desk.apply([detection(0, user=user) for user in range(60)], 0)
    assert proxy.count("BatchWriteItem") > 3
    assert now()[0].episodes == 60


def test_a_missing_permission_says_which(proxy, desk, now):
    proxy.on("UpdateItem", faults.denied(), times=None)
    with pytest.raises(ConfigurationError, match=r"dynamodb:UpdateItem.*grant"):
        desk.apply([detection(0)], 0)
    assert now() == [], "reading needs no right to write"


def test_a_wrong_clock_of_the_machine_is_named(proxy, desk):
    proxy.on(None, faults.skewed(), times=None)
    with pytest.raises(ConfigurationError, match="clock of this machine"):
        desk.apply([detection(0)], 0)


def test_a_clock_that_goes_wrong_by_a_day_hides_nothing(open_desk, now):
    open_desk(ManualClock(QUICK.now_ms() - 86_400_000)).apply([detection(0)], 200_000)
    assert len(now(ManualClock(QUICK.now_ms() + 86_400_000))) == 1


def test_what_has_expired_is_not_read_though_the_table_still_has_it(desk, now):
    desk.apply([detection(0)], 200_000)
    later = ManualClock(QUICK.now_ms() + (SETTINGS.retention + timedelta(days=1)) // timedelta(milliseconds=1))
    assert now(later) == []


def test_a_missing_table_says_its_name(aws_env, dynamodb_local):
    aws_env(dynamodb=dynamodb_local)
    with pytest.raises(StateError, match="table nowhere"):
        DynamoIncidentStore(DynamoSettings(table="nowhere"), SETTINGS.retention, QUICK).list()


def test_a_table_of_another_format_is_refused(desk, dynamo):
    desk.apply([detection(0)], 0)
    item = {"pk": {"S": "PROGRESS"}, "sk": {"S": "PROGRESS"}, "format": {"N": "9"}, "as_of_ms": {"N": "0"}}
    boto3.client("dynamodb").put_item(TableName=dynamo.table, Item=item)
    with pytest.raises(StateError, match=r"format 1 in table .* got 9"):
        desk.restart()


def test_open_incidents_and_notifications_due_are_listed_by_the_index(desk, dynamo):
    desk.apply([detection(0), detection(400_000, user=8)], 100_000)

    def indexed(key):
        where = {"TableName": dynamo.table, "IndexName": "gsi1", "KeyConditionExpression": Key("gsi1pk").eq(key)}
        return query_all(dynamodb_client(), "to read", **where)

    (still_open,) = indexed("HEADS#ONGOING")
    assert (still_open["status"], still_open["severity"], still_open["rules"]) == ("none", "high", ["user_burst"])
    assert len(indexed("HEADS#OVER")) == 1
    assert len(indexed("DUE#sns-a")) == len(desk.notifications()) >= 1


def test_the_edge_asks_for_one_actor_and_hears_what_people_said(desk, dynamo):
    def known(kind, actor):
        where = {"TableName": dynamo.table, "KeyConditionExpression": Key("pk").eq(f"VERDICT#{kind}#{actor}")}
        return sorted(query_all(dynamodb_client(), "to read", **where), key=lambda item: -item["until_ms"])

    desk.apply([detection(0, verdict="bot"), detection(0, user=8, verdict="bot", tags=("owasp.oat-001",))], 0)
    desk.apply([detection(300_000, verdict="bot")], 300_000)
    newest, oldest = known("user_id", "7")
    assert (newest["verdict"], newest["rule"], newest["until_ms"]) == ("bot", "user_burst", 309_901)
    desk.set_status(oldest["incident_id"], TriageStatus.FALSE_POSITIVE, comment="a test of ours")
    assert [one["verdict"] for one in known("user_id", "7")] == ["bot", "human"]
    assert known("user_id", "none") == []
    told = {(row["actor"], row["verdict"], row["from_time"].isoformat()) for row in read_verdicts(desk).to_pylist()}
    assert told == {(actor, one["verdict"], one["from_time"]) for actor in "78" for one in known("user_id", actor)}


def test_an_incident_of_many_windows_fits_into_an_item(desk, now):
    evidence = {"composition": {f"brand {number}": [number, 0.5] for number in range(30_000)}}
    desk.apply([detection(0, evidence=evidence)], 20_000)
    assert now()[0].evidence == evidence


def test_an_actor_with_an_endless_name_is_an_actor_like_any_other(desk, now):
    agent = "Mozilla/5.0 é " * 1_000
    desk.apply([detection(0, key={"user_agent": agent}, key_kind="user_agent", verdict="bot")], 20_000)
    assert now()[0].keys == {"user_agent": agent}
    (verdict,) = read_verdicts(desk).to_pylist()
    assert (verdict["verdict"], verdict["actor"]) == ("bot", agent)


@pytest.mark.parametrize("others", [0, 40])
def test_an_incident_that_is_too_large_for_an_item_is_refused_alone(desk, now, others):
    noise = secrets.token_hex(450_000)  # compression halves it
    large = detection(0, user=4711, evidence={"seen": noise})
    with pytest.raises(ItemTooLargeError, match=r"of incident [0-9a-f]{16}-1 has \d{6}; ") as refused:
        desk.apply([large, *(detection(0, user=user) for user in range(others))], 20_000)
    assert "4711" not in str(refused.value)
    assert now() == []
    desk.restart()
    assert [one.change for one in desk.apply([detection(0)], 20_000)] == [Change.OPENED]
    assert len(now()) == 1


def test_a_table_of_thousands_of_ids_remembers_each_write(desk, dynamo):
    desk.apply([detection(0)], 0)
    items = boto3.client("dynamodb").scan(TableName=dynamo.table)["Items"]
    assert sorted(item["pk"]["S"].partition("#")[0] for item in items) == [
        *("HEAD", "INCIDENT", "OUTBOX", "PROGRESS", "SCOPE", "WRITES"),
    ]
