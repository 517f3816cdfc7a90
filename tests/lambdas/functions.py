"""Functions in processes of their own, events as Lambda makes them, and the services they talk to."""

import base64
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import boto3

_HERE = Path(__file__).parent
_KEPT = ("AWS_", "SHOPSTREAM_", "POWERTOOLS_")


def event_of(records):
    """What Lambda hands over."""
    return {
        "Records": [
            {
                "kinesis": {
                    "kinesisSchemaVersion": "1.0",
                    "partitionKey": "signals",
                    "sequenceNumber": str(record.sequence_number),
                    "data": base64.b64encode(record.payload).decode(),
                    "approximateArrivalTimestamp": record.arrival_ms / 1000,
                },
                "eventSource": "aws:kinesis",
                "eventVersion": "1.0",
                "eventID": f"{record.shard_id}:{record.sequence_number}",
                "eventName": "aws:kinesis:record",
                "invokeIdentityArn": "arn:aws:iam::123456789012:role/shopstream-test-detection",
                "awsRegion": "eu-central-1",
                "eventSourceARN": record.stream_arn,
            }
            for record in records
        ]
    }


class Process:
    """A warm function."""

    def __init__(self, process, answers):
        self._process, self._answers = process, answers
        first = answers.readline()
        assert first, process.communicate()[1]
        self.loaded = json.loads(first)

    def call(self, event):
        """One call: its answer."""
        self._process.stdin.write(json.dumps(event) + "\n")
        self._process.stdin.flush()
        return json.loads(self._answers.readline())

    def kill(self):
        self._process.kill()

    def end(self):
        """End the process; the lines of its log, each a JSON document."""
        out, err = self._process.communicate(timeout=60)
        assert err == ""
        return [json.loads(line) for line in out.splitlines()]


@contextmanager
def started(package, name, **settings):
    """A process of the function `name`, started from an unpacked package."""
    read_end, write_end = os.pipe()
    environment = {word: value for word, value in os.environ.items() if word.startswith(_KEPT)}
    command = ["-I", "-S", str(_HERE / "runtime.py"), str(package), f"shopstream.lambdas.{name}", str(write_end)]
    process = subprocess.Popen(
        [sys.executable, *command],
        env={**environment, "AWS_LAMBDA_FUNCTION_NAME": f"shopstream-test-{name}", **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=(write_end,),
    )
    os.close(write_end)
    with os.fdopen(read_end) as answers:
        try:
            yield Process(process, answers)
        finally:
            process.kill()
            process.communicate()


class Services:
    """What the functions of one installation talk to, made anew."""

    def __init__(self, name, home):
        self.home = home
        self.bucket, self.table, self.delivery = name("lake"), name("incidents"), name("detections")
        boto3.client("s3").create_bucket(
            Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
        boto3.client("firehose").create_delivery_stream(
            DeliveryStreamName=self.delivery,
            ExtendedS3DestinationConfiguration={
                "RoleARN": "arn:aws:iam::123456789012:role/delivery",
                "BucketARN": f"arn:aws:s3:::{self.bucket}",
                "Prefix": "detections/",
            },
        )
        strings = [{"AttributeName": key, "AttributeType": "S"} for key in ("pk", "sk", "gsi1pk", "gsi1sk")]
        keys = [[{"AttributeName": f"{p}pk", "KeyType": "HASH"}, {"AttributeName": f"{p}sk", "KeyType": "RANGE"}]
                for p in ("", "gsi1")]  # fmt: skip
        boto3.client("dynamodb").create_table(
            TableName=self.table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=strings,
            KeySchema=keys[0],
            GlobalSecondaryIndexes=[
                {"IndexName": "gsi1", "KeySchema": keys[1], "Projection": {"ProjectionType": "ALL"}}
            ],
        )
        sqs, sns = boto3.client("sqs"), boto3.client("sns")
        self.failed = sqs.create_queue(QueueName=name("failed"))["QueueUrl"]
        self.told = sqs.create_queue(QueueName=name("told"))["QueueUrl"]
        self.topic = sns.create_topic(Name=name("incidents"))["TopicArn"]
        arn = sqs.get_queue_attributes(QueueUrl=self.told, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        sns.subscribe(TopicArn=self.topic, Protocol="sqs", Endpoint=arn)

    def settings(self, **changed):
        """Variables of the functions' environment."""
        return {
            "SHOPSTREAM_PROFILE": "aws",
            "SHOPSTREAM_HOME": str(self.home),
            "SHOPSTREAM_AWS__DYNAMODB__TABLE": self.table,
            "SHOPSTREAM_AWS__DYNAMODB__TOPIC_ARN": self.topic,
            "SHOPSTREAM_AWS__DELIVERY": self.delivery,
            "SHOPSTREAM_AWS__METRICS": "shopstream-test",
            "SHOPSTREAM_AWS__FAILED_SIGNALS": self.failed,
            "SHOPSTREAM_NOTIFY__HOLD": "PT0S",
            **changed,
        }

    def messages(self, queue):
        """Bodies in a queue; they are taken out."""
        sqs, found = boto3.client("sqs"), []
        while got := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
            for message in got:
                found.append(json.loads(message["Body"]))
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        return found

    def delivered(self):
        """Rows that Firehose wrote to S3."""
        s3 = boto3.client("s3")
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix="detections/")
        objects = [item["Key"] for page in pages for item in page.get("Contents", ())]
        texts = [s3.get_object(Bucket=self.bucket, Key=key)["Body"].read().decode() for key in objects]
        return [json.loads(line) for text in texts for line in text.splitlines()]
