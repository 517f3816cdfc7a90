"""Price lists: the packaged one with its date, or somebody's own, checked strictly."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from shopstream.errors import ConfigurationError
from shopstream.yaml_files import Document, YamlError, YamlFiles, unknown_word

__all__ = ["DEFAULT_REGION", "UNITS", "Price", "PriceList", "packaged_prices", "read_prices"]

DEFAULT_REGION = "us-east-1"

UNITS: Mapping[str, str] = MappingProxyType(
    {
        "kinesis_shard_hour": "shard-hour",
        "kinesis_put_units": "1M units of 25 KB",
        "kinesis_kept_shard_hour": "shard-hour",
        "kinesis_ondemand_hour": "stream-hour",
        "kinesis_ondemand_in": "GB",
        "kinesis_ondemand_out": "GB",
        "kinesis_ondemand_kept": "GB-month",
        "fargate_vcpu_hour": "vCPU-hour",
        "fargate_gb_hour": "GB-hour",
        "ecr_storage": "GB-month",
        "flink_kpu_hour": "KPU-hour",
        "flink_storage": "GB-month",
        "lambda_requests": "1M requests",
        "lambda_gb_seconds": "GB-second",
        "dynamodb_writes": "1M write units",
        "dynamodb_reads": "1M read units",
        "dynamodb_storage": "GB-month",
        "dynamodb_recovery": "GB-month",
        "s3_storage": "GB-month",
        "s3_writes": "1k PUT COPY POST LIST",
        "s3_reads": "1k GET",
        "glue_requests": "1M requests",
        "glue_dpu_hour": "DPU-hour",
        "athena_scanned": "TB",
        "firehose_iceberg": "GB",
        "cloudwatch_metrics": "metric-month",
        "cloudwatch_requests": "1k requests",
        "cloudwatch_alarms": "alarm-month",
        "cloudwatch_composites": "alarm-month",
        "cloudwatch_dashboards": "dashboard-month",
        "cloudwatch_logs": "GB",
        "sns_requests": "1M requests",
        "sns_emails": "100k e-mails",
        "kms_keys": "key-month",
        "kms_requests": "10k requests",
        "nat_hour": "gateway-hour",
        "nat_data": "GB",
        "endpoint_hour": "endpoint-zone-hour",
        "endpoint_data": "GB",
        "quicksight_author": "user-month",
        "quicksight_reader": "user-month",
    }
)
"""Price → the unit it is for. A file must name the same unit, so that no price is taken for something else."""

_REMEDIES = {
    "as_of": "write the day the prices were gathered, e.g. 2027-01-31",
    "currency": "write USD; other currencies are not converted",
    "regions": "write regions, each with prices: see `shopstream plan --show-prices`",
    "price": 'write a decimal number of dollars in quotes, e.g. "0.015"',
    "read": "write the day on which the price was read, e.g. 2027-01-31",
    "page": "name the page, offer or contract that the price is from",
}


def _amount(value: object) -> Decimal:
    """Numbers come as text: a YAML float is not the number that was written."""
    if not isinstance(value, str):
        raise ValueError(f"expected a number in quotes, got {value!r}")  # noqa: TRY004  Pydantic's way
    try:
        amount = Decimal(value)
    except ArithmeticError:
        raise ValueError(f"expected a decimal number, got {value!r}") from None
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"expected a number of at least 0, got {value!r}")
    return amount


class Price(BaseModel):
    """What one unit costs.

    Attributes:
        price: dollars.
        unit: as in `UNITS`.
        page: title of the page it is from.
        read: the day it was last seen there.
        verified: False where it was not seen there.
        remark: what an unverified price rests on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    price: Annotated[Decimal, BeforeValidator(_amount)]
    unit: str
    page: Annotated[str, Field(min_length=1, max_length=200)]
    read: date
    verified: Annotated[bool, Field(strict=True)] = True
    remark: Annotated[str, Field(min_length=1, max_length=500)] | None = None


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of: date
    currency: Annotated[str, Field(pattern="^USD$")]
    regions: Annotated[dict[str, dict[str, Price]], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class PriceList:
    """Prices of one region.

    Attributes:
        region: its AWS name.
        as_of: day the list was gathered.
        prices: a price for each name of `UNITS`.
        source: the file it was read from, for people.
    """

    region: str
    as_of: date
    prices: Mapping[str, Price]
    source: str

    def unverified(self) -> dict[str, Price]:
        """Those that were not seen on the page they name."""
        return {name: price for name, price in self.prices.items() if not price.verified}


def packaged_prices() -> str:
    """The packaged file, to start an own one from."""
    return _packaged().read_text(encoding="utf-8")


def read_prices(region: str = DEFAULT_REGION, path: Path | None = None) -> PriceList:
    """The prices of a region.

    Args:
        region: AWS name, such as us-east-1.
        path: own file; prices it leaves out come from the packaged list where that has the region.

    Raises:
        ConfigurationError: the file is wrong (says file, line and remedy), or prices of the region are missing.
    """
    (packaged,) = _FILES.load(_packaged()).values()
    own = next(iter(_FILES.load(path).values())) if path else None
    lists = [found for found in (packaged, own) if found is not None and region in found.regions]
    if not lists:
        known = sorted({*packaged.regions, *(own.regions if own else ())})
        raise ConfigurationError(
            f"expected a region with prices ({', '.join(known)}), got {region!r}; give its prices with --prices, "
            "or take another region and --assume price_factor=1.2"
        )
    prices = {name: price for found in lists for name, price in found.regions[region].items()}
    missing = [name for name in UNITS if name not in prices]
    if missing:
        raise ConfigurationError(
            f"expected a price for everything in region {region}, {path} has none for {', '.join(missing)}; add them, "
            "as `shopstream plan --show-prices` shows them"
        )
    newest = own if own is not None and region in own.regions else packaged
    return PriceList(region, newest.as_of, MappingProxyType(prices), str(path) if newest is own else "packaged list")


def _packaged() -> Traversable:
    return files("shopstream.planning") / "prices.yml"


def _list(document: Document) -> _File:
    read = document.validate(_File, _REMEDIES)
    problems: list[tuple[int, str]] = []
    for region, prices in read.regions.items():
        for price, found in prices.items():
            place = ("regions", region, price)
            if price not in UNITS:
                problems.append((document.line(place), unknown_word(price, UNITS)))
            elif found.unit != UNITS[price]:
                text = f"expected the price of one {UNITS[price]}, got one of {found.unit!r}; convert it"
                problems.append((document.line((*place, "unit")), text))
    if problems:
        raise YamlError(*problems)
    return read


_FILES = YamlFiles("price list", _list, "`as_of: 2027-01-31`, as `shopstream plan --show-prices` writes it")
