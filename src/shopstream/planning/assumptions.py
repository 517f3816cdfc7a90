"""What a plan takes for granted: each figure with its unit, where it is from, and how to change it."""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

from shopstream.errors import ConfigurationError

__all__ = ["Assumption", "Assumptions", "shipped_assumptions"]


@dataclass(frozen=True, slots=True)
class Assumption:
    """One figure.

    Attributes:
        name: as `--assume NAME=VALUE` takes it.
        value: the figure.
        unit: what it counts.
        source: where it is from: a measurement, a published limit, a setting, or a guess.
        share: it lies between 0 and 1, above 0.
        zero: it may be 0.
        changed: somebody gave another value.
    """

    name: str
    value: Decimal
    unit: str
    source: str
    share: bool = False
    zero: bool = False
    changed: bool = False


class Assumptions:
    """All figures, by name."""

    def __init__(self, each: Iterable[Assumption]) -> None:
        self._each = {one.name: one for one in each}

    def __getitem__(self, name: str) -> Decimal:
        return self._each[name].value

    def __iter__(self) -> Iterator[Assumption]:
        return iter(self._each.values())

    def with_changes(self, changes: Iterable[str]) -> "Assumptions":
        """With other values, given as NAME=VALUE.

        Raises:
            ConfigurationError: an unknown name, no number, or out of range.
        """
        each = dict(self._each)
        for change in changes:
            name, equals, text = change.partition("=")
            if not equals and name in each:
                raise ConfigurationError(f"expected --assume NAME=VALUE, got {change!r}; give a value: {name}=…")
            if name not in each:
                near = difflib.get_close_matches(name, each, n=1)
                hint = f"did you mean {near[0]}?" if near else "`shopstream plan` lists the names"
                raise ConfigurationError(f"expected --assume NAME=VALUE with a known name, got {change!r}; {hint}")
            each[name] = replace(each[name], value=_value(each[name], text), changed=True, source="--assume")
        return Assumptions(each.values())


def _value(one: Assumption, text: str) -> Decimal:
    rule = "from above 0 to 1" if one.share else "of at least 0" if one.zero else "above 0"
    try:
        value = Decimal(text)
    except ArithmeticError:
        value = Decimal("NaN")
    fits = value.is_finite() and (value > 0 or (one.zero and value == 0)) and (not one.share or value <= 1)
    if not fits:
        raise ConfigurationError(f"expected a number {rule} for {one.name}, got {text!r}; correct --assume")
    return value


def shipped_assumptions() -> Assumptions:
    """The figures as shipped."""
    results, detection = "benchmarks/RESULTS.md", "benchmarks/RESULTS-detection.md"
    return Assumptions(
        Assumption(name, Decimal(value), unit, source, share="share" in flags, zero="zero" in flags)
        for name, value, unit, source, *flags in (
            # the stream
            ("record_bytes", "2900", "B", "measured: an Arrow record with tracker columns, without its events"),
            ("event_bytes", "110", "B", "measured: 83 to 138 B an event in records of 1,000 to 100 events"),
            ("producer_seconds", "1", "s", "guess: each producer gathers a shard's events so long into one record"),
            ("producers", "1", "producers", "guess; each sends its own records to each shard"),
            ("hot_category_share", "0.27", "of events", "measured: the largest category of a real shop", "share"),
            ("key_skew", "1.2", "times", "guess: the fullest shard over the mean, keys by session"),
            ("shard_bytes", "1048576", "B/s", "published limit of a shard's writes"),
            ("shard_records", "1000", "records/s", "published limit of a shard's writes"),
            ("shard_load", "0.8", "of the limit", "guess: room for seconds that are fuller than the peak", "share"),
            ("stream_hours", "24", "h", "events_retention_hours: 24 in dev, 168 in prod; 24 cost nothing more"),
            # windows
            ("engine_cpu_us", "17.91", "us/event", f"measured: {detection}, all rules and detectors, one engine"),
            ("detectors_cpu_us", "0.80", "us/event", f"measured: {detection}, detectors in Python"),
            ("lake_cpu_us", "4.08", "us/event", f"measured: {results}, lake and live journeys above windows"),
            ("engine_wall_us", "16.04", "us/event", f"measured: {detection}, `shopstream run`, all rules"),
            ("lake_wall_us", "2.53", "us/event", f"measured: {results}, lake and live journeys above windows"),
            ("aws_factor", "1.5", "times", "guess: Kinesis, S3, TLS and a slower vCPU; not measured on AWS"),
            ("worker_load", "0.5", "of one worker", "guess: room to catch up twice as fast as events come", "share"),
            ("worker_memory", "3", "GiB", f"measured: {detection}, peak of 2.4 GiB, and the system's"),
            ("worker_memory_limit", "16", "GiB", "guess: beyond it, each commit's checkpoint takes too long to store"),
            ("workers", "1", "workers", "one and worker_standby: 1 in dev, 2 in prod"),
            ("actor_bytes", "361", "B/actor", f"measured: {detection}, state at the peak"),
            ("state_copies", "4", "times", "guess: DuckDB's tables, a checkpoint being made, growth"),
            ("actors_per_event", "0.18", "actors/event", f"measured: {detection}, active actors of a day"),
            ("flink_cpu_us", "243", "us/event", f"{results}: 30.45 for two windows, times 8 as all rules cost us"),
            ("flink_load", "0.5", "of a KPU", "guess: one KPU is one vCPU; room to catch up", "share"),
            ("flink_storage", "50", "GB/KPU", "published: running storage that comes with a KPU"),
            # signals, function, table
            ("signals_per_event", "0.0405", "signals/event", f"measured: {detection}, 50,953 of 1,259,111 events"),
            ("signal_bytes", "200", "B", "guess: one signal as JSON"),
            (
                "function_seconds",
                "1",
                "s",
                "batching window of the event source: a call a second at most, and taken as that",
            ),
            ("function_base_ms", "150", "ms", "guess: one call with its DynamoDB requests"),
            ("signal_us", "31", "us/signal", f"{detection}: 20.4 on a whole core; times 1.5"),
            ("function_gb", "1.73", "GB", "docs/lambda.md: 1,769 MiB are one whole processor"),
            ("signal_puts", "2", "records/s", "guess: the engine tells signals after each micro-batch that has any"),
            (
                "writes_per_call",
                "25",
                "units",
                "measured: detectors' state of a synthetic day, 22 kB compressed; and its head",
            ),
            ("reads_per_call", "4", "units", "guess: versions and changed incidents"),
            ("lease_seconds", "10", "s", "a third of aws.kinesis.lease_time: each shard's lease is renewed"),
            ("incidents_per_million", "10", "incidents/1M", "guess: incidents and parts of a million events"),
            ("incident_bytes", "20000", "B", "guess: an incident with its parts, detections and index"),
            ("incident_days", "90", "days", "alerting.retention"),
            # lake and reports
            ("lake_bytes", "58", "B/event", "measured: docs/operations.md, room on the disk"),
            ("marts_bytes", "3", "B/event", "measured: docs/operations.md, reports"),
            ("commit_seconds", "60", "s", "engine.commit_interval as infra/ sets it"),
            (
                "puts_per_commit",
                "10",
                "requests",
                "counted: four files of the table; five of a checkpoint, and its pointer",
            ),
            ("live_seconds", "10", "s", "the live panels are put to S3 so often"),
            ("gets_per_commit", "6", "requests", "guess: metadata and manifests read again"),
            ("glue_per_commit", "3", "requests", "guess: a table read and changed"),
            ("reports_per_day", "1", "builds/day", "guess; each build scans the lake"),
            ("report_scans", "4", "times the lake", "guess: what all models together read of the lake's bytes"),
            ("queries_per_day", "20", "queries/day", "guess: people and QuickSight, on marts"),
            ("query_gb", "0.05", "GB", "guess: a query on marts; Athena counts 10 MB at least"),
            ("detections_per_million", "50", "rows/1M", "guess: final detections of a million events"),
            ("detection_bytes", "2000", "B", "guess: one detection as JSON"),
            ("crawls_per_month", "4", "runs", "guess; on demand after new raw files"),
            ("crawl_dpu_hours", "0.34", "DPU-hours", "guess: 2 DPU for 10 minutes, the least that is charged"),
            # around it
            ("metrics", "45", "metrics", "counted: 25 of worker and function; guess: 20 of Container Insights"),
            ("alarms", "22", "alarm metrics", "counted: 19 alarms without Flink, some of several metrics"),
            ("composite_alarms", "2", "alarms", "counted: docs/runbooks"),
            ("dashboards", "1", "dashboards", "one per stage"),
            ("log_gb", "2", "GB/month", "guess: a line a call and a commit"),
            ("notifications", "300", "e-mails/month", "guess: ten a day"),
            ("zones", "2", "zones", "availability zones of the network"),
            (
                "endpoints",
                "0",
                "endpoints",
                "interface endpoints, 12 with egress = endpoints; 0 with a NAT gateway",
                "zero",
            ),
            ("nat_gateways", "1", "gateways", "NAT gateways: 1 in dev, 2 in prod; 0 where endpoints are used", "zero"),
            ("keys", "1", "keys", "customer-managed KMS keys"),
            ("kms_per_second", "0.5", "requests/s", "guess: data keys are cached for minutes", "zero"),
            ("image_gb", "1", "GB", "guess: two images of the worker in ECR"),
            ("quicksight_authors", "0", "users", "QuickSight is made only where a principal is configured", "zero"),
            ("quicksight_readers", "0", "users", "likewise", "zero"),
            ("hours", "730", "h/month", "AWS's month"),
            ("price_factor", "1", "times", "multiplies each price; other regions are 10 to 30 % dearer", "zero"),
        )
    )
