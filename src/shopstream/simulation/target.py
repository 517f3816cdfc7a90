"""What a scenario hits: the whole site, or one event type, category or product."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from shopstream.simulation.catalogue import Catalogue

__all__ = ["SITE", "Key", "busy_keys"]

Floats = npt.NDArray[np.float64]

_TYPE_SHARES = {"view": 0.93694, "cart": 0.04643, "purchase": 0.01663}
"""Of the events (October 2019 to April 2020, full)."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key.

    Args:
        column: `category_id`, `product_id` or `event_type`; empty means the site.
        value: of that column; a product's or category's id as text.
        place: of the product, or of one of the category's products, in the catalogue.
    """

    column: str = ""
    value: str = ""
    place: int = -1

    def text(self) -> Mapping[str, str]:
        """Column → value, as detections name their key."""
        return {self.column: self.value} if self.column else {}

    def share(self, catalogue: Catalogue) -> float:
        """Expected share of the genuine events."""
        if self.column == "event_type":
            return _TYPE_SHARES.get(self.value, 0.0)
        if self.column == "product_id":
            return float(catalogue.weights()[self.place])
        if self.column == "category_id":
            return float(catalogue.category_until[self.place] - catalogue.category_from[self.place])
        return 1.0

    def places(self, catalogue: Catalogue) -> npt.NDArray[np.int32]:
        """Products of the key by their place in the catalogue."""
        if self.column == "product_id":
            return np.array([self.place], np.int32)
        if self.column == "category_id":
            return np.flatnonzero(catalogue.category_id == catalogue.category_id[self.place]).astype(np.int32)
        return np.arange(len(catalogue), dtype=np.int32)


def busy_keys(catalogue: Catalogue, column: str, share: float) -> list[Key]:
    """Keys of a column that get at least that share of the genuine events."""
    if column == "site":
        return [SITE]
    if column == "event_type":
        return [Key(column, kind) for kind, part in _TYPE_SHARES.items() if part >= share]
    if column == "product":
        good = np.flatnonzero((catalogue.weights() >= share) & (catalogue.price > 0))
        return [Key("product_id", str(catalogue.product_id[place]), int(place)) for place in good]
    leaders = _leaders(catalogue)
    shares = catalogue.category_until[leaders] - catalogue.category_from[leaders]
    return [
        Key("category_id", str(catalogue.category_id[place]), int(place)) for place in leaders[shares >= share].tolist()
    ]


SITE = Key()
"""The whole site."""


@lru_cache(maxsize=4)
def _leaders(catalogue: Catalogue) -> npt.NDArray[np.int64]:
    """First product of each category."""
    ids = catalogue.category_id
    return np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
