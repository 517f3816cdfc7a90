"""The stores of the AWS profile, and the object store that checkpoints and live panels lie in."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from shopstream.aws.objects import S3Objects
from shopstream.clock import Clock, SystemClock
from shopstream.config import Settings
from shopstream.engine.checkpoint import CheckpointStore, SharedCheckpointStore
from shopstream.errors import RetryableError
from shopstream.stream.aws import KinesisStream
from shopstream.stream.leader import LeaderLease
from shopstream.stream.lease_table import LeaseTable

if TYPE_CHECKING:
    from shopstream.journeys.ports import LiveStore
    from shopstream.lakehouse.aws import AwsLakehouse

__all__ = [
    "engine_lease",
    "fetch_baselines",
    "fetch_reports",
    "objects_of",
    "open_checkpoints",
    "open_lakehouse",
    "open_live",
    "open_signals",
    "open_stream",
    "put_baselines",
]


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
