"""What goes wrong between the incident store and DynamoDB: clear errors, nothing lost, nothing twice."""

import json
import secrets
from contextlib import closing
from datetime import timedelta

import boto3
import pytest

from conformance.test_incidents import detection
from shopstream.clock import ManualClock, SystemClock
from shopstream.detection.detection import Severity
from shopstream.errors import BackpressureError, ConfigurationError, RetryableError, StateError
from shopstream.incidents.aws import DynamoIncidentStore, DynamoTable, pull_incidents, verdicts_of
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.incidents.incident import Change, State
from shopstream.incidents.item import ItemTooLargeError
from shopstream.incidents.queries import read_incidents
from shopstream.incidents.settings import AlertingSettings, DynamoSettings
from shopstream.incidents.verdicts import read_verdicts
from shopstream.notify.outbox import read_notifications
from standins import faults

pytestmark = pytest.mark.aws

SETTINGS = AlertingSettings(notify_hold=timedelta(0))
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
def open_store(dynamo, tmp_path):
    opened = []

    def make(clock=QUICK, targets=("sns-a",)):
        copy = tmp_path / f"{len(opened)}.db"
        opened.append(DynamoIncidentStore(SETTINGS, dynamo, clock, targets, working_copy=copy))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def table(dynamo):
    return DynamoTable(dynamo.table, QUICK)


@pytest.fixture
def now(dynamo, tmp_path):
    """Incidents as a reader finds them."""

    def read(clock=QUICK, name="reader.db"):
        pull_incidents(SETTINGS, dynamo, clock, tmp_path / name)
        return read_incidents(tmp_path / name)

    return read


def cancelled(code):
    """The transaction is cancelled because of its first part."""

    def fault(call, _):
        answer = call.error("TransactionCanceledException", f"Transaction cancelled [{code}]", 400)
        reasons = [{"Code": code, "Message": "why"}, {"Code": "None"}]
        return answer.with_json(json.loads(answer.body) | {"CancellationReasons": reasons})

    return fault


@pytest.mark.parametrize("fault", [faults.throttled(), cancelled("ThrottlingError")])
def test_a_throttled_write_is_backpressure_and_leaves_nothing(proxy, open_store, now, fault):
    store = open_store()
    proxy.on("TransactWriteItems", fault, times=5)
    with pytest.raises(BackpressureError, match="throttles"):
        store.apply([detection(0)], 20_000)
    assert now() == []
    proxy.clear()
    assert [one.change for one in store.apply([detection(0)], 20_000)] == [Change.OPENED]
    assert len(now()) == 1


def test_a_short_throttling_is_waited_for(proxy, open_store, now):
    store = open_store()
    proxy.on("TransactWriteItems", faults.throttled(), times=2)
    store.apply([detection(0)], 20_000)
    assert len(now()) == 1


def test_a_lost_answer_writes_once(proxy, open_store, now, table):
    store = open_store()
    proxy.on("TransactWriteItems", faults.lost_answer())
    assert [one.change for one in store.apply([detection(0)], 20_000)] == [Change.OPENED]
    assert len(list(table.query("LOG"))) == 1
    assert len(now()) == 1


def test_when_all_answers_are_lost_the_repetition_finds_it_done(proxy, open_store, now):
    store = open_store()
    proxy.on("TransactWriteItems", faults.lost_answer(), times=5)
    with pytest.raises(RetryableError, match="cannot be reached"):
        store.apply([detection(0)], 20_000)
    assert store.apply([detection(0)], 20_000) == []
    (incident,) = now()
    assert (incident.windows, incident.notifications) == (1, 1)


@pytest.mark.parametrize("fault", [cancelled("TransactionConflict"), faults.error("TransactionConflictException", "")])
def test_a_conflict_of_transactions_is_tried_again(proxy, open_store, now, fault):
    store = open_store()
    proxy.on("TransactWriteItems", fault, times=2)
    store.apply([detection(0)], 20_000)
    assert len(now()) == 1


def test_a_person_in_between_costs_one_repetition_and_loses_nothing(proxy, open_store, now):
    store, person = open_store(), open_store()
    (opened,) = store.apply([detection(0)], 0)
    person.acknowledge(opened.incident_id, "mine")
    before = proxy.count("TransactWriteItems")
    store.apply([detection(1_000)], 0)
    assert proxy.count("TransactWriteItems") == before + 2
    (incident,) = now()
    assert (incident.state, incident.comment, incident.windows) == (State.ACKNOWLEDGED, "mine", 2)


def test_what_a_person_resolved_in_between_tells_nobody(open_store, now):
    held = open_store(ManualClock(1_795_000_000_000))
    (opened,) = held.apply([detection(0, severity=Severity.MEDIUM)], 20_000)
    open_store().resolve(opened.incident_id)
    held.apply([detection(1_000, severity=Severity.CRITICAL)], 20_000)
    (incident,) = now()
    assert (incident.severity, incident.notifications) == (Severity.CRITICAL, 0)


def test_parts_of_a_batch_that_are_put_off_are_read_and_written_again(proxy, open_store, now):
    store = open_store()
    proxy.on("BatchWriteItem", faults.partly(), times=3)
    store.apply([detection(0, user=user) for user in range(60)], 0)
    assert proxy.count("BatchWriteItem") > 0
    assert now()[0].episodes == 60


def test_a_missing_permission_says_which(proxy, open_store, now):
    store = open_store()
    proxy.on("TransactWriteItems", faults.denied(), times=None)
    with pytest.raises(ConfigurationError, match=r"dynamodb:TransactWriteItems.*grant"):
        store.apply([detection(0)], 0)
    assert now() == [], "reading needs no right to write"


def test_a_wrong_clock_of_the_machine_is_named(proxy, open_store):
    store = open_store()
    proxy.on(None, faults.skewed(), times=None)
    with pytest.raises(ConfigurationError, match="clock of this machine"):
        store.apply([detection(0)], 0)


def test_a_clock_that_goes_wrong_by_a_day_hides_nothing(open_store, now):
    open_store(ManualClock(QUICK.now_ms() - 86_400_000)).apply([detection(0)], 200_000)
    assert len(now(ManualClock(QUICK.now_ms() + 86_400_000))) == 1


def test_what_has_expired_is_not_read_though_the_table_still_has_it(open_store, now):
    open_store().apply([detection(0)], 200_000)
    later = ManualClock(QUICK.now_ms() + (SETTINGS.retention + timedelta(days=1)) // timedelta(milliseconds=1))
    assert now(later) == []


def test_a_missing_table_says_its_name(aws_env, dynamodb_local, tmp_path):
    aws_env(dynamodb=dynamodb_local)
    with pytest.raises(StateError, match="table nowhere"):
        pull_incidents(SETTINGS, DynamoSettings(table="nowhere"), QUICK, tmp_path / "copy.db")


def test_a_file_with_incidents_of_its_own_is_left_alone(dynamo, tmp_path):
    with closing(EmbeddedIncidentStore(tmp_path / "own.db", SETTINGS, QUICK)) as own:
        own.apply([detection(0)], 0)
    with pytest.raises(StateError, match="incidents of its own"):
        pull_incidents(SETTINGS, dynamo, QUICK, tmp_path / "own.db")
    assert len(read_incidents(tmp_path / "own.db")) == 1


def test_a_copy_of_another_table_begins_anew(open_store, dynamo, make_table, tmp_path):
    open_store().apply([detection(0)], 0)
    pull_incidents(SETTINGS, dynamo, QUICK, tmp_path / "copy.db")
    other = DynamoSettings(table=make_table(indexed=True))
    DynamoIncidentStore(SETTINGS, other, QUICK, working_copy=tmp_path / "copy.db").close()
    assert read_incidents(tmp_path / "copy.db") == []


def test_a_copy_that_is_older_than_the_ledger_reads_all_again(open_store, now, table):
    store = open_store()
    store.apply([detection(0)], 0)
    assert len(now()) == 1
    store.apply([detection(200_000)], 200_000)
    store.apply([detection(1_000, user=8)], 200_000)
    client = boto3.client("dynamodb")
    for entry in list(table.query("LOG")):
        client.delete_item(TableName=table._name, Key={"pk": {"S": "LOG"}, "sk": {"S": entry["sk"]}})
    assert now() == now(name="new.db")
    assert len(now()) == 3
    assert open_store().apply([detection(200_000)], 200_000) == []


def test_the_edge_asks_for_one_actor_and_hears_what_people_said(open_store, table, dynamo, tmp_path):
    store = open_store()
    store.apply([detection(0, verdict="bot"), detection(0, user=8, verdict="bot", tags=("owasp.oat-001",))], 0)
    store.apply([detection(300_000, verdict="bot")], 300_000)
    newest, oldest = verdicts_of(table, "user_id", "7")
    assert (newest["verdict"], newest["rule"], newest["until_ms"]) == ("bot", "user_burst", 309_901)
    store.mark_false_positive(str(oldest["incident"]), "a test of ours")
    assert [one["verdict"] for one in verdicts_of(table, "user_id", "7")] == ["bot", "human"]
    assert verdicts_of(table, "user_id", "none") == []
    pull_incidents(SETTINGS, dynamo, QUICK, tmp_path / "reader.db")
    told = {
        (row["actor"], row["verdict"], row["from_time"].isoformat(timespec="milliseconds"))
        for row in read_verdicts(tmp_path / "reader.db").to_pylist()
    }
    assert told == {
        (actor, one["verdict"], one["from_time"]) for actor in "78" for one in verdicts_of(table, "user_id", actor)
    }


def test_open_incidents_are_listed_by_the_index(open_store, table):
    store = open_store()
    store.apply([detection(0), detection(400_000, user=8)], 100_000)
    key = next(table.indexed("INCIDENTS#OPEN"))
    item = table.get([key])[key]
    assert (item["rule"], item["state"], item["title"]) == ("user_burst", "open", "Too fast")
    assert len(list(table.indexed("INCIDENTS#1970-01"))) == 1
    assert read_notifications(store._replica.path)[0].target == "sns-a"
    assert len(list(table.indexed("DUE#sns-a"))) == 1


def test_an_incident_of_many_windows_fits_into_an_item(open_store, now):
    evidence = {"composition": {f"brand {number}": [number, 0.5] for number in range(30_000)}}
    open_store().apply([detection(0, evidence=evidence)], 20_000)
    assert now()[0].evidence == evidence


def test_an_actor_with_an_endless_name_is_an_actor_like_any_other(open_store, table, now):
    agent = "Mozilla/5.0 é " * 1_000
    open_store().apply([detection(0, key={"user_agent": agent}, key_kind="user_agent", verdict="bot")], 20_000)
    assert now()[0].keys == {"user_agent": agent}
    (verdict,) = verdicts_of(table, "user_agent", agent)
    assert (verdict["verdict"], verdict["actor"]) == ("bot", agent)


@pytest.mark.parametrize("others", [0, 40])
def test_an_incident_that_is_too_large_for_an_item_is_refused_alone(open_store, now, others):
    store = open_store()
    noise = secrets.token_hex(450_000)  # compression halves it
    large = detection(0, user=4711, evidence={"seen": noise})
    with pytest.raises(ItemTooLargeError, match=r"of incident [0-9a-f]{16}-1 has \d{6}; ") as refused:
        store.apply([large, *(detection(0, user=user) for user in range(others))], 20_000)
    assert "4711" not in str(refused.value)
    assert now() == []
    assert [one.change for one in store.apply([detection(0)], 20_000)] == [Change.OPENED]
    assert len(now()) == 1
