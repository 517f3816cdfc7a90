"""The stores of the AWS profile, and the object store that checkpoints and live panels lie in."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from botocore.exceptions import ClientError
from s3transfer.exceptions import RetriesExceededError

from shopstream.aws.clients import client, error_code, explained
from shopstream.clock import Clock, SystemClock
from shopstream.config import Settings
from shopstream.engine.checkpoint import CheckpointStore, SharedCheckpointStore
from shopstream.errors import RetryableError
from shopstream.incidents.aws import (
    DynamoIncidentStore,
    SnsChannel,
    open_dynamo_sender,
    pull_incidents,
    retry_failed,
)
from shopstream.incidents.ports import NotificationChannel
from shopstream.notify.sender import Sender, targets_of
from shopstream.stream.aws import KinesisStream
from shopstream.stream.leader import LeaderLease
from shopstream.stream.lease_table import LeaseTable

if TYPE_CHECKING:
    from shopstream.journeys.ports import LiveStore
    from shopstream.lakehouse.aws import AwsLakehouse

__all__ = [
    "S3Objects",
    "engine_lease",
    "fetch_baselines",
    "fetch_reports",
    "incidents_file",
    "objects_of",
    "open_checkpoints",
    "open_incidents",
    "open_lakehouse",
    "open_live",
    "open_sender",
    "open_signals",
    "open_stream",
    "put_baselines",
    "retry_notifications",
    "topic_channel",
]

_NO_OBJECT: Final = frozenset({"404", "NoSuchKey"})
_CHANGED: Final = frozenset({"412", "PreconditionFailed", "ConditionalRequestConflict"})
_MOST_DELETED: Final = 1_000


class S3Objects:
    """`engine.objects.ObjectStore` under a prefix of a bucket.

    Args:
        address: s3://bucket/prefix.
    """

    def __init__(self, address: str) -> None:
        self.place = address.rstrip("/")
        self._bucket, _, prefix = self.place.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = client("s3")

    def read(self, key: str) -> tuple[bytes, str] | None:
        """Content and version of a small object; None when there is none."""
        with explained(f"to read {self.place}/{key} (s3:GetObject)"):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            except ClientError as error:
                if error_code(error) in _NO_OBJECT:
                    return None
                raise
            return answer["Body"].read(), answer["ETag"]

    def written_at(self, key: str) -> datetime | None:
        """When it was last written; None when there is none."""
        with explained(f"to look at {self.place}/{key} (s3:GetObject)"):
            try:
                answer = self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
            except ClientError as error:
                if error_code(error) in _NO_OBJECT:
                    return None
                raise
        moment: datetime = answer["LastModified"]
        return moment

    def replace(self, key: str, content: bytes, version: str | None) -> str | None:
        """Write if it still has this version; None when somebody else wrote it."""
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        with explained(f"to write {self.place}/{key} (s3:PutObject)"):
            try:
                answer = self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=content, **condition)
            except ClientError as error:
                if error_code(error) in _CHANGED | _NO_OBJECT:
                    return None
                raise
        return str(answer["ETag"])

    def write(self, key: str, content: bytes) -> None:
        """Write a small object, whatever was there."""
        with explained(f"to write {self.place}/{key} (s3:PutObject)"):
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=content)

    def upload(self, key: str, path: Path) -> None:
        """Write a file of any size."""
        with explained(f"to write {self.place}/{key} (s3:PutObject)"), path.open("rb") as file:
            self._client.upload_fileobj(file, self._bucket, self._prefix + key)

    def download(self, key: str, path: Path) -> None:
        """Get a file of any size."""
        action = f"to read {self.place}/{key} (s3:GetObject)"
        with explained(action), path.open("wb") as file:
            try:
                self._client.download_fileobj(self._bucket, self._prefix + key, file)
            except RetriesExceededError as error:
                raise RetryableError(
                    f"AWS cannot be reached {action} (answers break off: {error.last_exception}); try again"
                ) from error

    def keys(self, prefix: str) -> list[str]:
        """Those that begin with it, in order."""
        with explained(f"to list {self.place} (s3:ListBucket)"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            return [item["Key"].removeprefix(self._prefix) for page in pages for item in page.get("Contents", ())]

    def delete(self, keys: Sequence[str]) -> None:
        """Remove them; one that is gone is no error."""
        for first in range(0, len(keys), _MOST_DELETED):
            part = [{"Key": self._prefix + key} for key in keys[first : first + _MOST_DELETED]]
            with explained(f"to clean up {self.place} (s3:DeleteObject)"):
                answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": part, "Quiet": True})
                for refused in answer.get("Errors", ()):
                    raise ClientError({"Error": refused}, "DeleteObjects")


def open_incidents(settings: Settings, clock: Clock) -> DynamoIncidentStore:
    """The incidents in DynamoDB; `home` holds a working copy."""
    targets = targets_of(settings.alerting, settings.aws.dynamodb.topic_arn)
    copy = settings.home / "incidents.working.db"
    return DynamoIncidentStore(settings.alerting, settings.aws.dynamodb, clock, targets, working_copy=copy)


def incidents_file(settings: Settings) -> Path:
    """A copy of all incidents, brought up to date."""
    settings.home.mkdir(parents=True, exist_ok=True)
    path = settings.home / "incidents.copy.db"
    pull_incidents(settings.alerting, settings.aws.dynamodb, SystemClock(), path)
    return path


def retry_notifications(settings: Settings, clock: Clock) -> int:
    """Let notifications that were given up be tried again; returns how many."""
    settings.home.mkdir(parents=True, exist_ok=True)
    return retry_failed(settings.alerting, settings.aws.dynamodb, clock, settings.home / "incidents.copy.db")


def open_sender(settings: Settings, clock: Clock, channels: Sequence[NotificationChannel]) -> Sender:
    """Delivers what waits in the table."""
    copy = settings.home / "incidents.sending.db"
    return open_dynamo_sender(settings.alerting, settings.aws.dynamodb, clock, channels, working_copy=copy)


def topic_channel(settings: Settings) -> list[NotificationChannel]:
    """The SNS topic, where one is named."""
    topic = settings.aws.dynamodb.topic_arn
    return [SnsChannel(topic)] if topic else []


def objects_of(settings: Settings) -> S3Objects | None:
    """Where checkpoints and live panels lie; None where the setting names no place."""
    return S3Objects(settings.aws.checkpoints) if settings.aws.checkpoints else None


def open_stream(settings: Settings, clock: Clock) -> KinesisStream:
    """The stream of events."""
    return KinesisStream.open(settings.aws.kinesis, clock)


def fetch_baselines(address: str, path: Path) -> None:
    """Copy baselines from S3 to a file; where none have been learnt yet, there is no file afterwards."""
    for key, target in _baseline_files(address, path):
        content = S3Objects(key.rpartition("/")[0]).read(key.rpartition("/")[2])
        target.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            target.unlink(missing_ok=True)
        else:
            target.write_bytes(content[0])


def put_baselines(address: str, path: Path) -> None:
    """Copy baselines from a file to S3."""
    for key, source in _baseline_files(address, path):
        if source.exists():
            S3Objects(key.rpartition("/")[0]).upload(key.rpartition("/")[2], source)


def _baseline_files(address: str, path: Path) -> list[tuple[str, Path]]:
    """Pairs of address and file: the shop's products, which only an engine needs, lie beside the figures."""
    products = ".products.parquet"
    return [(address.removesuffix(".json") + products, path.with_suffix(products)), (address, path)]


@contextmanager
def engine_lease(
    settings: Settings, clock: Clock, stop: Callable[[], bool], standing_by: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """Be the only engine of the stream of events, wherever others run; waits for that.

    Args:
        settings: names the stream and the table of leases.
        clock: lets waiting time pass.
        stop: asked from time to time whether to give up waiting.
        standing_by: told who is waited for.

    Yields:
        What raises a RetryableError where this process is no longer the engine.

    Raises:
        RetryableError: `stop` said so.
    """
    kinesis = settings.aws.kinesis
    owner = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
    with LeaderLease(
        LeaseTable(kinesis.leases, f"{kinesis.events}/engine-lease"),
        "engine",
        owner,
        kinesis.lease_time,
        clock=clock,
        monotonic=time.monotonic,
    ) as lease:
        if not lease.acquire(stop=stop, waiting=standing_by):
            raise RetryableError("stopped while another process was the engine; start it again to stand by")
        yield lease.check


def open_lakehouse(settings: Settings) -> "AwsLakehouse":
    """The lakehouse on S3."""
    from shopstream.lakehouse.aws import AwsLakehouse  # noqa: PLC0415  seconds of imports that few commands need

    return AwsLakehouse(settings.lakehouse, settings.aws.glue)


def fetch_reports(settings: Settings) -> None:
    """Bring the marts that Athena built into the reports file, unless it has them or DuckDB built it here."""
    from shopstream.models.athena import fetch_marts  # noqa: PLC0415  likewise

    with closing(open_lakehouse(settings)) as lakehouse:
        fetch_marts(lakehouse, settings.reports_path)


def open_signals(settings: Settings, clock: Clock) -> KinesisStream:
    """The stream of signals."""
    return KinesisStream.open(settings.aws.kinesis, clock, stream=settings.aws.kinesis.signals)


def open_checkpoints(settings: Settings) -> CheckpointStore:
    """The engine's checkpoints: in S3, or in `home` where no place is named."""
    objects = objects_of(settings)
    return (
        SharedCheckpointStore(settings.checkpoint_path, objects)
        if objects
        else CheckpointStore(settings.checkpoint_path)
    )


def open_live(settings: Settings) -> "LiveStore":
    """The live journeys: beside the checkpoints in S3, or in `home` where no place is named."""
    from shopstream.journeys.embedded import EmbeddedLiveStore  # noqa: PLC0415  likewise
    from shopstream.journeys.shared import SharedLiveStore  # noqa: PLC0415  likewise

    objects = objects_of(settings)
    return SharedLiveStore(objects, SystemClock()) if objects else EmbeddedLiveStore(settings.live_path)
