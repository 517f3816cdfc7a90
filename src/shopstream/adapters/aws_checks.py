"""Checks of AWS resources, for `shopstream doctor`: do they exist, are they configured right, are calls permitted."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from shopstream.adapters.checks import Check, CheckFailedError
from shopstream.aws.clients import client, explained
from shopstream.aws.objects import S3Objects
from shopstream.config import Settings
from shopstream.stream.lease_table import LeaseTable

_MOST_SKEW_S = 60
_KEYS = {"pk": "HASH", "sk": "RANGE"}
_INDEX_KEYS = {"gsi1pk": "HASH", "gsi1sk": "RANGE"}


def _credentials(_: Settings) -> str:
    with explained("to read the caller identity (sts:GetCallerIdentity)"):
        answer = client("sts").get_caller_identity()
    region = client("sts").meta.region_name
    return f"{answer['Arn']} in {region}, boto3 {version('boto3')}"


def _clock(_: Settings) -> str:
    with explained("to compare the clocks"):
        answer = client("sts").get_caller_identity()
    theirs = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if theirs is None:
        return "AWS returned no time"
    skew = (datetime.now(UTC) - parsedate_to_datetime(theirs)).total_seconds()
    if abs(skew) > _MOST_SKEW_S:
        raise CheckFailedError(
            f"this machine's clock is {skew:+.0f} s off from AWS; synchronise it by NTP: beyond 5 minutes "
            "AWS refuses calls"
        )
    return f"{abs(skew):.0f} s off from AWS"


def _stream(name: str) -> dict[str, Any]:
    with explained(f"to describe stream {name} (kinesis:DescribeStreamSummary)"):
        found: dict[str, Any] = client("kinesis").describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
    _check_active(f"stream {name}", found["StreamStatus"])
    return found


def _check_active(what: str, status: str) -> None:
    if status not in {"ACTIVE", "UPDATING"}:
        raise CheckFailedError(f"{what} is {status}; wait until it is active, or deploy it again")


def _events(settings: Settings) -> str:
    name = settings.aws.kinesis.events
    found = _stream(name)
    with explained(f"to list the shards of {name} (kinesis:ListShards)"):
        client("kinesis").list_shards(StreamName=name, MaxResults=1)
    return f"{name}: {found['OpenShardCount']} shards, keeps {found['RetentionPeriodHours']} h"


def _signals(settings: Settings) -> str:
    if settings.aws.detection == "worker":
        return "not used: the worker detects (aws.detection)"
    name = settings.aws.kinesis.signals
    found = _stream(name)
    if found["OpenShardCount"] != 1:
        raise CheckFailedError(
            f"stream {name} has {found['OpenShardCount']} open shards, expected 1, which keeps "
            "signals in order; merge them"
        )
    return f"{name}: 1 shard, keeps {found['RetentionPeriodHours']} h"


def _table(name: str) -> dict[str, Any]:
    with explained(f"to describe table {name} (dynamodb:DescribeTable)"):
        found: dict[str, Any] = client("dynamodb").describe_table(TableName=name)["Table"]
    _check_active(f"table {name}", found["TableStatus"])
    _check_keys(f"table {name}", found, _KEYS)
    return found


def _check_keys(what: str, found: Mapping[str, Any], expected: Mapping[str, str]) -> None:
    keys = {key["AttributeName"]: key["KeyType"] for key in found["KeySchema"]}
    if keys != expected:
        raise CheckFailedError(f"{what} has keys {', '.join(keys)}, expected {', '.join(expected)}; deploy it again")


def _leases(settings: Settings) -> str:
    kinesis = settings.aws.kinesis
    _table(kinesis.leases)
    (engine, *_) = (*LeaseTable(kinesis.leases, f"{kinesis.events}/engine-lease").all(), None)
    if engine is None or engine.owner is None:
        return f"{kinesis.leases}: no engine runs; deploy the worker, or start `shopstream run`"
    return f"{kinesis.leases}: {engine.owner} is the engine, or was the last one"


def _incidents(settings: Settings) -> str:
    name = settings.aws.dynamodb.table
    found = _table(name)
    index = next((i for i in found.get("GlobalSecondaryIndexes", ()) if i["IndexName"] == "gsi1"), None)
    if index is None:
        raise CheckFailedError(f"table {name} lacks its index gsi1 ({', '.join(_INDEX_KEYS)}); deploy it again")
    _check_keys(f"index gsi1 of table {name}", index, _INDEX_KEYS)
    with explained(f"to describe expiry of table {name} (dynamodb:DescribeTimeToLive)"):
        expiry = client("dynamodb").describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    if expiry.get("AttributeName") != "expires_at":
        raise CheckFailedError(f"table {name} never expires items; enable time to live on expires_at")
    return f"{name}: about {found.get('ItemCount', 0):,} items (counted every 6 hours)"


def _topic(settings: Settings) -> str:
    topic = settings.aws.dynamodb.topic_arn
    if topic is None:
        return "none; set aws.dynamodb.topic_arn to notify by SNS"
    name = topic.rpartition(":")[2]
    with explained(f"to list the subscriptions of topic {name} (sns:ListSubscriptionsByTopic)"):
        client("sns").get_topic_attributes(TopicArn=topic)
        found = client("sns").list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    subscribers = sum(one["SubscriptionArn"].startswith("arn:") for one in found)  # others wait for confirmation
    if not subscribers:
        raise CheckFailedError(f"nobody has subscribed to topic {name}, so nobody is notified; subscribe, and confirm")
    return f"{name}: {subscribers} subscriptions"


def _warehouse(settings: Settings) -> str:
    place = settings.aws.glue.warehouse
    if place is None:
        raise CheckFailedError("aws.glue.warehouse is empty, so there is no lake; set it to s3://bucket/prefix")
    return _try_out(place)


def _try_out(place: str) -> str:
    """Write, read and delete a small object."""
    objects, key = S3Objects(place), f"doctor-{uuid4().hex}.txt"
    objects.write(key, b"shopstream doctor")
    try:
        if objects.read(key) is None:
            raise CheckFailedError(f"an object written to {place} cannot be read; grant s3:GetObject on it")
    finally:
        objects.delete([key])
    return f"{place}: write, read and delete work"


def _checkpoints(settings: Settings) -> str:
    place = settings.aws.checkpoints
    if place is None:
        raise CheckFailedError(
            "aws.checkpoints is empty, so a worker on another machine cannot resume; set it to s3://bucket/prefix"
        )
    return _try_out(place)


def _catalog(settings: Settings) -> str:
    name = settings.aws.glue.database
    with explained(f"to describe the Glue database {name} (glue:GetDatabase)"):
        client("glue").get_database(Name=name)
    with explained(f"to list the tables of Glue database {name} (glue:GetTables)"):
        tables = client("glue").get_tables(DatabaseName=name)["TableList"]
    names = ", ".join(sorted(table["Name"] for table in tables))
    return f"{name}: {names or 'no tables yet; `shopstream run` creates them'}"


def _workgroup(settings: Settings) -> str:
    name = settings.aws.glue.workgroup
    with explained(f"to describe the Athena workgroup {name} (athena:GetWorkGroup)"):
        found = client("athena").get_work_group(WorkGroup=name)["WorkGroup"]
    if found.get("State", "ENABLED") != "ENABLED":
        raise CheckFailedError(f"workgroup {name} is {found['State']}; enable it")
    limit = found.get("Configuration", {}).get("BytesScannedCutoffPerQuery")
    if not limit:
        raise CheckFailedError(
            f"workgroup {name} has no limit per query; set BytesScannedCutoffPerQuery, because scanned bytes cost money"
        )
    return f"{name}: at most {limit / 1e9:,.1f} GB a query"


def _delivery(settings: Settings) -> str:
    name = settings.aws.delivery
    if name is None:
        return (
            "none; detections are not stored in the lake (aws.delivery)" if settings.aws.detection == "lambda" else "-"
        )
    with explained(f"to describe the delivery stream {name} (firehose:DescribeDeliveryStream)"):
        found = client("firehose").describe_delivery_stream(DeliveryStreamName=name)["DeliveryStreamDescription"]
    if found["DeliveryStreamStatus"] != "ACTIVE":
        raise CheckFailedError(f"delivery stream {name} is {found['DeliveryStreamStatus']}; wait, or deploy it again")
    return f"{name}: active"


AWS_CHECKS: dict[str, Check] = {
    "credentials": _credentials,
    "clock": _clock,
    "events": _events,
    "signals": _signals,
    "engine": _leases,
    "incidents": _incidents,
    "topic": _topic,
    "lake": _warehouse,
    "catalog": _catalog,
    "workgroup": _workgroup,
    "checkpoints": _checkpoints,
    "delivery": _delivery,
}
