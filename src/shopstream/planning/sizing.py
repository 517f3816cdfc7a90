"""The AWS capacity that an event rate requires: shards, processors, calls and bytes."""

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from shopstream.errors import ConfigurationError
from shopstream.planning.assumptions import Assumptions

_DAY_S = 86_400
_HOUR_S = 3_600
_PUT_UNIT = 25 * 1024
_KIB = Decimal(1024)
_GB = Decimal(10**9)
_GIB = Decimal(1 << 30)
_MILLION = Decimal(10**6)
_PEAK = 4

# vCPU → the least memory, the most, and the steps between, in GiB: published sizes of Fargate tasks.
_TASKS = (
    (Decimal(1), 2, 8, 1),
    (Decimal(2), 4, 16, 1),
    (Decimal(4), 8, 30, 1),
    (Decimal(8), 16, 60, 4),
    (Decimal(16), 32, 120, 8),
)


@dataclass(frozen=True, slots=True)
class Load:
    """The load of a shop.

    Attributes:
        events_per_second: mean over a month.
        peak: events per second at the peak.
        days_kept: how long events stay in the lake.
    """

    events_per_second: Decimal
    peak: Decimal
    days_kept: int

    @classmethod
    def of(cls, events_per_second: Decimal, peak: Decimal | None, days_kept: int) -> "Load":
        """A checked load; the default peak is four times the mean.

        Raises:
            ConfigurationError: the mean is not above 0, or the peak is below the mean.
        """
        if not events_per_second.is_finite() or events_per_second <= 0:
            raise ConfigurationError(f"expected more than 0 events a second, got {events_per_second}")
        peak = events_per_second * _PEAK if peak is None else peak
        if not peak.is_finite() or peak < events_per_second:
            raise ConfigurationError(
                f"expected a peak of at least the mean ({events_per_second} events a second), got {peak}; "
                "--peak counts events a second, too"
            )
        return cls(events_per_second, peak, days_kept)

    def events(self, hours: Decimal) -> Decimal:
        """Events of a number of hours at the mean rate."""
        return self.events_per_second * hours * _HOUR_S


@dataclass(frozen=True, slots=True)
class StreamCapacity:
    """The events stream.

    Attributes:
        shards: provisioned shards, so that each carries its share of the peak.
        key: partition key.
        isolated: the largest category needs a shard of its own.
        records: a second, at the mean rate.
        bytes: a second, at the mean rate.
        peak_bytes: a second, at the peak.
        fullest: bytes a second of the fullest shard at the peak.
        put_units: of 25 KiB, a second, at the mean rate.
        rounded_bytes: a second, each record rounded up to a KiB, at the mean rate.
    """

    shards: int
    key: str
    isolated: bool
    records: Decimal
    bytes: Decimal
    peak_bytes: Decimal
    fullest: Decimal
    put_units: Decimal
    rounded_bytes: Decimal


@dataclass(frozen=True, slots=True)
class WindowCapacity:
    """What computes the windows.

    Attributes:
        flink: the peak or the state of a day's shoppers exceeds one worker.
        worker_limit: greatest peak of one worker, events per second.
        vcpu: of the worker's task; 0 with Flink.
        memory_gib: of the worker's task; 0 with Flink.
        kpus: of the Flink application, without the one for orchestration; 0 without Flink.
        state_gib: memory that a worker would need.
    """

    flink: bool
    worker_limit: Decimal
    state_gib: Decimal
    vcpu: Decimal
    memory_gib: Decimal
    kpus: int


@dataclass(frozen=True, slots=True)
class FunctionCapacity:
    """The detection function.

    Attributes:
        calls: a month.
        seconds: one call takes at the mean rate.
        gb_seconds: a month.
        concurrency: calls at once; one, since one shard orders the signals.
        busy: share of the time it works at the peak; above 1 it falls behind.
        signal_bytes: a second, at the peak.
    """

    calls: Decimal
    seconds: Decimal
    gb_seconds: Decimal
    concurrency: int
    busy: Decimal
    signal_bytes: Decimal


@dataclass(frozen=True, slots=True)
class TableCapacity:
    """The DynamoDB tables: request units a month, and gigabytes."""

    writes: Decimal
    reads: Decimal
    gigabytes: Decimal


@dataclass(frozen=True, slots=True)
class LakeCapacity:
    """S3, Glue and Athena: gigabytes when it is full, the rest a month."""

    gigabytes: Decimal
    puts: Decimal
    gets: Decimal
    glue_requests: Decimal
    scanned_gb: Decimal
    delivered_gb: Decimal


@dataclass(frozen=True, slots=True)
class Capacity:
    """The capacity that a load requires."""

    load: Load
    stream: StreamCapacity
    windows: WindowCapacity
    function: FunctionCapacity
    table: TableCapacity
    lake: LakeCapacity


def required_capacity(load: Load, given: Assumptions) -> Capacity:
    """The capacity for a load."""
    stream = _stream(load, given)
    return Capacity(
        load, stream, _windows(load, given), _function(load, given), _table(load, given, stream), _lake(load, given)
    )


def round_up(value: Decimal) -> int:
    """The least integer that is not below the value."""
    return int(value.to_integral_value(ROUND_CEILING))


def _stream(load: Load, given: Assumptions) -> StreamCapacity:
    """Shards by bytes and records; a category is one key, so it never exceeds one shard."""
    room = given["shard_bytes"] * given["shard_load"]
    sends = given["producers"] / given["producer_seconds"]  # records a second and shard, at most
    if sends > given["shard_records"] * given["shard_load"]:
        raise ConfigurationError(
            f"expected at most {given['shard_records'] * given['shard_load']} records a second and shard, "
            f"{given['producers']} producers that send every {given['producer_seconds']} s make {sends:.0f}; let them "
            "gather longer: --assume producer_seconds=N"
        )
    room -= sends * given["record_bytes"]
    event, hot = given["event_bytes"], given["hot_category_share"]
    if room <= 0:
        raise ConfigurationError(
            "expected room for events in a shard, records without events fill it; let producers gather longer: "
            "--assume producer_seconds=N"
        )
    whole = load.peak * event
    isolated, key = False, "category_id"
    if whole <= room:
        shards, share = 1, Decimal(1)
    elif whole * hot <= room:
        shards = 1 + round_up(whole * (1 - hot) / room)
        share = hot + (1 - hot) / shards
        isolated = whole * share > room
        share = max(hot, (1 - hot) / (shards - 1)) if isolated else share
    else:
        key = "user_session"
        shards = round_up(whole * given["key_skew"] / room)
        share = given["key_skew"] / shards
    records = min(load.events_per_second, shards * sends)
    mean = records * given["record_bytes"] + load.events_per_second * event
    peak_records = min(load.peak, shards * sends)
    each = mean / records
    return StreamCapacity(
        shards=shards,
        key=key,
        isolated=isolated,
        records=records,
        bytes=mean,
        peak_bytes=peak_records * given["record_bytes"] + whole,
        fullest=whole * share + sends * given["record_bytes"],
        put_units=records * round_up(each / _PUT_UNIT),
        rounded_bytes=records * round_up(each / _KIB) * _KIB,
    )


def _windows(load: Load, given: Assumptions) -> WindowCapacity:
    wall_us = (given["engine_wall_us"] + given["lake_wall_us"]) * given["aws_factor"]
    limit = _MILLION / wall_us * given["worker_load"]
    actors = load.events_per_second * _DAY_S * given["actors_per_event"]
    memory = given["worker_memory"] + actors * given["actor_bytes"] * given["state_copies"] / _GIB
    cpu_us = (given["engine_cpu_us"] + given["detectors_cpu_us"] + given["lake_cpu_us"]) * given["aws_factor"]
    busy = load.peak * cpu_us / _MILLION / given["worker_load"]
    fitting = (task for task in _TASKS if busy <= task[0] and memory <= task[2])
    task = next(fitting, None)
    if load.peak > limit or memory > given["worker_memory_limit"] or task is None:
        kpus = round_up(load.peak * given["flink_cpu_us"] / _MILLION / given["flink_load"])
        return WindowCapacity(True, limit, memory, Decimal(0), Decimal(0), kpus)
    vcpu, least, _, step = task
    return WindowCapacity(False, limit, memory, vcpu, Decimal(max(least, round_up(memory / step) * step)), 0)


def _function(load: Load, given: Assumptions) -> FunctionCapacity:
    window = given["function_seconds"]
    calls = given["hours"] * _HOUR_S / window

    def seconds(events_per_second: Decimal) -> Decimal:
        signals = events_per_second * given["signals_per_event"] * window
        return given["function_base_ms"] / 1000 + signals * given["signal_us"] / _MILLION

    mean = seconds(load.events_per_second)
    return FunctionCapacity(
        calls=calls,
        seconds=mean,
        gb_seconds=calls * mean * given["function_gb"],
        concurrency=1,
        busy=seconds(load.peak) / window,
        signal_bytes=load.peak * given["signals_per_event"] * given["signal_bytes"],
    )


def _table(load: Load, given: Assumptions, stream: StreamCapacity) -> TableCapacity:
    calls = given["hours"] * _HOUR_S / given["function_seconds"]
    renewals = (stream.shards + 1) * given["hours"] * _HOUR_S / given["lease_seconds"]
    incidents = load.events(given["incident_days"] * 24) / _MILLION * given["incidents_per_million"]
    return TableCapacity(
        writes=calls * given["writes_per_call"] + renewals,
        reads=calls * given["reads_per_call"] + renewals,
        gigabytes=incidents * given["incident_bytes"] / _GB,
    )


def _lake(load: Load, given: Assumptions) -> LakeCapacity:
    commits = given["hours"] * _HOUR_S / given["commit_seconds"]
    days = given["hours"] / 24
    held = load.events(Decimal(load.days_kept * 24)) * given["lake_bytes"] / _GB
    queries = days * given["queries_per_day"] * given["query_gb"]
    return LakeCapacity(
        gigabytes=held * (1 + given["marts_bytes"] / given["lake_bytes"]),
        puts=commits * given["puts_per_commit"] + given["hours"] * _HOUR_S / given["live_seconds"],
        gets=commits * given["gets_per_commit"],
        glue_requests=commits * given["glue_per_commit"],
        scanned_gb=days * given["reports_per_day"] * given["report_scans"] * held + queries,
        delivered_gb=load.events(given["hours"])
        / _MILLION
        * given["detections_per_million"]
        * given["detection_bytes"]
        / _GB,
    )
