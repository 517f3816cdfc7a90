"""Monthly costs of a capacity."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import NamedTuple

from shopstream.planning.assumptions import Assumptions
from shopstream.planning.prices import PriceList
from shopstream.planning.sizing import Capacity

__all__ = ["CostLine", "StreamModes", "cost_lines", "stream_modes"]

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
