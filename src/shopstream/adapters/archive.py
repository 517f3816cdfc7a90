"""Puts an archive worker together."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from uuid import uuid4

from shopstream.adapters.stores import aws_extra, open_lakehouse
from shopstream.archive import Archive
from shopstream.clock import Clock, SystemClock
from shopstream.config import Settings
from shopstream.errors import ConfigurationError
from shopstream.stream.leases import SharedShards

__all__ = ["open_archive"]

_CONSUMER = "archive"


@contextmanager
def open_archive(settings: Settings, clock: Clock | None = None) -> Iterator[Archive]:
    """One of the workers that keep the stream of events in the lake.

    Raises:
        ConfigurationError: the profile is not `aws`.
    """
    if settings.profile != "aws":
        raise ConfigurationError(
            "archive workers share the shards of a Kinesis stream, the profile is "
            f"{settings.profile!r}: its `shopstream run` keeps events in the lake by itself; set SHOPSTREAM_PROFILE=aws"
        )
    with aws_extra():
        from shopstream.stream.aws import KinesisStream  # noqa: PLC0415  the embedded profile has no boto3

    clock = clock or SystemClock()
    with ExitStack() as stack:
        stream = stack.enter_context(KinesisStream.open(settings.aws.kinesis, clock))
        shared = SharedShards(
            stream.leases(_CONSUMER),
            f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}",
            settings.aws.kinesis.lease_time,
            monotonic=time.monotonic,
        )
        yield stack.enter_context(
            closing(
                Archive(
                    stream=stream,
                    shared=shared,
                    lakehouse=stack.enter_context(closing(open_lakehouse(settings))),
                    settings=settings.engine,
                    clock=clock,
                )
            )
        )
