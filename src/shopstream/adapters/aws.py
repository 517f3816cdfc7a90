"""The AWS profile: Kinesis, DynamoDB, S3 and Glue; `home` holds working copies."""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING
from uuid import uuid4

from shopstream.adapters.ports import Adapters
from shopstream.aws.objects import S3Objects
from shopstream.dashboard.sources import DataHome, EngineState
from shopstream.engine.checkpoint import CheckpointStore, SharedCheckpointStore
from shopstream.errors import ConfigurationError, RetryableError, ShopstreamError
from shopstream.incidents.aws import DynamoIncidentStore
from shopstream.journeys.store import LiveFile, LiveObject
from shopstream.notify.aws import SnsChannel
from shopstream.notify.sender import targets_of
from shopstream.stream.aws import KinesisStream
from shopstream.stream.lease_table import LeaseTable
from shopstream.stream.leases import HeartbeatMonitor, LeaderLease, SharedShards
from shopstream.stream.ports import lag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shopstream.adapters.checks import Check
    from shopstream.archive import Archive
    from shopstream.detection.baseline import Baselines
    from shopstream.journeys.store import LiveStore
    from shopstream.lakehouse.aws import AwsLakehouse
    from shopstream.models.dbt import BuildResult
    from shopstream.models.dbt import Progress as BuildProgress
    from shopstream.notify.ports import NotificationChannel
    from shopstream.pipeline import Progress

_CONSUMER = "archive"
_REFRESH = timedelta(seconds=5)
_ENGINE_S = 10.0
"""Asking for the lag takes reads of each shard away from the engine."""
_REPORTS_S = 60.0
"""Marts change with a build, a few times a day."""


class AwsAdapters(Adapters):
    """AWS services, and copies in `home`; see `Adapters`."""

    readers = 8
    self_contained = False

    @property
    def stream_name(self) -> str:
        """Name of the Kinesis stream."""
        return self.settings.aws.kinesis.events

    @property
    def heartbeat_file(self) -> Path:
        """What the health check of the worker's container looks at."""
        return self.settings.home / "alive"

    @property
    def replay_ledger(self) -> Path:
        """In `home`: the lake is shared by many machines."""
        return self.settings.home

    def open_stream(self) -> KinesisStream:
        """The Kinesis stream of events."""
        return KinesisStream.open(self.settings.aws.kinesis, self.clock)

    def has_stream(self) -> bool:
        """Deployed by the stacks in `infra/`."""
        return True

    def open_signals(self) -> KinesisStream | None:
        """The Kinesis stream that the detection function reads."""
        if self.settings.aws.detection == "worker":
            return None
        kinesis = self.settings.aws.kinesis
        return KinesisStream.open(kinesis, self.clock, stream=kinesis.signals)

    def open_lakehouse(self) -> AwsLakehouse:
        """Iceberg tables on S3, with the Glue catalog."""
        from shopstream.lakehouse.aws import AwsLakehouse

        return AwsLakehouse(self.settings.lakehouse, self.settings.aws.glue)

    def has_lake(self) -> bool:
        """Deployed by the stacks in `infra/`."""
        return True

    def reports_file(self) -> Path:
        """A local copy of the marts, fetched if Athena has built newer ones."""
        from shopstream.models.athena import fetch_marts

        with closing(self.open_lakehouse()) as lakehouse:
            fetch_marts(lakehouse, self.settings.reports_path)
        return self.settings.reports_path

    def build_reports(
        self,
        select: Sequence[str] | None = None,
        progress: BuildProgress | None = None,
        *,
        on_athena: bool | None = None,
        memory_mib: int = 2048,
        thorough: bool = False,
    ) -> BuildResult:
        """On Athena by default; see `Adapters.build_reports`."""
        from shopstream.incidents.verdicts import read_verdicts
        from shopstream.models.athena import build_on_athena

        if on_athena is False:
            return super().build_reports(select, progress, memory_mib=memory_mib, thorough=thorough)
        if thorough:
            raise ConfigurationError("--thorough needs DuckDB to run the models on example rows; add --target duckdb")
        with closing(self.open_incidents()) as store:
            verdicts = read_verdicts(store)
        with closing(self.open_lakehouse()) as lakehouse:
            return build_on_athena(
                lakehouse, self.settings.reports_path, self.settings.timezone, select, progress, verdicts=verdicts
            )

    def open_incidents(self) -> DynamoIncidentStore:
        """DynamoDB."""
        return DynamoIncidentStore(self.settings.aws.dynamodb, self.settings.incidents.retention, self.clock)

    def open_live(self) -> LiveStore:
        """Beside the checkpoints in S3; in `home` where no place is named."""
        objects = self._objects()
        return LiveObject(objects, self.clock) if objects else LiveFile(self.settings.live_path)

    def open_checkpoints(self) -> CheckpointStore:
        """In S3; in `home` where no place is named."""
        path, objects = self.settings.checkpoint_path, self._objects()
        return SharedCheckpointStore(path, objects) if objects else CheckpointStore(path)

    def load_baselines(self) -> Baselines | None:
        """Fetched from S3 where a place is named."""
        if self.settings.aws.baselines:
            for objects, key, path in self._baseline_files(self.settings.aws.baselines):
                path.parent.mkdir(parents=True, exist_ok=True)
                content = objects.read(key)
                if content is None:
                    path.unlink(missing_ok=True)
                else:
                    path.write_bytes(content[0])
        return super().load_baselines()

    def save_baselines(self, baselines: Baselines) -> str:
        """Uploaded to S3 where a place is named."""
        local, place = super().save_baselines(baselines), self.settings.aws.baselines
        if place is None:
            return local
        for objects, key, path in self._baseline_files(place):
            if path.exists():
                objects.upload(key, path)
        return place

    def _baseline_files(self, address: str) -> list[tuple[S3Objects, str, Path]]:
        """Products, which only an engine needs, have a file of their own; the figures come last."""
        products, path = ".products.parquet", self.settings.baselines_path
        pairs = [(address.removesuffix(".json") + products, path.with_suffix(products)), (address, path)]
        return [(S3Objects(place.rpartition("/")[0]), place.rpartition("/")[2], file) for place, file in pairs]

    def open_channels(self) -> list[NotificationChannel]:
        """The addresses of the settings, then the SNS topic."""
        topic = self.settings.aws.dynamodb.topic_arn
        return [*super().open_channels(), *([SnsChannel(topic)] if topic else [])]

    def notification_targets(self) -> tuple[str, ...]:
        """The addresses of the settings, then the SNS topic."""
        return targets_of(self.settings.notify, self.settings.aws.dynamodb.topic_arn)

    @contextmanager
    def leadership(self, stop: Callable[[], bool], standing_by: Callable[[str], None]) -> Iterator[Callable[[], None]]:
        """By a lease in DynamoDB: one engine per stream, wherever it runs."""
        kinesis = self.settings.aws.kinesis
        with LeaderLease(
            LeaseTable(kinesis.leases, f"{kinesis.events}/engine-lease"),
            "engine",
            _process_name(),
            kinesis.lease_time,
            clock=self.clock,
            monotonic=time.monotonic,
        ) as lease:
            if not lease.acquire(stop=stop, waiting=standing_by):
                raise RetryableError("stopped while another process was the engine; start it again to stand by")
            yield lease.check

    @contextmanager
    def metrics(self) -> Iterator[Callable[[Progress], None]]:
        """To CloudWatch."""
        from shopstream.metrics import CloudWatchSink, WorkerMetrics

        if not self.settings.aws.metrics:
            yield lambda _: None
            return
        with closing(WorkerMetrics(CloudWatchSink(self.settings.aws.metrics, "worker"), self.clock)) as metrics:
            yield lambda where: metrics.observe(where.counters, where.behind_ms, where.watermark_ms)

    @contextmanager
    def open_archive(self) -> Iterator[Archive]:
        """A worker that takes its share of the shards by leases in DynamoDB."""
        from shopstream.archive import Archive

        with ExitStack() as stack:
            stream = stack.enter_context(self.open_stream())
            lease_time = self.settings.aws.kinesis.lease_time
            shared = SharedShards(stream.leases(_CONSUMER), _process_name(), lease_time, monotonic=time.monotonic)
            lakehouse = stack.enter_context(closing(self.open_lakehouse()))
            worker = Archive(
                stream=stream, shared=shared, lakehouse=lakehouse, settings=self.settings.engine, clock=self.clock
            )
            yield stack.enter_context(closing(worker))

    def dashboard_home(self) -> DataHome:
        """Copies in `home` of what the engine on AWS writes."""
        live = self._in_home("live.copy.json")
        home = DataHome.at(self.settings.home)
        return replace(home, incidents=self.open_incidents, live=live, remote=RemoteHome(self, live), refresh=_REFRESH)

    def checks(self) -> dict[str, Check]:
        """Rules, free space, and each AWS resource."""
        from shopstream.adapters.aws_checks import AWS_CHECKS
        from shopstream.adapters.checks import COMMON_CHECKS, check_detection, check_reports

        return COMMON_CHECKS | AWS_CHECKS | {"detection": check_detection, "reports": check_reports}

    def _in_home(self, name: str) -> Path:
        self.settings.home.mkdir(parents=True, exist_ok=True)
        return self.settings.home / name

    def _objects(self) -> S3Objects | None:
        """Where checkpoints and live journeys are stored; None where the setting names no place."""
        return S3Objects(self.settings.aws.checkpoints) if self.settings.aws.checkpoints else None


def _process_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"


class RemoteHome:
    """Copies what the engine on AWS writes, for the dashboard; see `dashboard.sources.RemoteEngine`.

    Args:
        adapters: open what the engine writes.
        live: file that gets the live journeys.
        monotonic: seconds of a clock that never goes back.
    """

    def __init__(self, adapters: AwsAdapters, live: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        kinesis = adapters.settings.aws.kinesis
        self._adapters = adapters
        self._monotonic = monotonic
        self._stream = adapters.open_stream()
        self._leases = LeaseTable(kinesis.leases, f"{kinesis.events}/engine-lease")
        self._monitor = HeartbeatMonitor(kinesis.lease_time, monotonic)
        self._checkpoints = adapters.open_checkpoints()
        self._remote_live, self._live = adapters.open_live(), LiveFile(live)
        self._lock = Lock()
        self._refresh_at = self._engine_at = self._reports_at = float("-inf")
        self._state: EngineState | None = None
        self._error: ShopstreamError | None = None

    def refresh(self) -> None:
        """See `RemoteEngine.refresh`; every five seconds at most."""
        with self._lock:
            if self._monotonic() < self._refresh_at:
                return
            try:
                panels = self._remote_live.read()
                as_of_ms = panels.pop("as_of_ms", None)
                if isinstance(as_of_ms, int):
                    self._live.publish(panels, as_of_ms)
                if self._monotonic() >= self._reports_at:
                    self._adapters.reports_file()
                    self._reports_at = self._monotonic() + _REPORTS_S
                self._error = None
            except ShopstreamError as error:
                self._error = error
            self._refresh_at = self._monotonic() + _REFRESH.total_seconds()

    def engine(self) -> EngineState:
        """See `RemoteEngine.engine`; at most ten seconds old."""
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._state is None or self._monotonic() >= self._engine_at:
                self._state = self._ask()
                self._engine_at = self._monotonic() + _ENGINE_S
            return self._state

    def _ask(self) -> EngineState:
        manifest = self._checkpoints.current()
        owners = self._monitor.live_owners(self._leases.all())
        return EngineState(
            running=owners.get("engine") is not None,
            manifest=manifest,
            committed_at=self._checkpoints.committed_at(),
            lag_ms=lag(self._stream, manifest.positions if manifest else {}, self._adapters.clock),
        )
