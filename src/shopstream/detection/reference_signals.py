"""Signals of the product reference, by name: what detectors know of it."""

from typing import Final

__all__ = ["DUPLICATE_SIGNAL", "PRICE_FACTOR", "PRICE_SIGNAL", "TAIL_MINUTE", "TAIL_TEN"]

PRICE_SIGNAL: Final = "detect_price_10s"
"""Key product_id; measures events, lowest, highest (seen), low, high (usual prices)."""

DUPLICATE_SIGNAL: Final = "detect_duplicates_10s"
"""For the site; measure duplicates: events that the engine dropped because they were there before."""

TAIL_TEN: Final = "detect_tail_10s"
TAIL_MINUTE: Final = "detect_tail_60s"
"""For the site; measures tail_users, tail_products, spread_users, spread_products: distinct ones among the events on
products of the tail; `spread` leaves out the category that has most of them."""

PRICE_FACTOR: Final = 2.0
"""A price is wrong below the lowest usual one over this, and above the highest times this."""
