"""Fixtures of the stand-ins. Servers start when first used and serve the whole session (one of each per worker of
xdist); names are made fresh for each test, so that tests do not meet."""

from contextlib import ExitStack
from uuid import uuid4

import pytest

from standins import environment, process
from standins.proxy import FaultProxy


def _server(standin):
    @pytest.fixture(scope="session", name=standin.__name__)
    def server(tmp_path_factory):
        log = tmp_path_factory.mktemp("standins") / f"{standin.__name__}.log"
        with process.running(standin, log) as address:
            yield address

    return server


moto = _server(process.moto)
kinesalite = _server(process.kinesalite)
kinesis_local = _server(process.kinesis_local)
dynamodb_local = _server(process.dynamodb_local)


def _client(service):
    import boto3  # noqa: PLC0415  all tests load this plugin, few need it

    return boto3.client(service)


@pytest.fixture
def aws_env(monkeypatch, tmp_path):
    """Points AWS tools at stand-ins: `aws_env(s3=moto, kinesis=kinesalite)`, or `aws_env(default=moto)`; called again,
    it moves some. A service that was never named cannot be reached."""
    environment.shut(monkeypatch, tmp_path / "aws")
    yield lambda **services: environment.point_at(monkeypatch, services)
    environment.forget_file_systems()


@pytest.fixture
def fault_proxy():
    """Puts a proxy before a stand-in: `fault_proxy(kinesalite)`; see `standins.proxy` and `standins.faults`."""
    with ExitStack() as stack:
        yield lambda upstream: stack.enter_context(FaultProxy(upstream))


@pytest.fixture(scope="session")
def fresh_name():
    """A name that no other test has: `fresh_name("events")`; fits streams, tables and buckets."""
    return lambda word: f"{word}-{uuid4().hex[:12]}"


@pytest.fixture
def make_bucket(fresh_name):
    """Makes an empty bucket where `aws_env` points; its name."""

    def make():
        name = fresh_name("bucket")
        region = {"LocationConstraint": "eu-central-1"}
        _client("s3").create_bucket(Bucket=name, CreateBucketConfiguration=region)
        return name

    return make


@pytest.fixture
def make_stream(fresh_name):
    """Makes a Kinesis stream where `aws_env` points, active; its name."""

    def make(shards=2):
        client = _client("kinesis")
        name = fresh_name("stream")
        client.create_stream(StreamName=name, ShardCount=shards)
        client.get_waiter("stream_exists").wait(StreamName=name, WaiterConfig={"Delay": 0.05, "MaxAttempts": 200})
        return name

    return make


@pytest.fixture
def make_table(fresh_name):
    """Makes an empty DynamoDB table with the keys `pk` and `sk`, as leases lie in, where `aws_env` points; its name.

    `indexed`: with the index `gsi1`, as incidents have it.
    """

    def make(*, indexed=False):
        name = fresh_name("table")
        index = ("gsi1pk", "gsi1sk")
        more = {"GlobalSecondaryIndexes": [{**_keys(*index), "IndexName": "gsi1", "Projection": _PROJECTION}]}
        _client("dynamodb").create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[
                {"AttributeName": key, "AttributeType": "S"} for key in ("pk", "sk", *(index if indexed else ()))
            ],
            **_keys("pk", "sk"),
            **(more if indexed else {}),
        )
        return name

    return make


_PROJECTION = {
    "ProjectionType": "INCLUDE",
    "NonKeyAttributes": ["actor", "actor_kind", "closed", "expires_at", "rules", "severity", "status"],
}
"""As in infra/shopstream_infra/incidents.py."""


def _keys(partition, sort):
    parts = ((partition, "HASH"), (sort, "RANGE"))
    return {"KeySchema": [{"AttributeName": name, "KeyType": kind} for name, kind in parts]}
