"""Settings of windows, watermarks and checkpoints."""

from datetime import timedelta

from pydantic import ByteSize, Field

from shopstream.settings_section import Duration, PositiveDuration, SettingsSection


class EngineSettings(SettingsSection):
    """Settings of windows, watermarks and checkpoints."""

    out_of_orderness: Duration = Field(
        default=timedelta(seconds=5),
        description="How far an event may lag behind the newest one of its shard before it is late.",
    )
    idle_timeout: PositiveDuration = Field(
        default=timedelta(seconds=10),
        description="A shard whose polls found no records for this long no longer holds the watermark back. A silence "
        "counts from then on, too.",
    )
    dedup_horizon: Duration = Field(
        default=timedelta(minutes=2),
        description="Duplicates are found in the stream if their event time is at most this far behind the watermark; "
        "reports deduplicate over all history.",
    )
    dedup_events: int = Field(
        default=1_000_000,
        ge=0,
        description="Duplicates of this many newest events are found whatever their event time; take more than what a "
        "producer repeats after a crash.",
    )
    batch_events: int = Field(default=500_000, ge=1, description="Maximum events of a micro-batch, approximately.")
    batch_bytes: ByteSize = Field(default=ByteSize(16 << 20), description="Maximum bytes read for a micro-batch.")
    poll_interval: PositiveDuration = Field(
        default=timedelta(milliseconds=100), description="Pause between micro-batches at the tip."
    )
    commit_interval: PositiveDuration = Field(
        default=timedelta(seconds=5),
        description="Maximum time between commits of lake and checkpoint.",
    )
    commit_events: int = Field(
        default=1_000_000, ge=1, description="Commit earlier once this many events wait; bounds memory."
    )
    max_drift: PositiveDuration = Field(
        default=timedelta(seconds=10),
        description="A shard this far ahead of the slowest one in event time waits; bounds state in a replay.",
    )
    threads: int | None = Field(default=None, ge=1, description="DuckDB threads; default: one per core.")
    memory_limit: ByteSize = Field(
        default=ByteSize(2 << 30), description="Memory that DuckDB may use before it spills to disk."
    )
