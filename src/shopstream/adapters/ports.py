"""Chooses the adapters of a profile; nothing else in shopstream asks which profile it runs in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from shopstream.clock import Clock, SystemClock
from shopstream.config import Settings
from shopstream.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shopstream.adapters.checks import Check
    from shopstream.archive import Archive
    from shopstream.dashboard.sources import DataHome
    from shopstream.detection.baseline import Baselines
    from shopstream.engine.checkpoint import CheckpointStore, Manifest
    from shopstream.incidents.ports import IncidentStore
    from shopstream.journeys.store import LiveStore
    from shopstream.lakehouse.iceberg import IcebergLakehouse
    from shopstream.lakehouse.ports import LakeReader
    from shopstream.models.dbt import BuildResult
    from shopstream.models.dbt import Progress as BuildProgress
    from shopstream.notify.ports import NotificationChannel
    from shopstream.notify.sender import Sender
    from shopstream.pipeline import Progress
    from shopstream.stream.ports import Stream

_EXTRA = frozenset({"boto3", "botocore", "s3transfer", "aws_lambda_powertools"})


def adapters_of(settings: Settings, clock: Clock | None = None) -> Adapters:
    """The adapters of the profile that the settings name.

    Raises:
        ConfigurationError: the profile is `aws`, and boto3 is not installed.
    """
    clock = clock or SystemClock()
    if settings.profile == "embedded":
        from shopstream.adapters.embedded import EmbeddedAdapters

        return EmbeddedAdapters(settings, clock)
    try:
        from shopstream.adapters.aws import AwsAdapters
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        raise ConfigurationError(
            f"the AWS profile needs {error.name}, which is not installed; install the extra `aws` (`make env` does), "
            "or set SHOPSTREAM_PROFILE=embedded"
        ) from error
    return AwsAdapters(settings, clock)


class Adapters(ABC):
    """Opens what each stage reads and writes, each with only the libraries that it needs.

    What has a `close` is closed by the caller.

    Args:
        settings: names and places of everything.
        clock: processing time.
    """

    readers: int = 1
    """Shards that the engine reads at once."""
    self_contained: bool = True
    """All data is in `home`, so a demo may empty it."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock

    @property
    def stream_name(self) -> str | None:
        """Name of the stream outside `home` that replays send to; None where it is in `home`."""
        return None

    @property
    def heartbeat_file(self) -> Path | None:
        """File whose age a container's health check reads; None where nothing checks."""
        return None

    @property
    @abstractmethod
    def replay_ledger(self) -> Path:
        """Folder that records which dead letters were replayed."""

    @abstractmethod
    def open_stream(self) -> Stream:
        """The stream of events; the embedded one is created if missing."""

    @abstractmethod
    def has_stream(self) -> bool:
        """Whether there is a stream to read; opening the embedded one would create it."""

    def open_signals(self) -> Stream | None:
        """The stream of signals; None where this process detects."""
        return None

    @abstractmethod
    def open_lakehouse(self) -> IcebergLakehouse:
        """The lakehouse; missing tables are created."""

    @contextmanager
    def open_lake_reader(self) -> Iterator[LakeReader]:
        """The lake's current files; reading never creates a lake."""
        with closing(self.open_lakehouse()) as lakehouse:
            yield lakehouse

    @abstractmethod
    def has_lake(self) -> bool:
        """Whether there is a lake to read; opening the embedded one would create it."""

    @abstractmethod
    def reports_file(self) -> Path:
        """The DuckDB file with the marts of the last build; may not exist yet."""

    def build_reports(
        self,
        select: Sequence[str] | None = None,
        progress: BuildProgress | None = None,
        *,
        on_athena: bool | None = None,
        memory_mib: int = 2048,
        thorough: bool = False,
    ) -> BuildResult:
        """Build the marts from the lake and the verdicts of incidents.

        Args:
            select: names of models to build; None builds all.
            progress: called after each finished step.
            on_athena: run the models on Athena; None takes the profile's default.
            memory_mib: what DuckDB may hold in memory.
            thorough: also run the tests that DuckDB runs on example rows, and those that read every event again.

        Raises:
            ConfigurationError: the profile cannot do that, or `select` names no model.
            RetryableError: another build is running.
            StateError: a model or a test failed.
        """
        from shopstream.incidents.verdicts import read_verdicts
        from shopstream.models.dbt import build

        if on_athena:
            raise ConfigurationError(
                f"expected the AWS profile for --target athena, got {self.settings.profile}; set SHOPSTREAM_PROFILE=aws"
            )
        with closing(self.open_lakehouse()) as lakehouse, closing(self.open_incidents()) as store:
            return build(
                lakehouse,
                self.settings.reports_path,
                self.settings.timezone,
                select,
                progress,
                verdicts=read_verdicts(store),
                memory_mib=memory_mib,
                thorough=thorough,
            )

    @abstractmethod
    def open_incidents(self) -> IncidentStore:
        """The incident store; the first write creates it."""

    @abstractmethod
    def open_live(self) -> LiveStore:
        """The live journeys."""

    @abstractmethod
    def open_checkpoints(self) -> CheckpointStore:
        """The engine's checkpoints."""

    def last_checkpoint(self) -> Manifest | None:
        """The current checkpoint; None before the first."""
        return self.open_checkpoints().current()

    def late_signals(self) -> str | None:
        """What to do about signals that detectors left out; None if they received all of them."""
        manifest = self.last_checkpoint()
        count = manifest.counters.get("late_signals", 0) if manifest else 0
        if not count:
            return None
        return (
            f"{count} signals arrived after detectors had processed their time, so incidents may be missing: the log "
            "of `shopstream run` says which and when; a new home that reads the stream from its start detects them"
        )

    def load_baselines(self) -> Baselines | None:
        """The baselines that `shopstream baselines build` learned; None before that."""
        from shopstream.detection.baseline import Baselines

        return Baselines.load(self.settings.baselines_path)

    def save_baselines(self, baselines: Baselines) -> str:
        """Save baselines for engines that start from now on; returns the place."""
        baselines.save(self.settings.baselines_path)
        return str(self.settings.baselines_path)

    def open_channels(self) -> list[NotificationChannel]:
        """One channel for each notification target, in the order of `notification_targets`.

        Raises:
            ConfigurationError: an address of notify.urls is not valid.
        """
        notify = self.settings.notify
        if not notify.urls:
            return []
        from shopstream.notify.channels import open_channels
        from shopstream.notify.sender import targets_of

        return [*open_channels(notify.urls, targets_of(notify))]

    def notification_targets(self) -> tuple[str, ...]:
        """A name for each channel, safe to show."""
        from shopstream.notify.sender import targets_of

        return targets_of(self.settings.notify)

    def open_sender(self) -> Sender:
        """Delivers queued notifications to the channels.

        Raises:
            ConfigurationError: an address of notify.urls is not valid.
        """
        from shopstream.notify.sender import Sender

        return Sender(self.open_incidents(), self.open_channels(), self.settings.notify, self.clock)

    def leadership(
        self,
        stop: Callable[[], bool],  # noqa: ARG002  the lock of `home` is enough here
        standing_by: Callable[[str], None],  # noqa: ARG002  likewise
    ) -> AbstractContextManager[Callable[[], None]]:
        """Wait until this process is the only engine of the stream.

        Args:
            stop: checked while waiting; true gives up.
            standing_by: called with the name of the engine that holds the lease.

        Returns:
            a context whose value raises a RetryableError once another process has taken over.

        Raises:
            RetryableError: `stop` returned true.
        """
        return nullcontext(lambda: None)

    @contextmanager
    def metrics(self) -> Iterator[Callable[[Progress], None]]:
        """A callable that publishes the engine's progress as metrics."""
        yield lambda _: None

    def open_archive(self) -> AbstractContextManager[Archive]:
        """One of the workers that store the stream's events in the lake.

        Raises:
            ConfigurationError: the profile has no shards that workers could share.
        """
        raise ConfigurationError(
            "archive workers share the shards of a Kinesis stream, the profile is "
            f"{self.settings.profile!r}: its `shopstream run` keeps events in the lake by itself; set "
            "SHOPSTREAM_PROFILE=aws"
        )

    @abstractmethod
    def dashboard_home(self) -> DataHome:
        """What the dashboard shows."""

    @abstractmethod
    def checks(self) -> dict[str, Check]:
        """The checks of `shopstream doctor`, by name."""
