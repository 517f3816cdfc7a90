"""What `shopstream doctor` looks at in the AWS profile: is each thing there, as it must be, and may it be used."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from shopstream.aws.clients import client, explained
from shopstream.aws.objects import S3Objects
from shopstream.cli.findings import TroubleError
from shopstream.config import Settings
from shopstream.stream.lease_table import LeaseTable

__all__ = ["CHECKS"]

_MOST_SKEW_S = 60
_KEYS = {"pk": "HASH", "sk": "RANGE"}
_INDEX_KEYS = {"gsi1pk": "HASH", "gsi1sk": "RANGE"}


def _credentials(_: Settings) -> str:
    with explained("to ask who this is (sts:GetCallerIdentity)"):
        answer = client("sts").get_caller_identity()
    region = client("sts").meta.region_name
    return f"{answer['Arn']} in {region}, boto3 {version('boto3')}"


def _clock(_: Settings) -> str:
    with explained("to compare the clocks"):
        answer = client("sts").get_caller_identity()
    theirs = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if theirs is None:
        return "AWS told no time"
    skew = (datetime.now(UTC) - parsedate_to_datetime(theirs)).total_seconds()
    if abs(skew) > _MOST_SKEW_S:
        raise TroubleError(
            f"this machine's clock is {skew:+.0f} s off AWS's; set it by NTP: beyond 5 minutes every call is refused"
        )
    return f"{abs(skew):.0f} s apart from AWS"


def _stream(name: str) -> dict[str, Any]:
    with explained(f"to look at stream {name} (kinesis:DescribeStreamSummary)"):
        found: dict[str, Any] = client("kinesis").describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
    if found["StreamStatus"] not in {"ACTIVE", "UPDATING"}:
        raise TroubleError(f"stream {name} is {found['StreamStatus']}; wait until it is active, or deploy it again")
    return found


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
        raise TroubleError(
            f"stream {name} has {found['OpenShardCount']} open shards, expected 1, which orders all signals; merge them"
        )
    return f"{name}: 1 shard, keeps {found['RetentionPeriodHours']} h"


def _table(name: str) -> dict[str, Any]:
    with explained(f"to look at table {name} (dynamodb:DescribeTable)"):
        found: dict[str, Any] = client("dynamodb").describe_table(TableName=name)["Table"]
    if found["TableStatus"] not in {"ACTIVE", "UPDATING"}:
        raise TroubleError(f"table {name} is {found['TableStatus']}; wait until it is active, or deploy it again")
    _check_keys(f"table {name}", found, _KEYS)
    return found


def _check_keys(what: str, found: Mapping[str, Any], expected: Mapping[str, str]) -> None:
    keys = {key["AttributeName"]: key["KeyType"] for key in found["KeySchema"]}
    if keys != expected:
        raise TroubleError(f"{what} has keys {', '.join(keys)}, expected {', '.join(expected)}; deploy it anew")


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
        raise TroubleError(f"table {name} lacks its index gsi1 ({', '.join(_INDEX_KEYS)}); deploy it again")
    _check_keys(f"index gsi1 of table {name}", index, _INDEX_KEYS)
    with explained(f"to look at expiry of table {name} (dynamodb:DescribeTimeToLive)"):
        expiry = client("dynamodb").describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    if expiry.get("AttributeName") != "expires_at":
        raise TroubleError(f"table {name} keeps what is over for ever; switch on its time to live on expires_at")
    return f"{name}: about {found.get('ItemCount', 0):,} items (counted every 6 hours)"


def _topic(settings: Settings) -> str:
    topic = settings.aws.dynamodb.topic_arn
    if topic is None:
        return "none; set aws.dynamodb.topic_arn, or nobody is told by SNS"
    name = topic.rpartition(":")[2]
    with explained(f"to see who has subscribed to topic {name} (sns:ListSubscriptionsByTopic)"):
        client("sns").get_topic_attributes(TopicArn=topic)
        found = client("sns").list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    subscribers = sum(one["SubscriptionArn"].startswith("arn:") for one in found)  # others wait for confirmation
    if not subscribers:
        raise TroubleError(f"nobody has subscribed to topic {name}, so nobody is told; subscribe, and confirm")
    return f"{name}: {subscribers} subscriptions"


def _warehouse(settings: Settings) -> str:
    place = settings.aws.glue.warehouse
    if place is None:
        raise TroubleError("aws.glue.warehouse is empty, so there is no lake; set it to s3://bucket/prefix")
    return _try_out(place)


def _try_out(place: str) -> str:
    """Write, read and remove a small object."""
    objects, key = S3Objects(place), f"doctor-{uuid4().hex}.txt"
    objects.write(key, b"shopstream doctor")
    try:
        if objects.read(key) is None:
            raise TroubleError(f"what was written to {place} cannot be read; grant s3:GetObject on it")
    finally:
        objects.delete([key])
    return f"{place}: can be written, read and cleaned up"


def _checkpoints(settings: Settings) -> str:
    place = settings.aws.checkpoints
    if place is None:
        raise TroubleError(
            "aws.checkpoints is empty, so a worker on another machine cannot go on; set it to s3://bucket/prefix"
        )
    return _try_out(place)


def _catalog(settings: Settings) -> str:
    name = settings.aws.glue.database
    with explained(f"to look at the Glue database {name} (glue:GetDatabase)"):
        client("glue").get_database(Name=name)
    with explained(f"to list the tables of Glue database {name} (glue:GetTables)"):
        tables = client("glue").get_tables(DatabaseName=name)["TableList"]
    names = ", ".join(sorted(table["Name"] for table in tables))
    return f"{name}: {names or 'no tables yet; `shopstream run` makes them'}"


def _workgroup(settings: Settings) -> str:
    name = settings.aws.glue.workgroup
    with explained(f"to look at the Athena workgroup {name} (athena:GetWorkGroup)"):
        found = client("athena").get_work_group(WorkGroup=name)["WorkGroup"]
    if found.get("State", "ENABLED") != "ENABLED":
        raise TroubleError(f"workgroup {name} is {found['State']}; enable it")
    limit = found.get("Configuration", {}).get("BytesScannedCutoffPerQuery")
    if not limit:
        raise TroubleError(f"workgroup {name} limits no query; set BytesScannedCutoffPerQuery, since scans cost")
    return f"{name}: at most {limit / 1e9:,.1f} GB a query"


def _delivery(settings: Settings) -> str:
    name = settings.aws.delivery
    if name is None:
        return (
            "none; final detections go to no lake table (aws.delivery)" if settings.aws.detection == "lambda" else "-"
        )
    with explained(f"to look at the delivery stream {name} (firehose:DescribeDeliveryStream)"):
        found = client("firehose").describe_delivery_stream(DeliveryStreamName=name)["DeliveryStreamDescription"]
    if found["DeliveryStreamStatus"] != "ACTIVE":
        raise TroubleError(f"delivery stream {name} is {found['DeliveryStreamStatus']}; wait, or deploy it again")
    return f"{name}: active"


CHECKS: dict[str, Callable[[Settings], str]] = {
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
"""Name of a check → what it finds, or a TroubleError or ShopstreamError that says what to do."""
