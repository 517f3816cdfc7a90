"""Settings of streams: the embedded one, and those on Kinesis."""

from datetime import timedelta
from typing import Literal

from pydantic import ByteSize, Field

from shopstream.settings_section import PositiveDuration, SettingsSection


class StreamSettings(SettingsSection):
    """Settings of the embedded stream."""

    shards: int = Field(default=4, ge=1, le=1024, description="Shards of a new stream.")
    retention: PositiveDuration = Field(
        default=timedelta(hours=24),
        description="Records older than this are dropped, whether they were read or not.",
    )
    max_bytes: ByteSize = Field(
        default=ByteSize(8 << 30),
        ge=64 << 20,
        description="Disk space of the stream, its write-ahead log included (64 MiB at least); a full stream drops "
        "expired records, then pushes back on its writers.",
    )
    fsync: Literal["always", "batch", "never"] = Field(
        default="batch",
        description="always: each put survives a power cut; batch: puts survive a crash of the process, a power cut "
        "may lose the last ones; never: the operating system decides.",
    )


class KinesisSettings(SettingsSection):
    """Settings of the streams on Kinesis; the default names are those of the stacks in `infra/`."""

    events: str = Field(default="shopstream-events", min_length=1, description="Stream of events.")
    signals: str = Field(
        default="shopstream-signals",
        min_length=1,
        description="Stream of signals; it has one shard, which keeps them in order.",
    )
    leases: str = Field(
        default="shopstream-leases",
        min_length=1,
        description="DynamoDB table of leases and consumer positions.",
    )
    lease_time: timedelta = Field(
        default=timedelta(seconds=30),
        ge=timedelta(seconds=1),
        description="A worker that has not renewed its leases for this long counts as dead.",
    )
    poll_interval: PositiveDuration = Field(
        default=timedelta(milliseconds=500),
        description="Pause between two reads of a shard at its tip; Kinesis allows five a second and shard, for all "
        "consumers together.",
    )
    skip_gaps: bool = Field(
        default=False,
        description="Continue, with a warning in the log, where retention dropped records before they were read; "
        "otherwise that is an error.",
    )
