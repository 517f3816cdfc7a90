"""What an event source mapping does between a Kinesis stream and a Lambda function, as a process that can be killed.

    python event_source.py STREAM HANDLER CHECKPOINT [--until-idle]

Reads the stream's one shard in order, calls the handler (module:function) with events as Lambda makes them, and goes on
after a batch only when all of it was done: a partial batch response, or an error, brings the rest again. How far it is
stands in the file CHECKPOINT. With --until-idle it ends when nothing is left.
"""

import base64
import importlib
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import boto3

_BATCH = 25
_PAUSE_S = 0.2
_TIMEOUT_MS = 60_000
_ARN = "arn:aws:kinesis:eu-central-1:123456789012:stream/"


def main():
    stream, handler, checkpoint, *options = sys.argv[1:]
    module, _, function = handler.partition(":")
    call = getattr(importlib.import_module(module), function)
    kinesis = boto3.client("kinesis")
    (shard,) = (item["ShardId"] for item in kinesis.list_shards(StreamName=stream)["Shards"])
    done = Path(checkpoint)
    while True:
        records = read(kinesis, stream, shard, done.read_text() if done.exists() else None)
        if not records:
            if "--until-idle" in options:
                return
            time.sleep(_PAUSE_S)
            continue
        failed = call({"Records": [of_lambda(record, stream, shard) for record in records]}, context())
        numbers = [record["SequenceNumber"] for record in records]
        again = [item["itemIdentifier"] for item in failed["batchItemFailures"]]
        finished = numbers[: numbers.index(min(again, key=int))] if again else numbers
        if finished:
            part = done.with_suffix(".part")
            part.write_text(finished[-1])
            part.replace(done)
        if again:
            time.sleep(_PAUSE_S)


def read(kinesis, stream, shard, after):
    start = {"ShardIteratorType": "TRIM_HORIZON"}
    if after:
        start = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": after}
    iterator = kinesis.get_shard_iterator(StreamName=stream, ShardId=shard, **start)["ShardIterator"]
    return kinesis.get_records(ShardIterator=iterator, Limit=_BATCH)["Records"]


def of_lambda(record, stream, shard):
    return {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": record["PartitionKey"],
            "sequenceNumber": record["SequenceNumber"],
            "data": base64.b64encode(record["Data"]).decode(),
            "approximateArrivalTimestamp": record["ApproximateArrivalTimestamp"].timestamp(),
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"{shard}:{record['SequenceNumber']}",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": "arn:aws:iam::123456789012:role/detection",
        "awsRegion": "eu-central-1",
        "eventSourceARN": _ARN + stream,
    }


def context():
    until = time.monotonic() + _TIMEOUT_MS / 1000
    return SimpleNamespace(
        function_name="detection",
        function_version="$LATEST",
        memory_limit_in_mb=512,
        invoked_function_arn="arn:aws:lambda:eu-central-1:123456789012:function:detection",
        aws_request_id=str(uuid4()),
        get_remaining_time_in_millis=lambda: int((until - time.monotonic()) * 1000),
    )


if __name__ == "__main__":
    main()
