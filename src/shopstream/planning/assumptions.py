"""What a plan assumes, and what AWS charges.

Assumptions are figures with unit and source, from `assumptions.yml`. Prices come from the packaged list, which has a
date, and from your own lists over it.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel

from shopstream.errors import ConfigurationError
from shopstream.yaml_files import Document, YamlError, YamlFiles, unknown_word


class Assumption(BaseModel):
    """One figure.

    Attributes:
        value: the figure.
        unit: its unit.
        source: a measurement, a published limit, a setting, or a guess.
        share: it is a share, above 0, at most 1.
        zero: it may be 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Decimal
    unit: str
    source: str
    share: bool = False
    zero: bool = False


class Assumptions(RootModel[dict[str, Assumption]]):
    """All figures, by name."""

    model_config = ConfigDict(frozen=True)

    def __getitem__(self, name: str) -> Decimal:
        """The value of a figure."""
        return self.root[name].value

    def with_changes(self, changes: Iterable[str]) -> "Assumptions":
        """The figures with other values, given as NAME=VALUE.

        Raises:
            ConfigurationError: an unknown name, no number, or out of range.
        """
        each = dict(self.root)
        for change in changes:
            name, equals, text = change.partition("=")
            if not equals and name in each:
                raise ConfigurationError(f"expected --assume NAME=VALUE, got {change!r}; give a value: {name}=…")
            if name not in each:
                near = difflib.get_close_matches(name, each, n=1)
                hint = f"did you mean {near[0]}?" if near else "`shopstream plan` lists the names"
                raise ConfigurationError(f"expected --assume NAME=VALUE with a known name, got {change!r}; {hint}")
            value = _value(name, each[name], text)
            each[name] = each[name].model_copy(update={"value": value, "source": "--assume"})
        return Assumptions(each)


def _value(name: str, one: Assumption, text: str) -> Decimal:
    rule = "from above 0 to 1" if one.share else "of at least 0" if one.zero else "above 0"
    try:
        value = Decimal(text)
    except ArithmeticError:
        value = Decimal("NaN")
    fits = value.is_finite() and (value > 0 or (one.zero and value == 0)) and (not one.share or value <= 1)
    if not fits:
        raise ConfigurationError(f"expected a number {rule} for {name}, got {text!r}; correct --assume")
    return value


def shipped_assumptions() -> Assumptions:
    """The shipped figures."""
    return _FILES.load(files("shopstream.planning") / "assumptions.yml")["assumptions"]


_FILES = YamlFiles("assumptions", lambda document: Assumptions.model_validate(document.data), "a name")

DEFAULT_REGION = "us-east-1"

_REMEDIES = {
    "as_of": "write the day the prices were gathered, e.g. 2027-01-31",
    "currency": "write USD; other currencies are not converted",
    "regions": "write regions, each with prices: see `shopstream plan --show-prices`",
    "price": 'write a decimal number of dollars in quotes, e.g. "0.015"',
    "read": "write the day on which the price was read, e.g. 2027-01-31",
    "page": "name the page, offer or contract that the price is from",
}


def _amount(value: object) -> Decimal:
    """Amounts are quoted: a YAML float is not exactly the number in the file."""
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
    """The price of one unit.

    Attributes:
        price: dollars.
        unit: what it is the price of.
        page: title of the page it is from.
        read: the day it was last seen there.
        verified: False if it was not seen there.
        remark: source of an unverified price.
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
        region: AWS name.
        as_of: date of the list.
        prices: by name.
        source: the file, for people.
    """

    region: str
    as_of: date
    prices: Mapping[str, Price]
    source: str

    def unverified(self) -> dict[str, Price]:
        """Prices that were not seen on their page."""
        return {name: price for name, price in self.prices.items() if not price.verified}


def packaged_prices() -> str:
    """Text of the packaged list, to start your own from."""
    return _packaged().read_text(encoding="utf-8")


def read_prices(region: str = DEFAULT_REGION, path: Path | None = None) -> PriceList:
    """The prices of a region.

    Args:
        region: AWS name, such as us-east-1.
        path: your own list; missing prices come from the packaged list, if that has the region.

    Raises:
        ConfigurationError: the file is invalid, or prices of the region are missing.
    """
    packaged = _packaged_list()
    own = _OWN.load(path).popitem()[1] if path else None
    lists = [found for found in (packaged, own) if found is not None and region in found.regions]
    if not lists:
        known = sorted({*packaged.regions, *(own.regions if own else ())})
        raise ConfigurationError(
            f"expected a region with prices ({', '.join(known)}), got {region!r}; give its prices with --prices, "
            "or take another region and --assume price_factor=1.2"
        )
    prices = {name: price for found in lists for name, price in found.regions[region].items()}
    missing = [name for name in packaged.regions[DEFAULT_REGION] if name not in prices]
    if missing:
        raise ConfigurationError(
            f"expected a price for everything in region {region}, {path} has none for {', '.join(missing)}; add them, "
            "as `shopstream plan --show-prices` shows them"
        )
    newest = own if own is not None and region in own.regions else packaged
    return PriceList(region, newest.as_of, MappingProxyType(prices), str(path) if newest is own else "packaged list")


def _packaged() -> Traversable:
    return files("shopstream.planning") / "prices.yml"


@lru_cache(maxsize=1)
def _packaged_list() -> _File:
    return YamlFiles("price list", lambda document: document.validate(_File, {}), "as_of:").load(_packaged())["prices"]


def _own(document: Document) -> _File:
    """A list whose prices have names and units of the packaged list, so that no price is taken for another."""
    read, known = document.validate(_File, _REMEDIES), _packaged_list().regions[DEFAULT_REGION]
    problems: list[tuple[int, str]] = []
    for region, prices in read.regions.items():
        for name, price in prices.items():
            place = ("regions", region, name)
            if name not in known:
                problems.append((document.line(place), unknown_word(name, known)))
            elif price.unit != known[name].unit:
                text = f"expected the price of one {known[name].unit}, got one of {price.unit!r}; convert it"
                problems.append((document.line((*place, "unit")), text))
    if problems:
        raise YamlError(*problems)
    return read


_OWN = YamlFiles("price list", _own, "`as_of: 2027-01-31`, as `shopstream plan --show-prices` writes it")
