"""The windows behind the live view: the same declarations that rules are made of."""

from datetime import timedelta
from typing import Final

from shopstream.engine.window import WindowDeclaration, WindowKind

__all__ = ["CART_LINES", "PRODUCTS", "SESSIONS", "SESSION_GAP", "SPANS"]

SESSION_GAP: Final = timedelta(minutes=30)
SPANS: Final = (timedelta(minutes=15), timedelta(minutes=60))
"""How far the funnel and the top lists look back."""

_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 60 * _MINUTE_MS

SESSIONS: Final = WindowDeclaration(
    name="journey_sessions",
    kind=WindowKind.SESSION,
    gap_ms=SESSION_GAP // timedelta(milliseconds=1),
    key=("user_id", "user_session"),
    measures={
        "events": "count(*)",
        "views": "count(*) filter (where event_type = 'view')",
        "carts": "count(*) filter (where event_type = 'cart')",
        "purchases": "count(*) filter (where event_type = 'purchase')",
        "spent": "sum(price) filter (where event_type = 'purchase')",
    },
)
"""One shopper's visit: the tracker's session id, cut at 30 minutes of silence because such ids can live for months."""

PRODUCTS: Final = WindowDeclaration(
    name="journey_products",
    kind=WindowKind.SLIDING,
    size_ms=_HOUR_MS,
    slide_ms=_MINUTE_MS,
    key=("product_id",),
    measures={
        "views": "count(*) filter (where event_type = 'view')",
        "carts": "count(*) filter (where event_type = 'cart')",
        "purchases": "count(*) filter (where event_type = 'purchase')",
        "revenue": "sum(price) filter (where event_type = 'purchase')",
    },
)
"""What is looked at and bought; categories and brands are sums of products (see `journeys.names`)."""

CART_LINES: Final = WindowDeclaration(
    name="journey_cart_lines",
    kind=WindowKind.SLIDING,
    size_ms=24 * _HOUR_MS,
    slide_ms=_HOUR_MS,
    key=("user_id", "product_id"),
    filter="event_type <> 'view'",
    measures={
        "carted_at": "max(event_time) filter (where event_type = 'cart')",
        "removed_at": "max(event_time) filter (where event_type = 'remove_from_cart')",
        "bought_at": "max(event_time) filter (where event_type = 'purchase')",
        "worth": "max(price)",
    },
)
"""The cart ledger of the last 24 hours."""
