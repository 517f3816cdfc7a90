"""The windows that several detectors read."""

from typing import Final

from shopstream.engine.window import WindowDeclaration, WindowKind

__all__ = ["EVENT_TYPES", "SITE_MINUTE", "SITE_TEN"]

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

SITE_TEN: Final = WindowDeclaration(
    name="detect_site_10s", kind=WindowKind.TUMBLING, key=(), size_ms=10_000, measures=_COUNTS
)
"""How many, of which type, from how many users."""

SITE_MINUTE: Final = WindowDeclaration(
    name="detect_site_60s",
    kind=WindowKind.TUMBLING,
    key=(),
    size_ms=60_000,
    measures={
        **_COUNTS,
        "buyers": "count(distinct user_id) filter (where event_type in ('cart', 'purchase'))",
        "no_brand": "count(*) filter (where brand is null)",
        "no_category_code": "count(*) filter (where category_code is null)",
        "no_session": "count(*) filter (where user_session is null)",
    },
)
"""Composition of a minute."""
