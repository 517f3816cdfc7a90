"""A shop in both profiles: what its services are named, and how its programs are started."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import boto3
import pytest

from shopstream.config import load_settings
from shopstream.incidents.verdicts import read_verdicts
from shopstream.models.names import ReportName
from shopstream.models.reports import report
from shopstream.simulation.attacks import Flood, Scraper
from shopstream.simulation.synthesis import DEFAULT_START, Synthesis, SynthesisSettings

SHARDS = 2
EVENTS = 24_000
_PATIENCE_S = 500
_REGION = {"LocationConstraint": "eu-central-1"}
_HERE = Path(__file__).parent


def write_day(path):
    """A day of a small shop with a flood and two scrapers in it; where the truth about them stands."""
    flood = Flood(DEFAULT_START + timedelta(hours=14), timedelta(minutes=5), 10, 200)
    scraper = Scraper(DEFAULT_START + timedelta(hours=9), timedelta(minutes=15), 2, 0.8)
    settings = SynthesisSettings(events=EVENTS, products=3_000, seed=5, scenarios=(flood, scraper))
    return Synthesis(settings).write(path).truth_path


class Shop:
    """One installation: a home, and what its programs find in their environment."""

    def __init__(self, home, **settings):
        self.home = home
        self._started = []
        self.environment = {"SHOPSTREAM_HOME": str(home), "SHOPSTREAM_ENGINE__THREADS": "1", **settings}

    def start(self, *arguments, **settings):
        """A program of the shop, running."""
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **self.environment, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """What a failed test left running ends, by its pid."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def command(self, *arguments):
        """`shopstream …`, running."""
        return self.start("-c", "from shopstream.cli import main; main()", *arguments)

    def run(self, *arguments):
        """What `shopstream …` writes to stdout; it must end well."""
        return ended_well(self.command(*arguments), arguments)

    def settings(self):
        """As its programs read them."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            return load_settings()

    def rows(self, *arguments):
        """What `shopstream … --format json` writes."""
        return json.loads(self.run(*arguments, "--format", "json"))


def ended_well(process, what=""):
    out, err = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0, f"{what} ended with {process.returncode}: {err[-3000:]}"
    return out


class AwsShop(Shop):
    """The AWS profile, its services made anew.

    Args:
        home: of the worker.
        name: makes a name that no other test has.
        detection: `lambda` or `worker`.
    """

    def __init__(self, home, name, detection="lambda"):
        self.bucket, self.events, self.signals = name("shop"), name("events"), name("signals")
        self.leases, self.table, self.database = name("leases"), name("incidents"), name("shop").replace("-", "_")
        self.delivery, self.metrics = name("delivery"), name("metrics")
        self._make_streams()
        self._make_tables()
        self.topic, self.queue = self._make_topic(name)
        super().__init__(
            home,
            SHOPSTREAM_PROFILE="aws",
            SHOPSTREAM_AWS__DETECTION=detection,
            SHOPSTREAM_AWS__KINESIS__EVENTS=self.events,
            SHOPSTREAM_AWS__KINESIS__SIGNALS=self.signals,
            SHOPSTREAM_AWS__KINESIS__LEASES=self.leases,
            SHOPSTREAM_AWS__KINESIS__LEASE_TIME="PT3S",
            SHOPSTREAM_AWS__DYNAMODB__TABLE=self.table,
            SHOPSTREAM_AWS__DYNAMODB__TOPIC_ARN=self.topic,
            SHOPSTREAM_AWS__GLUE__DATABASE=self.database,
            SHOPSTREAM_AWS__GLUE__WAREHOUSE=f"s3://{self.bucket}/lake",
            SHOPSTREAM_AWS__CHECKPOINTS=f"s3://{self.bucket}/checkpoints",
            SHOPSTREAM_AWS__DELIVERY=self.delivery,
            SHOPSTREAM_AWS__METRICS=self.metrics,
            SHOPSTREAM_NOTIFY__HOLD="PT0S",
        )

    def _make_streams(self):
        boto3.client("s3").create_bucket(Bucket=self.bucket, CreateBucketConfiguration=_REGION)
        kinesis = boto3.client("kinesis")
        for stream, shards in ((self.events, SHARDS), (self.signals, 1)):
            kinesis.create_stream(StreamName=stream, ShardCount=shards)
            kinesis.get_waiter("stream_exists").wait(
                StreamName=stream, WaiterConfig={"Delay": 0.05, "MaxAttempts": 200}
            )
        boto3.client("firehose").create_delivery_stream(
            DeliveryStreamName=self.delivery,
            ExtendedS3DestinationConfiguration={
                "RoleARN": "arn:aws:iam::123456789012:role/delivery",
                "BucketARN": f"arn:aws:s3:::{self.bucket}",
                "Prefix": "delivered/",
            },
        )

    def _make_tables(self):
        dynamodb = boto3.client("dynamodb")
        keys = {
            "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
            "BillingMode": "PAY_PER_REQUEST",
        }
        dynamodb.create_table(TableName=self.leases, AttributeDefinitions=_strings("pk", "sk"), **keys)
        dynamodb.create_table(
            TableName=self.table,
            AttributeDefinitions=_strings("pk", "sk", "gsi1pk", "gsi1sk"),
            GlobalSecondaryIndexes=[
                {
                    "IndexName": "gsi1",
                    "KeySchema": [
                        {"AttributeName": "gsi1pk", "KeyType": "HASH"},
                        {"AttributeName": "gsi1sk", "KeyType": "RANGE"},
                    ],
                    "Projection": {"ProjectionType": "ALL"},
                }
            ],
            **keys,
        )
        dynamodb.update_time_to_live(
            TableName=self.table, TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires_at"}
        )

    @staticmethod
    def _make_topic(name):
        topic = boto3.client("sns").create_topic(Name=name("incidents"))["TopicArn"]
        sqs = boto3.client("sqs")
        queue = sqs.create_queue(QueueName=name("told"))["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        boto3.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
        return topic, queue

    def upload(self, path):
        """A file into the shop's bucket; its address."""
        boto3.client("s3").upload_file(str(path), self.bucket, path.name)
        return f"s3://{self.bucket}/{path.name}"

    def function(self, folder, *options):
        """The detection function behind the stream of signals, running; `folder` holds its /tmp, and how far it is."""
        folder.mkdir(exist_ok=True)
        handler = "shopstream.lambdas.detection:handler"
        script = str(_HERE / "event_source.py")
        position = str(folder / "position")
        return self.start(script, self.signals, handler, position, *options, SHOPSTREAM_HOME=str(folder / "tmp"))

    def messages(self):
        """What the queue that subscribed to the topic got: documents for programs."""
        sqs, found = boto3.client("sqs"), []
        while got := sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages"):
            for message in got:
                found.append(json.loads(json.loads(message["Body"])["Message"]))
                sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        return found


def _strings(*names):
    return [{"AttributeName": name, "AttributeType": "S"} for name in names]


def incidents_of(store):
    """All that incidents and their parts are, without what recent events said, and how often somebody was told."""
    return {
        part.id: asdict(replace(part, context=None, notifications=0))
        for incident in store.list()
        for part in [incident, *store.parts(incident.id)]
    }


def verdicts_of(store):
    return sorted(map(str, read_verdicts(store).to_pylist()))


def reports_of(path):
    return {name: report(name, path, limit=0).rows for name in ReportName}
