import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest

from standins import process

pytestmark = pytest.mark.aws


def test_moto_answers_for_s3(moto, aws_env, make_bucket):
    aws_env(s3=moto)
    bucket = make_bucket()
    boto3.client("s3").put_object(Bucket=bucket, Key="day.csv", Body=b"a,b\n")
    assert boto3.client("s3").get_object(Bucket=bucket, Key="day.csv")["Body"].read() == b"a,b\n"


@pytest.mark.parametrize("server", ["kinesalite", "kinesis_local"])
def test_kinesis_takes_a_record(server, request, aws_env, make_stream):
    aws_env(kinesis=request.getfixturevalue(server))
    stream = make_stream(3)
    taken = boto3.client("kinesis").put_record(StreamName=stream, Data=b"x", PartitionKey="k")
    shards = boto3.client("kinesis").list_shards(StreamName=stream)["Shards"]
    assert taken["ShardId"] in {shard["ShardId"] for shard in shards}
    assert len(shards) == 3


def test_dynamodb_local_keeps_transactions(dynamodb_local, aws_env, fresh_name):
    aws_env(dynamodb=dynamodb_local)
    client, table = boto3.client("dynamodb"), fresh_name("table")
    client.create_table(
        TableName=table,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    put = {"TableName": table, "Item": {"pk": {"S": "a"}}, "ConditionExpression": "attribute_not_exists(pk)"}
    client.transact_write_items(TransactItems=[{"Put": put}])
    with pytest.raises(client.exceptions.TransactionCanceledException):
        client.transact_write_items(TransactItems=[{"Put": put}])


@pytest.mark.usefixtures("aws_env")
def test_an_unnamed_service_cannot_be_reached():
    with pytest.raises(Exception, match="Could not connect to the endpoint URL"):
        boto3.client("sns", config=boto3.session.Config(retries={"total_max_attempts": 1})).list_topics()


def test_a_standin_ends_with_whoever_started_it(tmp_path):
    with process.running(process.kinesalite, tmp_path / "log") as address:
        assert address.startswith("http://127.0.0.1:")
    assert not answers(address)


@pytest.mark.parametrize("standin", ["moto", "kinesalite", "kinesis_local", "dynamodb_local"])
def test_a_standin_ends_with_whoever_was_killed(standin, tmp_path):
    program = f"""
import os
from pathlib import Path
from standins import process
with process.running(process.{standin}, Path("log")) as address:
    print(address, Path(f"/proc/self/task/{{os.getpid()}}/children").read_text(), flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(process.HERE.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as starter:
        address, pid = starter.stdout.readline().split()
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5):
            starter.kill()
            give_up = time.monotonic() + 60
            while lives(pid) or answers(address):
                assert time.monotonic() < give_up
                time.sleep(0.05)


def lives(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def answers(address):
    host, port = address.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True
