"""What the reports are called."""

from enum import StrEnum

__all__ = ["Bots", "ReportName"]


class ReportName(StrEnum):
    """The reports."""

    UNIQUE_VISITORS = "unique_visitors"
    ABANDONED_CARTS = "abandoned_carts"
    TOP_CATEGORIES = "top_categories"
    BRAND_MARKETING = "brand_marketing"


class Bots(StrEnum):
    """What a report does with the events that verdicts say are bots'."""

    EXCLUDE = "exclude"
    INCLUDE = "include"
    BOTH = "both"
    """The figures without bots, and beside each the one with them."""
