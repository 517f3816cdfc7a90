"""Windows and signals that several detectors read."""

from collections.abc import Mapping
from typing import Final

from shopstream.engine.window import WindowDeclaration, WindowKind

__all__ = [
    "DUPLICATE_SIGNAL",
    "EVENT_TYPES",
    "PRICE_FACTOR",
    "PRICE_SIGNAL",
    "SITE_10S",
    "SITE_60S",
    "TAIL_10S",
    "TAIL_60S",
    "tumbling",
]


def tumbling(
    name: str,
    size_ms: int,
    measures: Mapping[str, str],
    *,
    key: tuple[str, ...] = (),
    condition: str | None = None,
    filter_: str | None = None,
) -> WindowDeclaration:
    """A tumbling window; see `WindowDeclaration`."""
    return WindowDeclaration(name, WindowKind.TUMBLING, key, measures, size_ms, filter=filter_, condition=condition)


PRICE_SIGNAL: Final = "detect_price_10s"
"""Key product_id; measures events, lowest, highest (seen), low, high (usual prices)."""

DUPLICATE_SIGNAL: Final = "detect_duplicates_10s"
"""For the site; measure duplicates: events that the engine dropped as duplicates."""

TAIL_10S: Final = "detect_tail_10s"
TAIL_60S: Final = "detect_tail_60s"
"""For the site; measures tail_users, tail_products, spread_users, spread_products: distinct users and products among
the events on rarely viewed products (the tail). `spread` leaves out the category with the most of these events."""

PRICE_FACTOR: Final = 2.0
"""A price is wrong below the lowest usual price divided by this, or above the highest one times this."""

EVENT_TYPES: Final = {
    "view": "views",
    "cart": "carts",
    "remove_from_cart": "removes",
    "purchase": "purchases",
}
"""Event type → the measure that counts it."""

_COUNTS: Final = {
    "events": "count(*)",
    **{measure: f"count(*) filter (where event_type = '{kind}')" for kind, measure in EVENT_TYPES.items()},
    "users": "count(distinct user_id)",
    "new_users": "count(*) filter (where new_user)",
}

SITE_10S: Final = tumbling("detect_site_10s", 10_000, _COUNTS)
"""Events by type, and users."""

SITE_60S: Final = tumbling(
    "detect_site_60s",
    60_000,
    {
        **_COUNTS,
        "buyers": "count(distinct user_id) filter (where event_type in ('cart', 'purchase'))",
        "no_brand": "count(*) filter (where brand is null)",
        "no_category_code": "count(*) filter (where category_code is null)",
        "no_session": "count(*) filter (where user_session is null)",
    },
)
"""Composition of a minute."""
