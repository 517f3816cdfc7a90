"""Settings that differ between stages: every construct gets one `StageConfig`.

`infra/stages.toml`, where there is one, changes values of a stage:

    [prod]
    ops_email = "shop-ops@example.com"
    events_mode = "provisioned"
    events_shards = 4
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints
from zoneinfo import available_timezones

from aws_cdk import Duration, RemovalPolicy
from aws_cdk.aws_logs import RetentionDays

__all__ = ["REPOSITORY", "SERVICE", "STAGES", "ConfigError", "StageConfig", "load_stages"]

SERVICE = "shopstream"
"""First part of every name, and the value of metric dimension `Service`."""

REPOSITORY = Path(__file__).resolve().parents[2]

_RETENTION_HOURS = range(24, 169)
_DISK_GIB = range(21, 201)
_TIMEOUT_S = range(15, 901)
_FUNCTION_MIB = range(128, 10_241)
_TASK_GIB = {
    512: range(1, 5),
    1024: range(2, 9),
    2048: range(4, 17),
    4096: range(8, 31),
    8192: range(16, 61, 4),
    16384: range(32, 121, 8),
}
"""Sizes of Fargate tasks: processor units to memory."""
_SPARK_WORKERS = 2
_VARIABLE = re.compile(
    r"SHOPSTREAM_((ENGINE|LAKEHOUSE|DETECTION|INCIDENTS|NOTIFY|DASHBOARD)__(?!URLS)[A-Z_]+"
    r"|AWS__KINESIS__(LEASE_TIME|POLL_INTERVAL|SKIP_GAPS))"
)
"""Settings of the program that a stage may set; the stacks set the rest, and notification addresses are secrets."""
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")
_QUICKSIGHT = re.compile(r"arn:aws[a-z-]*:quicksight:[a-z0-9-]+:\d{12}:(user|group)/[\w.@+=,/-]+")
_LOG_DAYS = {
    1: RetentionDays.ONE_DAY,
    7: RetentionDays.ONE_WEEK,
    14: RetentionDays.TWO_WEEKS,
    30: RetentionDays.ONE_MONTH,
    90: RetentionDays.THREE_MONTHS,
    180: RetentionDays.SIX_MONTHS,
    365: RetentionDays.ONE_YEAR,
    731: RetentionDays.TWO_YEARS,
}


_Rule = tuple[tuple[str, ...], str, Callable[[Any], object]]

_RULES: tuple[_Rule, ...] = (
    (
        ("events_retention_hours", "signals_retention_hours"),
        "from 24 to 168 hours",
        lambda hours: hours in _RETENTION_HOURS,
    ),
    (("log_days",), f"one of {', '.join(map(str, _LOG_DAYS))}", lambda days: days in _LOG_DAYS),
    (
        (
            "events_shards",
            "nat_gateways",
            "flink_parallelism",
            "monthly_budget_usd",
            "query_limit_gb",
            "silence_alarm_min",
            "lag_alarm_s",
        ),
        "at least 1",
        lambda number: number >= 1,
    ),
    (
        ("worker_standby", "archive_workers", "detection_reserved"),
        "at least 0",
        lambda number: number >= 0,
    ),
    (("backfill_workers",), f"at least {_SPARK_WORKERS}", lambda number: number >= _SPARK_WORKERS),
    (("worker_disk_gib",), "from 21 to 200", lambda size: size in _DISK_GIB),
    (("worker_cpu",), f"one of {', '.join(map(str, _TASK_GIB))}", lambda cpu: cpu in _TASK_GIB),
    (("detection_timeout_s",), "from 15 to 900", lambda seconds: seconds in _TIMEOUT_S),
    (("detection_memory_mib",), "from 128 to 10240", lambda memory: memory in _FUNCTION_MIB),
    (("timezone",), "an IANA name such as Europe/Berlin", lambda name: name in (available_timezones() or {name})),
    (
        ("settings",),
        "text by variable, none that the stacks set (see docs/aws.md)",
        lambda given: all(_VARIABLE.fullmatch(name) and isinstance(text, str) for name, text in given.items()),
    ),
    (
        ("build_schedule", "upkeep_schedule"),
        "cron(…) or rate(…)",
        lambda schedule: re.fullmatch(r"(cron|rate)\(.+\)", schedule),
    ),
    (("crawler_schedule",), "cron(…) or empty", lambda schedule: re.fullmatch(r"(cron\(.+\))?", schedule)),
    (("worker_image",), "repository:tag or empty", lambda image: re.fullmatch(r"([a-z0-9._/-]+:[\w.-]+)?", image)),
    (("flink_code",), "s3://bucket/key or empty", lambda place: re.fullmatch(r"(s3://[^/]+/.+)?", place)),
    (
        ("ops_email", "incidents_email"),
        "an address or empty",
        lambda address: re.fullmatch(r"([^@\s]+@[^@\s]+)?", address),
    ),
    (
        ("quicksight_owner", "quicksight_readers"),
        "an ARN such as arn:aws:quicksight:us-east-1:111122223333:user/default/name, or empty",
        lambda arn: not arn or _QUICKSIGHT.fullmatch(arn),
    ),
    (("quicksight_refresh",), "hh:mm", _CLOCK.fullmatch),
)
"""Settings, their rule in words, and its check."""


class ConfigError(Exception):
    """Invalid value of a stage; states rule, value and remedy."""


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage. Prices in comments are us-east-1's and rough: `shopstream plan` computes them."""

    name: str
    retains: bool
    """Whether destroying the stage keeps what cannot be recreated: lake, raw files, incidents, key."""

    # Recipients
    ops_email: str = ""
    """Receives alarms about the pipeline; empty: subscribe by hand."""
    incidents_email: str = ""
    """Receives notifications of incidents; empty: subscribe by hand."""

    # Streams
    events_mode: Literal["on-demand", "provisioned"] = "on-demand"
    events_shards: int = 2
    """Shards of a provisioned events stream; each takes 1 MiB/s or 1,000 records/s."""
    events_retention_hours: int = 24
    signals_retention_hours: int = 168
    """Long, so that records named by the queue of failed signals can still be read."""

    # Network
    egress: Literal["nat", "endpoints"] = "nat"
    """nat: gateways to the internet (33 $ a month each); endpoints: to AWS only (12 of 8 $ a month and zone)."""
    nat_gateways: int = 1

    # Worker
    worker_image: str = ""
    """`repository:tag` in this account's ECR; empty builds docker/Dockerfile on deployment."""
    worker_cpu: int = 1024
    worker_memory_mib: int = 4096
    worker_disk_gib: int = 30
    worker_standby: int = 0
    """Standby workers, which wait for the lease."""
    archive_workers: int = 0
    """Workers of `shopstream archive`, which write the lake when windows run on Flink."""
    build_schedule: str = "cron(0 3 * * ? *)"
    """When reports are built (UTC)."""
    upkeep_schedule: str = "cron(0 2 * * ? *)"
    """When the lake is compacted and expired (UTC)."""

    # Detection
    detection: Literal["lambda", "worker"] = "lambda"
    detection_memory_mib: int = 1769
    """1769 MiB are one whole CPU."""
    detection_timeout_s: int = 120
    detection_zip: str = "dist/lambda/shopstream-detection.zip"
    """Relative to the repository; `make lambda` builds it."""
    detection_reserved: int = 0
    """Reserved concurrency of each function; 0 reserves none, since small accounts have none to spare."""
    baselines_key: str = ""
    """Key of baselines.json in the lake's bucket; empty: detectors learn from scratch."""

    # Flink
    flink_code: str = ""
    """s3://bucket/key of the job's zip; empty creates no application."""
    flink_parallelism: int = 1
    flink_notebook: bool = False
    """A Studio (Zeppelin) notebook; costs by the hour while it runs."""

    # Upkeep
    log_days: int = 30
    timezone: str = "UTC"
    monthly_budget_usd: int = 250
    settings: dict[str, str] = field(default_factory=dict)
    """Variables of docs/configuration.md for containers, functions and people."""

    # Queries and dashboards
    query_limit_gb: int = 100
    """Athena stops a query that scans more (half a dollar)."""
    crawler_schedule: str = ""
    """When the crawler reads raw/ (UTC), such as cron(0 1 * * ? *); empty: on demand."""
    backfill_wheel: str = ""
    """Wheel of shopstream for the Spark job that loads raw files, relative to the repository; empty creates no job."""
    backfill_workers: int = 4
    """Workers of the Spark job, 1 DPU each; the first one is the driver."""
    quicksight_owner: str = ""
    """ARN of a QuickSight user or group that owns the dashboard; empty creates nothing in QuickSight."""
    quicksight_readers: str = ""
    """ARN of a QuickSight user or group with read access."""
    quicksight_refresh: str = "04:00"
    """Time of day (UTC) when QuickSight refreshes the marts; after `build_schedule`."""

    # Alarms
    runbooks: str = "docs/runbooks/"
    """Location of the runbooks in alarm texts; an https address of this folder makes them links."""
    lag_alarm_s: int = 120
    silence_alarm_min: int = 15

    def __post_init__(self) -> None:
        """Reject early what AWS would reject minutes later."""
        for settings, expected, fits in _RULES:
            for setting in settings:
                if not fits(getattr(self, setting)):
                    raise self._wrong(setting, expected)
        gib, rest = divmod(self.worker_memory_mib, 1024)
        if rest or gib not in _TASK_GIB[self.worker_cpu]:
            sizes = ", ".join(str(size * 1024) for size in _TASK_GIB[self.worker_cpu])
            raise self._wrong("worker_memory_mib", f"one of {sizes} with worker_cpu = {self.worker_cpu}")
        if self.quicksight_readers and not self.quicksight_owner:
            raise self._wrong("quicksight_readers", "empty without quicksight_owner")
        if self.flink_code and self.detection != "lambda":
            raise self._wrong("detection", "'lambda' when windows run on Flink: there is no worker to run detection")

    def _wrong(self, setting: str, expected: str) -> ConfigError:
        return ConfigError(
            f"expected {setting} of stage {self.name} to be {expected}, got {getattr(self, setting)!r}; "
            "correct it in infra/stages.toml"
        )

    @property
    def prefix(self) -> str:
        """Prefix of the names of this stage."""
        return f"{SERVICE}-{self.name}"

    def named(self, part: str) -> str:
        """A resource's name: shopstream-dev-events."""
        return f"{self.prefix}-{part}"

    @property
    def metrics_namespace(self) -> str:
        """CloudWatch namespace of our own metrics."""
        return self.prefix

    @property
    def removal_policy(self) -> RemovalPolicy:
        """Removal policy of what cannot be recreated."""
        return RemovalPolicy.RETAIN if self.retains else RemovalPolicy.DESTROY

    @property
    def log_retention(self) -> RetentionDays:
        """Retention of every log group."""
        return _LOG_DAYS[self.log_days]

    @property
    def key_pending(self) -> Duration:
        """How long a destroyed key can be recovered."""
        return Duration.days(7)


STAGES: Mapping[str, StageConfig] = {
    "dev": StageConfig(name="dev", retains=False, log_days=7),
    "prod": StageConfig(
        name="prod",
        retains=True,
        events_retention_hours=168,
        nat_gateways=2,
        worker_cpu=2048,
        worker_memory_mib=8192,
        worker_standby=1,
        detection_reserved=1,
        log_days=90,
        monthly_budget_usd=500,
    ),
}


def load_stages(overrides: Path) -> dict[str, StageConfig]:
    """The shipped stages, with the values of a TOML file if it exists.

    Raises:
        ConfigError: unknown stage, unknown setting, or a value that does not fit.
    """
    stages = dict(STAGES)
    if not overrides.is_file():
        return stages
    try:
        tables = tomllib.loads(overrides.read_text(encoding="utf-8"))
    except ValueError as error:  # of syntax or of encoding
        raise ConfigError(f"{overrides} cannot be read as TOML: {error}") from error
    for name, values in tables.items():
        if name not in stages:
            raise ConfigError(f"expected a stage of {', '.join(stages)} in {overrides}, got [{name}]; correct its name")
        if not isinstance(values, dict):
            raise ConfigError(f"expected settings below [{name}] in {overrides}, got {name} = {values!r}")
        stages[name] = _with(stages[name], values, overrides)
    return stages


def _with(stage: StageConfig, values: Mapping[str, object], source: Path) -> StageConfig:
    hints = get_type_hints(StageConfig)
    known = {field.name for field in fields(StageConfig)} - {"name"}
    for setting, value in values.items():
        if setting not in known:
            raise ConfigError(
                f"expected a setting of a stage in {source}, got {setting!r}; there are {', '.join(sorted(known))}"
            )
        hint = hints[setting]
        if get_origin(hint) is Literal:
            fits, expected = value in get_args(hint), " or ".join(map(repr, get_args(hint)))
        else:
            fits, expected = type(value) is (get_origin(hint) or hint), hint.__name__
        if not fits:
            raise ConfigError(
                f"expected {setting} of stage {stage.name} to be {expected}, got {value!r}; correct {source}"
            )
    return replace(stage, **values)  # type: ignore[arg-type]  # checked above
