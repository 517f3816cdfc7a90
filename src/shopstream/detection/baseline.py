"""Baselines: what is normal, learned from history and kept in a file for the detectors."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shopstream.clock import DAY_MS
from shopstream.errors import StateError

if TYPE_CHECKING:
    import pyarrow as pa

SLOT_MS: Final = 900_000
SLOTS: Final = DAY_MS // SLOT_MS
_FORMAT: Final = 1
_MONDAY_MS: Final = 4 * DAY_MS
"""The epoch began on a Thursday; the first Monday after it."""


@dataclass(frozen=True, slots=True)
class SeriesProfile:
    """The rate of a series (the site, an event type) at each time of the week.

    Args:
        slots: SLOTS values, events per second of an average day in each 15 minutes (UTC), smoothed.
        weekdays: 7 factors, Monday first, 1 on average.
        error: relative forecast error: one standard deviation of an hour's sum from the sum that the profile and the
            level of the hours before predict, measured on days that the profile did not see.
        days: days of history it was built from.
    """

    slots: tuple[float, ...]
    weekdays: tuple[float, ...]
    error: float
    days: float

    def rate(self, at_ms: int) -> float:
        """Expected events per second, interpolated between the middles of the slots."""
        place = (at_ms % DAY_MS) / SLOT_MS - 0.5
        before = math.floor(place)
        part = place - before
        value = self.slots[before % SLOTS] * (1 - part) + self.slots[(before + 1) % SLOTS] * part
        return value * self.weekdays[self.weekday(at_ms)]

    @staticmethod
    def weekday(at_ms: int) -> int:
        """Day of the week, 0 for Monday, UTC."""
        return (at_ms - _MONDAY_MS) // DAY_MS % 7


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the events, by hour of the day.

    Args:
        hours: 24 values (UTC), 0 to 1.
        error: standard deviation of an hour's share around its value, beyond chance.
    """

    hours: tuple[float, ...]
    error: float

    def at(self, at_ms: int) -> float:
        """The share at a time, interpolated between the middles of the hours."""
        place = (at_ms % DAY_MS) / 3_600_000 - 0.5
        before = math.floor(place)
        part = place - before
        return self.hours[before % 24] * (1 - part) + self.hours[(before + 1) % 24] * part


@dataclass(frozen=True, slots=True)
class KeyRate:
    """The traffic of one of the busiest categories or products.

    Args:
        share: of the site's events.
        error: relative error of that share from hour to hour, beyond chance.
    """

    share: float
    error: float


@dataclass(frozen=True, slots=True)
class Baselines:
    """What is normal.

    Args:
        from_ms, until_ms: the history they were built from.
        events: number of events in it.
        series: `site`, or an event type → its profile.
        shares: name of a measure of the composition → its share of the site's events.
        keys: `category_id` or `product_id` → value as text → rate, busiest first.
        products: usual prices, and which products are rarely viewed (`product_reference.PRODUCT_SCHEMA`); None if
            unknown.
    """

    from_ms: int
    until_ms: int
    events: int
    series: Mapping[str, SeriesProfile] = field(default_factory=dict)
    shares: Mapping[str, Share] = field(default_factory=dict)
    keys: Mapping[str, Mapping[str, KeyRate]] = field(default_factory=dict)
    products: "pa.Table | None" = field(default=None, compare=False, repr=False)

    def save(self, path: Path) -> None:
        """Write a JSON file, and a Parquet file of the products beside it, each atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        products = path.with_suffix(".products.parquet")
        if self.products is not None:
            import pyarrow.parquet as pq  # noqa: PLC0415  Lambda functions have none, see `read`

            pq.write_table(self.products, part)
            part.replace(products)
        else:
            products.unlink(missing_ok=True)
        document = asdict(replace(self, products=None))
        del document["products"]
        part.write_text(json.dumps({"format": _FORMAT, **document}), encoding="utf-8")
        part.replace(path)

    @staticmethod
    def load(path: Path) -> "Baselines | None":
        """Baselines of a file; None if there is none.

        Raises:
            StateError: the file is damaged or of another version.
        """
        try:
            found = Baselines.read(path.read_bytes(), str(path))
            products = path.with_suffix(".products.parquet")
            if not products.exists():
                return found
            import pyarrow.parquet as pq  # noqa: PLC0415  Lambda functions have none, see `read`

            return replace(found, products=pq.read_table(products))
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            raise StateError(f"{path} is damaged ({error}); run `shopstream baselines build` again") from error

    @staticmethod
    def read(content: bytes, name: str) -> "Baselines":
        """Baselines from the content of a JSON file, without products, which detectors do not need.

        Args:
            content: what `save` wrote.
            name: of the file, for messages.

        Raises:
            StateError: it is damaged or of another version.
        """
        try:
            document = json.loads(content)
            if document.pop("format", None) != _FORMAT:
                raise StateError(f"{name} was written by another version; run `shopstream baselines build` again")
            return Baselines(
                **document
                | {
                    "series": {key: SeriesProfile(**_tuples(value)) for key, value in document["series"].items()},
                    "shares": {key: Share(**_tuples(value)) for key, value in document["shares"].items()},
                    "keys": {
                        column: {key: KeyRate(**value) for key, value in rates.items()}
                        for column, rates in document["keys"].items()
                    },
                },
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StateError(f"{name} is damaged ({error}); run `shopstream baselines build` again") from error


def _tuples(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(part) if isinstance(part, list) else part for name, part in value.items()}
