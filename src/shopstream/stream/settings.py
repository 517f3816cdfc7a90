"""Settings of the embedded stream."""

from datetime import timedelta
from typing import Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field

__all__ = ["StreamSettings"]


class StreamSettings(BaseModel):
    """Settings of the embedded stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: int = Field(default=4, ge=1, le=1024, description="Shards of a new stream.")
    retention: timedelta = Field(
        default=timedelta(hours=24),
        gt=timedelta(0),
        description="Records older than this are dropped, whether they were read or not.",
    )
    max_bytes: ByteSize = Field(
        default=ByteSize(8 << 30),
        ge=64 << 20,
        description="Disk the stream may take, its log of changes included (64 MiB at least); a full one drops what "
        "retention allows, then pushes back on its writers.",
    )
    fsync: Literal["always", "batch", "never"] = Field(
        default="batch",
        description="always: each put survives a power cut; batch: survives a crash of the process, a power cut may "
        "cost the last puts; never: leaves it to the operating system.",
    )
