"""Opens the stores of a profile, each with only the libraries that it needs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from shopstream.clock import Clock, SystemClock
from shopstream.config import Settings
from shopstream.errors import ConfigurationError

if TYPE_CHECKING:
    from shopstream.detection.baseline import Baselines
    from shopstream.engine.checkpoint import CheckpointStore, Manifest
    from shopstream.incidents.ports import IncidentStore
    from shopstream.journeys.ports import LiveStore
    from shopstream.lakehouse.iceberg import IcebergLakehouse
    from shopstream.notify.ports import NotificationChannel
    from shopstream.notify.sender import Sender
    from shopstream.stream.ports import Stream

__all__ = [
    "aws_extra",
    "has_lake",
    "has_stream",
    "keep_baselines",
    "last_checkpoint",
    "notification_targets",
    "open_baselines",
    "open_channels",
    "open_checkpoints",
    "open_incidents",
    "open_lakehouse",
    "open_live",
    "open_sender",
    "open_stream",
    "reports_file",
]

_EXTRA = frozenset({"boto3", "botocore", "s3transfer", "aws_lambda_powertools"})


@contextmanager
def aws_extra() -> Iterator[None]:
    """Around imports that need boto3, which the embedded profile never loads and may not have.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        raise ConfigurationError(
            f"the AWS profile needs {error.name}, which is not installed; install the extra `aws` (`make env` does), "
            "or set SHOPSTREAM_PROFILE=embedded"
        ) from error


def open_stream(settings: Settings, clock: Clock | None = None) -> "Stream":
    """The stream of events; the embedded one is made where there is none. Close it."""
    clock = clock or SystemClock()
    settings.home.mkdir(parents=True, exist_ok=True)
    if settings.profile == "aws":
        with aws_extra():
            from shopstream.adapters.aws import open_stream as of_aws  # noqa: PLC0415  the embedded profile has no boto3

        return of_aws(settings, clock)
    from shopstream.stream.embedded import EmbeddedStream  # noqa: PLC0415  only what this profile needs

    return EmbeddedStream.open(settings.stream_path, settings.stream, clock)


def open_lakehouse(settings: Settings) -> "IcebergLakehouse":
    """The lakehouse; its tables are made where there are none. Close it."""
    if settings.profile == "aws":
        with aws_extra():
            from shopstream.adapters.aws import open_lakehouse as of_aws  # noqa: PLC0415  the embedded profile has no boto3

        return of_aws(settings)
    from shopstream.lakehouse.embedded import EmbeddedLakehouse  # noqa: PLC0415  only what this profile needs

    return EmbeddedLakehouse(settings.lake_path, settings.lakehouse)


def reports_file(settings: Settings) -> Path:
    """The file with the marts, as of the last build; may not exist yet."""
    if settings.profile == "aws":
        with aws_extra():
            from shopstream.adapters.aws import fetch_reports  # noqa: PLC0415  the embedded profile has no boto3

        fetch_reports(settings)
    return settings.reports_path


def has_lake(settings: Settings) -> bool:
    """Whether there is a lake to read; opening it would make one."""
    return settings.profile == "aws" or settings.lake_path.exists()


def open_incidents(settings: Settings, clock: Clock | None = None) -> "IncidentStore":
    """The incidents; in the embedded profile the first write makes their file. Close it."""
    clock = clock or SystemClock()
    if settings.profile == "aws":
        with aws_extra():
            from shopstream.incidents.aws import DynamoIncidentStore  # noqa: PLC0415  the embedded profile has no boto3

        return DynamoIncidentStore(settings.aws.dynamodb, settings.alerting.retention, clock)
    from shopstream.incidents.embedded import EmbeddedIncidentStore  # noqa: PLC0415  only what this profile needs

    return EmbeddedIncidentStore(settings.incidents_path, clock)


def open_live(settings: Settings) -> "LiveStore":
    """The live journeys."""
    if settings.profile == "aws":
        with aws_extra():
            from shopstream.adapters.aws import open_live as of_aws  # noqa: PLC0415  the embedded profile has no boto3

        return of_aws(settings)
    from shopstream.journeys.embedded import EmbeddedLiveStore  # noqa: PLC0415  only what this profile needs

    return EmbeddedLiveStore(settings.live_path)


def open_checkpoints(settings: Settings) -> "CheckpointStore":
    """The engine's checkpoints."""
    if settings.profile == "aws":
        with aws_extra():
            from shopstream.adapters.aws import open_checkpoints as of_aws  # noqa: PLC0415  the embedded profile has no boto3

        return of_aws(settings)
    from shopstream.engine.checkpoint import CheckpointStore  # noqa: PLC0415  only what this profile needs

    return CheckpointStore(settings.checkpoint_path)


def last_checkpoint(settings: Settings) -> "Manifest | None":
    """The checkpoint that holds; None before the first."""
    if settings.profile != "aws" and not settings.checkpoint_path.exists():
        return None  # opening the store would make it
    return open_checkpoints(settings).current()


def has_stream(settings: Settings) -> bool:
    """Whether there is a stream to read; opening it would make one."""
    return settings.profile == "aws" or settings.stream_path.exists()


def open_baselines(settings: Settings) -> "Baselines | None":
    """What is normal, as it was learnt; None where nothing was."""
    from shopstream.detection.baseline import Baselines  # noqa: PLC0415  only what this needs

    if settings.profile == "aws" and settings.aws.baselines:
        with aws_extra():
            from shopstream.adapters.aws import fetch_baselines  # noqa: PLC0415  the embedded profile has no boto3

        fetch_baselines(settings.aws.baselines, settings.baselines_path)
    return Baselines.load(settings.baselines_path)


def keep_baselines(settings: Settings, baselines: "Baselines") -> str:
    """Keep what was learnt for engines that start from now on; returns where it is."""
    baselines.save(settings.baselines_path)
    if settings.profile != "aws" or not settings.aws.baselines:
        return str(settings.baselines_path)
    with aws_extra():
        from shopstream.adapters.aws import put_baselines  # noqa: PLC0415  the embedded profile has no boto3

    put_baselines(settings.aws.baselines, settings.baselines_path)
    return settings.aws.baselines


def open_channels(settings: Settings) -> "list[NotificationChannel]":
    """The addresses of the settings, and in the AWS profile the topic, in the order of `notification_targets`.

    Raises:
        ConfigurationError: an address is none that can be sent to.
    """
    channels: list[NotificationChannel] = []
    if settings.alerting.notify_urls:
        from shopstream.notify import channels as channel  # noqa: PLC0415
        from shopstream.notify.sender import targets_of  # noqa: PLC0415

        channels += channel.open_channels(settings.alerting.notify_urls, targets_of(settings.alerting))
    if settings.profile == "aws":
        with aws_extra():
            from shopstream.notify.aws import SnsChannel  # noqa: PLC0415  the embedded profile has no boto3

        if topic := settings.aws.dynamodb.topic_arn:
            channels.append(SnsChannel(topic))
    return channels


def notification_targets(settings: Settings) -> tuple[str, ...]:
    """A name for each channel, safe to show."""
    from shopstream.notify.sender import targets_of  # noqa: PLC0415  only what this needs

    return targets_of(settings.alerting, settings.aws.dynamodb.topic_arn if settings.profile == "aws" else None)


def open_sender(settings: Settings, clock: Clock) -> "Sender":
    """Delivers notifications to the channels of the settings.

    Raises:
        ConfigurationError: an address is none that can be sent to.
    """
    from shopstream.notify.sender import Sender  # noqa: PLC0415  only what this needs

    return Sender(open_incidents(settings, clock), open_channels(settings), settings.alerting, clock)
