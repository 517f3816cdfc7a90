"""The proxy's faults look to boto3 as those of AWS do."""

import time
from base64 import b64decode

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from standins import faults

pytestmark = pytest.mark.aws


def client(service):
    """Without retries: each fault is seen."""
    return boto3.client(service, config=Config(retries={"total_max_attempts": 1}))


def code_of(call):
    with pytest.raises(ClientError) as raised:
        call()
    return raised.value.response["Error"]["Code"]


@pytest.fixture
def kinesis(fault_proxy, kinesalite, aws_env):
    proxy = fault_proxy(kinesalite)
    aws_env(kinesis=proxy.url)
    return proxy


@pytest.fixture
def moto_proxy(fault_proxy, moto):
    return fault_proxy(moto)


@pytest.fixture
def put(kinesis, make_stream):
    """Puts records of these texts into a stream of its own; `put.stored()` reads the stream."""
    stream = make_stream(1)
    kinesis.calls.clear()

    def put(*texts):
        records = [{"Data": text.encode(), "PartitionKey": text[:9]} for text in texts]
        return client("kinesis").put_records(StreamName=stream, Records=records)

    def stored():
        iterator = client("kinesis").get_shard_iterator(
            StreamName=stream, ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        return [r["Data"].decode() for r in client("kinesis").get_records(ShardIterator=iterator)["Records"]]

    put.stored = stored
    return put


def test_calls_pass_unchanged_without_a_fault(kinesis, put):
    assert put("a", "b")["FailedRecordCount"] == 0
    assert put.stored() == ["a", "b"]
    assert [call.operation for call in kinesis.calls] == ["PutRecords", "GetShardIterator", "GetRecords"]
    assert {call.service for call in kinesis.calls} == {"kinesis"}
    assert b64decode(kinesis.calls[0].json["Records"][0]["Data"]) == b"a"


def test_throttling_is_so_often_as_planned(kinesis, put):
    kinesis.on("PutRecords", faults.throttled(), times=2, skip=1)
    put("a")
    assert [code_of(lambda: put("b")) for _ in range(2)] == ["ProvisionedThroughputExceededException"] * 2
    put("c")
    assert put.stored() == ["a", "c"]
    assert [call.status for call in kinesis.calls[:4]] == [200, 400, 400, 200]


def test_a_partial_failure_keeps_the_rest_in_order(kinesis, put):
    kinesis.on("PutRecords", faults.partly())
    answer = put("a", "b", "c", "d")
    assert answer["FailedRecordCount"] == 2
    assert ["ErrorCode" in record for record in answer["Records"]] == [False, True, False, True]
    assert answer["Records"][1]["ErrorCode"] == "ProvisionedThroughputExceededException"
    assert put.stored() == ["a", "c"]


def test_all_records_of_a_put_can_be_refused(kinesis, put):
    kinesis.on("PutRecords", faults.partly(lambda *_: True, "InternalFailure"))
    answer = put("a", "b")
    assert [record["ErrorCode"] for record in answer["Records"]] == ["InternalFailure"] * 2
    assert put.stored() == []


def test_a_lost_answer_was_stored_and_a_lost_request_was_not(kinesis, put):
    kinesis.on("PutRecords", faults.lost_answer())
    kinesis.on("PutRecords", faults.lost_request())
    for text in ("a", "b"):
        with pytest.raises(ConnectionClosedError):
            put(text)
    assert put.stored() == ["a"]


def test_a_call_can_come_twice(kinesis, put):
    kinesis.on("PutRecords", faults.twice())
    put("a")
    assert put.stored() == ["a", "a"]


def test_a_call_can_take_its_time(kinesis, put):
    kinesis.on("PutRecords", faults.slow(0.2))
    start = time.monotonic()
    put("a")
    assert time.monotonic() - start >= 0.2


def test_iterators_expire(kinesis, put):
    kinesis.on("GetRecords", faults.expired_iterator())
    assert code_of(put.stored) == "ExpiredIteratorException"
    assert put.stored() == []


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (faults.denied(), "AccessDeniedException"),
        (faults.skewed(), "InvalidSignatureException"),
        (faults.failing(), "InternalFailure"),
    ],
)
def test_kinesis_refuses(kinesis, put, fault, code):
    kinesis.on(None, fault)
    assert code_of(lambda: put("a")) == code


def test_chance_and_seed_decide_which_calls_are_taken(kinesis, put):
    kinesis.on("PutRecords", faults.partly(lambda *_: True), times=None, chance=0.5, seed=7)
    failed = [put("a")["FailedRecordCount"] for _ in range(40)]
    assert 10 <= sum(failed) <= 30
    kinesis.clear()
    assert put("a")["FailedRecordCount"] == 0


def test_a_shard_takes_no_more_than_its_limit(kinesis, put):
    limit = faults.ShardLimit(1, records=10)
    kinesis.on("PutRecords", limit, times=None)
    assert put(*(f"{n}" for n in range(30)))["FailedRecordCount"] == limit.refused >= 19
    kinesis.clear()
    kinesis.on("PutRecords", faults.ShardLimit(1, size=100), times=None)
    assert [put("x" * size)["FailedRecordCount"] for size in (1_000_000, 100_000)] == [0, 1]


def test_items_of_a_batch_stay_unprocessed(fault_proxy, dynamodb_local, aws_env, fresh_name):
    proxy = fault_proxy(dynamodb_local)
    aws_env(dynamodb=proxy.url)
    dynamodb, table = client("dynamodb"), fresh_name("table")
    dynamodb.create_table(
        TableName=table,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    proxy.on("BatchWriteItem", faults.partly())
    proxy.on("PutItem", faults.throttled())
    requests = [{"PutRequest": {"Item": {"pk": {"S": key}}}} for key in "abcd"]
    left = dynamodb.batch_write_item(RequestItems={table: requests})["UnprocessedItems"]
    assert [request["PutRequest"]["Item"]["pk"]["S"] for request in left[table]] == ["b", "d"]
    assert dynamodb.scan(TableName=table)["Count"] == 2
    put = {"TableName": table, "Item": {"pk": {"S": "e"}}}
    assert code_of(lambda: dynamodb.put_item(**put)) == "ProvisionedThroughputExceededException"


@pytest.mark.parametrize(
    ("service", "call", "codes"),
    [
        ("s3", lambda s3: s3.list_buckets(), ("SlowDown", "AccessDenied", "RequestTimeTooSkewed")),
        (
            "sns",
            lambda sns: sns.list_topics(),
            ("Throttling", "AuthorizationError", "SignatureDoesNotMatch"),
        ),
        (
            "cloudwatch",
            lambda cloudwatch: cloudwatch.list_metrics(),
            ("ThrottlingException", "AccessDeniedException", "InvalidSignatureException"),
        ),
        (
            "glue",
            lambda glue: glue.get_databases(),
            ("ThrottlingException", "AccessDeniedException", "InvalidSignatureException"),
        ),
    ],
)
def test_each_protocol_has_its_own_errors(moto_proxy, aws_env, service, call, codes):
    proxy = moto_proxy
    aws_env(**{service: proxy.url})
    for fault in (faults.throttled(), faults.denied(), faults.skewed()):
        proxy.on(None, fault)
    assert tuple(code_of(lambda: call(client(service))) for _ in codes) == codes
    call(client(service))
    assert proxy.calls[-1].status == 200


def test_objects_of_any_size_pass(moto_proxy, aws_env, make_bucket):
    proxy = moto_proxy
    aws_env(s3=proxy.url)
    bucket, s3 = make_bucket(), client("s3")
    body = bytes(range(256)) * (1 << 15)
    s3.put_object(Bucket=bucket, Key="big", Body=body)
    assert s3.head_object(Bucket=bucket, Key="big")["ContentLength"] == len(body)
    assert s3.get_object(Bucket=bucket, Key="big", Range="bytes=-4")["Body"].read() == body[-4:]
    assert [call.operation for call in proxy.calls] == ["CreateBucket", "PutObject", "HeadObject", "GetObject"]
    proxy.on("GetObject", faults.denied())
    assert code_of(lambda: s3.get_object(Bucket=bucket, Key="big")) == "AccessDenied"
