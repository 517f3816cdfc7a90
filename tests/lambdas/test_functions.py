"""The functions from their package, in processes of their own, against servers that speak the AWS APIs."""

import base64
import json
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from jsonschema import Draft7Validator

from lambdas.emf import SCHEMA, sums
from lambdas.functions import Services, event_of, started
from lambdas.hour import START_MS, seen
from shopstream.clock import ManualClock
from shopstream.detection.baseline import Baselines
from shopstream.incidents.aws import DynamoIncidentStore
from shopstream.incidents.settings import DynamoSettings, IncidentSettings
from shopstream.lakehouse.tables import DETECTION_FIELDS
from standins import faults

pytestmark = pytest.mark.aws

DOCS = Path(__file__).resolve().parents[2] / "docs" / "lambda.md"
DONE = {"batchItemFailures": []}


@pytest.fixture
def services(aws_env, moto, dynamodb_local, fresh_name, tmp_path):
    aws_env(default=moto, dynamodb=dynamodb_local)
    return Services(fresh_name, tmp_path / "tmp")


@pytest.fixture
def before(aws_env, fault_proxy, moto, dynamodb_local):
    """A proxy before a service, for functions that are started from now on."""

    def put(service):
        proxy = fault_proxy(dynamodb_local if service == "dynamodb" else moto)
        aws_env(**{service: proxy.url})
        return proxy

    return put


@pytest.fixture
def detection(package, services):
    with started(package, "detection", **services.settings()) as process:
        yield process


def batches(records, size=40):
    return [records[first : first + size] for first in range(0, len(records), size)]


def incidents_of(services):
    table = DynamoSettings(table=services.table)
    with closing(DynamoIncidentStore(table, IncidentSettings().retention, ManualClock(START_MS))) as store:
        return seen(store.list())


def test_a_package_loads_nothing_heavy(detection):
    assert detection.loaded["heavy"] == []


def test_signals_become_the_incidents_of_detection_in_process(detection, services, records, expected):
    for batch in batches(records):
        assert detection.call(event_of(batch))["answer"] == DONE
    assert incidents_of(services) == expected
    log = detection.end()
    documents = [line for line in log if "_aws" in line]
    for document in documents:
        Draft7Validator(SCHEMA).validate(document)
        for directive in document["_aws"]["CloudWatchMetrics"]:
            assert {metric["Name"] for metric in directive["Metrics"]} <= document.keys()
            assert {name for names in directive["Dimensions"] for name in names} <= document.keys()
    total = sums(documents)
    assert {name for name, *_ in total} <= set(re.findall(r"`(\w+)`", DOCS.read_text(encoding="utf-8")))
    assert total["Signals", "detection"] > 100
    assert total["ColdStart", "detection"] == 1
    assert sum(value for name, value in total.items() if name[0] == "IncidentsOpened") >= len(expected)
    text = json.dumps(log)
    assert not any(user in text for user in ('"9001"', '"9002"', "9001,", "user_id"))


def test_final_detections_reach_the_lake_with_its_columns(detection, services, records):
    for batch in batches(records, 100):
        detection.call(event_of(batch))
    rows = services.delivered()
    assert {frozenset(row) for row in rows} == {frozenset(field.name for field in DETECTION_FIELDS)}
    day = range((START_MS - 86_400_000) * 1_000, (START_MS + 86_400_000) * 1_000)  # microseconds, as Firehose wants
    assert all(row["final"] and row["start_time"] in day and row["end_time"] in day for row in rows)
    assert len({row["detection_id"] for row in rows}) == len(rows)


def test_people_are_notified_through_the_topic(detection, services, records):
    for batch in batches(records, 100):
        detection.call(event_of(batch))
    with_ticker = services.messages(services.told)
    assert with_ticker
    assert any(json.loads(message["Message"])["count"] for message in with_ticker)


def test_the_ticker_says_how_many_incidents_are_open(package, services, records, detection):
    for batch in batches(records, 100):
        detection.call(event_of(batch))
    with started(package, "ticker", **services.settings(SHOPSTREAM_HOME=str(services.home / "ticker"))) as ticker:
        answer = ticker.call({"source": "aws.scheduler"})["answer"]
        log = ticker.end()
    assert answer["open"] >= 1
    assert sums([line for line in log if "_aws" in line])["OpenIncidents", "detection"] == answer["open"]


def test_a_process_that_is_killed_leaves_what_the_next_one_needs(package, services, records, expected):
    cut = batches(records, 60)
    for number, batch in enumerate(cut):
        home = str(services.home / str(number))
        with started(package, "detection", **services.settings(SHOPSTREAM_HOME=home)) as process:
            process.call(event_of(cut[max(0, number - 1)] + batch if number else batch))
            process.kill()
    assert incidents_of(services) == expected


def test_a_poisoned_record_goes_to_the_queue_with_its_payload_and_processing_continues(detection, services, records):
    bad = replace(records[2], payload=b"no signals", sequence_number=records[2].sequence_number + 1)
    batch = [*records[:3], bad, *records[3:10]]
    assert detection.call(event_of(batch))["answer"] == DONE
    (message,) = services.messages(services.failed)
    assert message["KinesisBatchInfo"]["startSequenceNumber"] == str(bad.sequence_number)
    assert base64.b64decode(message["payload"]) == b"no signals"
    assert "expected signals" in message["reason"]
    total = sums([line for line in detection.end() if "_aws" in line])
    assert total["PoisonedRecords", "detection"] == 1


def test_without_a_queue_lambda_learns_which_record_is_poisoned(package, services, records):
    settings = {k: v for k, v in services.settings().items() if k != "SHOPSTREAM_AWS__FAILED_SIGNALS"}
    bad = replace(records[2], payload=b"no signals", sequence_number=records[2].sequence_number + 1)
    with started(package, "detection", **settings) as process:
        answer = process.call(event_of([*records[:3], bad, *records[3:6]]))["answer"]
        assert answer == {"batchItemFailures": [{"itemIdentifier": str(bad.sequence_number)}]}
        assert process.call(event_of(records[3:6]))["answer"] == DONE


def test_a_throttled_table_brings_the_records_again(package, services, before, records, expected):
    proxy = before("dynamodb")
    with started(package, "detection", **services.settings()) as process:
        process.call(event_of(records[:5]))
        proxy.on("UpdateItem", faults.throttled(), times=1_000)
        proxy.on("PutItem", faults.throttled(), times=1_000)
        answer = process.call(event_of(records[:40]))["answer"]
        assert answer == {"batchItemFailures": [{"itemIdentifier": str(records[5].sequence_number)}]}
        proxy.clear()
        for batch in batches(records[5:]):
            assert process.call(event_of(batch))["answer"] == DONE
        log = process.end()
    assert incidents_of(services) == expected
    assert any("throttles" in line.get("message", "") for line in log)


def test_a_denied_permission_is_said_and_brings_the_records_again(package, services, before, records):
    proxy = before("firehose")
    proxy.on("PutRecordBatch", faults.denied(), times=1_000)
    with started(package, "detection", **services.settings()) as process:
        failed = [process.call(event_of(batch))["answer"] for batch in batches(records, 100)]
        log = process.end()
    assert any(answer != DONE for answer in failed)
    assert any("denies permission" in line.get("message", "") for line in log)


def test_baselines_come_from_s3(package, services, records):
    content = json.dumps({"format": 99})
    boto3.client("s3").put_object(Bucket=services.bucket, Key="baselines.json", Body=content)
    address = f"s3://{services.bucket}/baselines.json"
    with started(package, "detection", **services.settings(SHOPSTREAM_AWS__BASELINES=address)) as process:
        answer = process.call(event_of(records[:2]))["answer"]
        assert answer["batchItemFailures"][0]["itemIdentifier"] == str(records[0].sequence_number)
        log = process.end()
    assert any("written by another version" in line["message"] for line in log)


def test_good_baselines_are_taken(package, services, records, tmp_path):
    Baselines(START_MS - 1, START_MS, 1).save(tmp_path / "baselines.json")
    boto3.client("s3").upload_file(str(tmp_path / "baselines.json"), services.bucket, "baselines.json")
    address = f"s3://{services.bucket}/baselines.json"
    with started(package, "detection", **services.settings(SHOPSTREAM_AWS__BASELINES=address)) as process:
        assert process.call(event_of(records[:2]))["answer"] == DONE
