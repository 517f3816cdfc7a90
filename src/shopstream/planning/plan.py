"""A plan: the AWS capacity for a load, its monthly costs, and notes on both."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import NamedTuple

from shopstream.planning.assumptions import Assumptions, PriceList
from shopstream.planning.sizing import Capacity, Load, required_capacity, round_up

_CENT = Decimal("0.01")
_GB = Decimal(10**9)
_HOUR_S = 3_600
_FREE_HOURS = 24
_STREAMS = Decimal(1)  # only the events stream can be on demand


@dataclass(frozen=True, slots=True)
class CostLine:
    """One line of the table.

    Attributes:
        service: AWS service.
        what: what is paid for.
        quantity: units per month.
        unit: unit of the price list.
        price: dollars per unit.
        monthly: quantity times price, in whole cents.
        price_name: name in the price list.
    """

    service: str
    what: str
    quantity: Decimal
    unit: str
    price: Decimal
    monthly: Decimal
    price_name: str


@dataclass(frozen=True, slots=True)
class StreamModes:
    """Dollars per month of the events stream in both capacity modes."""

    provisioned: Decimal
    on_demand: Decimal

    @property
    def cheaper(self) -> str:
        """Name of the mode that costs less."""
        return "provisioned" if self.provisioned <= self.on_demand else "on-demand"


class _Use(NamedTuple):
    """A service, what is used of it, the name of its price, and units per month."""

    service: str
    what: str
    price: str
    quantity: Decimal


def cost_lines(capacity: Capacity, prices: PriceList, given: Assumptions) -> list[CostLine]:
    """Every line that is not zero; the events stream in the cheaper mode."""
    quantities = [
        *_streaming(capacity, prices, given),
        *_computing(capacity, given),
        *_storing(capacity, given),
        *_around(capacity, given),
    ]
    return [line for line in (_line(prices, given, each) for each in quantities) if line.quantity]


def stream_modes(capacity: Capacity, prices: PriceList, given: Assumptions) -> StreamModes:
    """What the events stream costs in each mode."""

    def total(quantities: Iterator[_Use]) -> Decimal:
        return sum((_line(prices, given, each).monthly for each in quantities), Decimal(0))

    return StreamModes(total(_provisioned(capacity, given)), total(_on_demand(capacity, given)))


def _line(prices: PriceList, given: Assumptions, use: _Use) -> CostLine:
    listed = prices.prices[use.price]
    price = listed.price * given["price_factor"]
    monthly = (use.quantity * price).quantize(_CENT, ROUND_HALF_UP)
    return CostLine(use.service, use.what, use.quantity, listed.unit, price, monthly, use.price)


def _provisioned(capacity: Capacity, given: Assumptions) -> Iterator[_Use]:
    stream, hours = capacity.stream, given["hours"]
    yield _Use("Kinesis", "events: shards", "kinesis_shard_hour", stream.shards * hours)
    yield _Use("Kinesis", "events: puts", "kinesis_put_units", stream.put_units * hours * _HOUR_S / 10**6)
    if given["stream_hours"] > _FREE_HOURS:
        yield _Use("Kinesis", "events: kept longer than 24 h", "kinesis_kept_shard_hour", stream.shards * hours)


def _on_demand(capacity: Capacity, given: Assumptions) -> Iterator[_Use]:
    stream, seconds = capacity.stream, given["hours"] * _HOUR_S
    yield _Use("Kinesis", "events: stream", "kinesis_ondemand_hour", _STREAMS * given["hours"])
    yield _Use("Kinesis", "events: written", "kinesis_ondemand_in", stream.rounded_bytes * seconds / _GB)
    yield _Use("Kinesis", "events: read once", "kinesis_ondemand_out", stream.bytes * seconds / _GB)
    longer = max(given["stream_hours"] - _FREE_HOURS, Decimal(0))
    yield _Use(
        "Kinesis", "events: kept longer than 24 h", "kinesis_ondemand_kept", stream.bytes * longer * _HOUR_S / _GB
    )


def _streaming(capacity: Capacity, prices: PriceList, given: Assumptions) -> Iterator[_Use]:
    modes = {"provisioned": _provisioned, "on-demand": _on_demand}
    yield from modes[stream_modes(capacity, prices, given).cheaper](capacity, given)
    yield _Use("Kinesis", "signals: one shard", "kinesis_shard_hour", given["hours"])
    yield _Use("Kinesis", "signals: puts", "kinesis_put_units", given["signal_puts"] * given["hours"] * _HOUR_S / 10**6)
    yield _Use("Firehose", "detections into the lake", "firehose_iceberg", capacity.lake.delivered_gb)


def _computing(capacity: Capacity, given: Assumptions) -> Iterator[_Use]:
    windows, function, hours = capacity.windows, capacity.function, given["hours"]
    workers = given["workers"] * hours
    yield _Use("ECS Fargate", "worker: processors", "fargate_vcpu_hour", windows.vcpu * workers)
    yield _Use("ECS Fargate", "worker: memory", "fargate_gb_hour", windows.memory_gib * workers)
    yield _Use("ECR", "images", "ecr_storage", given["image_gb"])
    if windows.flink:
        yield _Use("Managed Flink", "windows, and one KPU more", "flink_kpu_hour", (windows.kpus + 1) * hours)
        yield _Use("Managed Flink", "running storage", "flink_storage", windows.kpus * given["flink_storage"])
    yield _Use("Lambda", "calls", "lambda_requests", function.calls / 10**6)
    yield _Use("Lambda", "time", "lambda_gb_seconds", function.gb_seconds)


def _storing(capacity: Capacity, given: Assumptions) -> Iterator[_Use]:
    table, lake = capacity.table, capacity.lake
    yield _Use("DynamoDB", "writes", "dynamodb_writes", table.writes / 10**6)
    yield _Use("DynamoDB", "reads", "dynamodb_reads", table.reads / 10**6)
    yield _Use("DynamoDB", "storage", "dynamodb_storage", table.gigabytes)
    yield _Use("DynamoDB", "point-in-time recovery", "dynamodb_recovery", table.gigabytes)
    yield _Use("S3", "lake and marts, when full", "s3_storage", lake.gigabytes)
    yield _Use("S3", "writes", "s3_writes", lake.puts / 1000)
    yield _Use("S3", "reads", "s3_reads", lake.gets / 1000)
    yield _Use("Glue", "catalog", "glue_requests", lake.glue_requests / 10**6)
    yield _Use("Glue", "crawler", "glue_dpu_hour", given["crawls_per_month"] * given["crawl_dpu_hours"])
    yield _Use("Athena", "reports and queries", "athena_scanned", lake.scanned_gb / 1000)


def _around(capacity: Capacity, given: Assumptions) -> Iterator[_Use]:
    hours = given["hours"]
    minutes = hours * 60
    carried = (
        capacity.stream.bytes * hours * _HOUR_S / _GB
    )  # what the worker reads; S3 and DynamoDB use gateway endpoints
    yield _Use("CloudWatch", "metrics", "cloudwatch_metrics", given["metrics"])
    yield _Use("CloudWatch", "metric requests", "cloudwatch_requests", minutes / 1000)
    yield _Use("CloudWatch", "alarms", "cloudwatch_alarms", given["alarms"])
    yield _Use("CloudWatch", "composite alarms", "cloudwatch_composites", given["composite_alarms"])
    yield _Use("CloudWatch", "dashboards", "cloudwatch_dashboards", given["dashboards"])
    yield _Use("CloudWatch", "logs", "cloudwatch_logs", given["log_gb"])
    yield _Use("SNS", "messages", "sns_requests", given["notifications"] / 10**6)
    yield _Use("SNS", "e-mails", "sns_emails", given["notifications"] / 10**5)
    yield _Use("KMS", "keys", "kms_keys", given["keys"])
    yield _Use("KMS", "requests", "kms_requests", given["kms_per_second"] * hours * _HOUR_S / 10**4)
    yield _Use("VPC", "NAT gateways", "nat_hour", given["nat_gateways"] * hours)
    if given["nat_gateways"]:
        yield _Use("VPC", "through NAT gateways", "nat_data", carried)
    yield _Use("VPC", "interface endpoints", "endpoint_hour", given["endpoints"] * given["zones"] * hours)
    if given["endpoints"]:
        yield _Use("VPC", "through endpoints", "endpoint_data", carried)
    yield _Use("QuickSight", "authors", "quicksight_author", given["quicksight_authors"])
    yield _Use("QuickSight", "readers", "quicksight_reader", given["quicksight_readers"])


_DOUBLED = 2
_MUCH = 3
_VCPU = 1024
_MIB = 1024
_LEAST_LIMIT_GB = 10
_BUDGET = Decimal("1.25")
_ON_DEMAND_BYTES = 4_000_000  # a new on-demand stream takes so much a second


@dataclass(frozen=True, slots=True)
class Plan:
    """What `shopstream plan` prints.

    Attributes:
        capacity: sizes.
        costs: the monthly table.
        modes: the events stream in both capacity modes.
        prices: the list the costs are from.
        given: the assumptions.
    """

    capacity: Capacity
    costs: list[CostLine]
    modes: StreamModes
    prices: PriceList
    given: Assumptions

    @property
    def total(self) -> Decimal:
        """Dollars a month: the sum of the table."""
        return sum((line.monthly for line in self.costs), Decimal(0))

    def sizes(self) -> list[dict[str, object]]:
        """Rows of part, size, unit and reason."""
        return [
            {"part": part, "size": _short(size), "unit": unit, "why": why} for part, size, unit, why in self._rows()
        ]

    def _rows(self) -> Iterator[tuple[str, Decimal | int, str, str]]:
        stream, windows, function = self.capacity.stream, self.capacity.windows, self.capacity.function
        yield "events a month", self.capacity.load.events(self.given["hours"]) / 10**6, "million", "at the mean rate"
        yield "events stream", stream.shards, "shards", f"key {stream.key}, the peak is {_mb(stream.peak_bytes)}"
        yield "events stream, fullest shard", stream.fullest / 10**6, "MB/s", "at the peak"
        yield "signals stream", 1, "shards", f"one shard keeps their order; the peak is {_mb(function.signal_bytes)}"
        if windows.flink:
            why = f"one worker carries {windows.worker_limit:,.0f} events/s; it would hold {windows.state_gib:,.0f} GiB"
            yield "Flink application", windows.kpus, "KPU", why
        else:
            why = f"one active; enough up to {windows.worker_limit:,.0f} events/s at the peak"
            yield "worker", windows.vcpu, "vCPU", why
            yield "worker", windows.memory_gib, "GiB", "state grows with a day's shoppers"
        yield (
            "detection function",
            function.concurrency,
            "at once",
            f"busy {function.busy:.0%} of the time at the peak",
        )
        yield "detection function", function.gb_seconds, "GB-s/month", f"{function.seconds * 1000:,.0f} ms a call"
        yield "DynamoDB", self.capacity.table.writes / 10**6, "million writes/month", "state, incidents, leases"
        yield "lake", self.capacity.lake.gigabytes, "GB", f"after {self.capacity.load.days_kept} days"
        yield "Athena", self.capacity.lake.scanned_gb, "GB/month", "when the lake is full"

    def stage_settings(self) -> dict[str, str | int]:
        """Settings of a stage in infra/stages.toml: name → value."""
        stream, windows = self.capacity.stream, self.capacity.windows
        mode = self.modes.cheaper
        found: dict[str, str | int] = {"events_mode": mode}
        if mode == "provisioned":
            found["events_shards"] = stream.shards
        if windows.flink:
            found["flink_parallelism"] = windows.kpus
        else:
            found["worker_cpu"] = int(windows.vcpu * _VCPU)
            found["worker_memory_mib"] = int(windows.memory_gib * _MIB)
        found["query_limit_gb"] = max(_LEAST_LIMIT_GB, round_up(self.capacity.lake.gigabytes * 2))
        found["monthly_budget_usd"] = round_up(self.total * _BUDGET)
        return found

    def notes(self) -> list[str]:
        """What to know before you deploy this."""
        return [*self._limits(), *self._price_notes()]

    def _limits(self) -> Iterator[str]:
        stream, windows, given = self.capacity.stream, self.capacity.windows, self.given
        if stream.key != "category_id":
            yield (
                f"One category sends {given['hot_category_share']:.0%} of the events: more than a shard takes at this "
                f"peak. Producers must take the partition key {stream.key}; the engine reads all shards anyway."
            )
        elif stream.isolated:
            yield "The largest category fills most of a shard: split its shard until it is alone there."
        if stream.peak_bytes > _ON_DEMAND_BYTES:
            yield "A new on-demand stream takes 4 MB/s; warm it up, or begin provisioned."
        if windows.flink:
            yield (
                f"One worker carries about {windows.worker_limit:,.0f} events/s at the peak and "
                f"{given['worker_memory_limit']} GiB of state: windows go to Flink. Its KPUs are scaled from two "
                "windows to all rules, and not measured; archive workers, which keep the events, are not counted."
            )
        elif self.capacity.load.peak * _DOUBLED > windows.worker_limit:
            yield "The peak is more than half of what one worker carries: plan for Flink before the shop doubles."
        if self.capacity.function.busy > 1:
            yield "The function falls behind at the peak: give it more memory, or let the worker detect."
        if self.capacity.function.signal_bytes > given["shard_bytes"] * given["shard_load"]:
            yield "Signals fill more than their one shard at the peak: let the worker detect (aws.detection)."

        scanned = sum((line.monthly for line in self.costs if line.service == "Athena"), Decimal(0))
        if scanned * _MUCH > self.total:
            yield (
                "Reports that scan the lake are more than a third of the costs: build less often, or keep fewer days; "
                "reports_per_day and report_scans say what is assumed."
            )

    def _price_notes(self) -> Iterator[str]:
        yield (
            f"List prices of {self.prices.region} in US dollars, gathered {self.prices.as_of} ({self.prices.source}), "
            "without taxes, discounts, free tiers and support. AWS changes them: check before you decide."
        )
        used = {line.price_name for line in self.costs}
        unverified = {name: price for name, price in self.prices.unverified().items() if name in used}
        for name, price in unverified.items():
            yield f"Not verified: {name} ({price.page}){': ' + price.remark if price.remark else ''}."
        oldest = min((self.prices.prices[name].read for name in used), default=self.prices.as_of)
        yield f"The oldest price in the table was read {oldest}."


def make_plan(load: Load, prices: PriceList, given: Assumptions) -> Plan:
    """A plan for a load."""
    capacity = required_capacity(load, given)
    return Plan(capacity, cost_lines(capacity, prices, given), stream_modes(capacity, prices, given), prices, given)


def _short(value: Decimal | int) -> Decimal:
    """Rounded to three significant figures."""
    value = Decimal(value)
    if not value:
        return value
    places = min(value.adjusted() - 2, 0) if value.adjusted() < 2 else 0  # noqa: PLR2004  three figures
    return value.quantize(Decimal(1).scaleb(places), ROUND_HALF_UP).normalize() + 0


def _mb(value: Decimal) -> str:
    return f"{value / 10**6:,.2f} MB/s"
