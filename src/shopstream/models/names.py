"""Names of the reports and their options."""

from enum import StrEnum


class ReportName(StrEnum):
    """The reports."""

    UNIQUE_VISITORS = "unique_visitors"
    ABANDONED_CARTS = "abandoned_carts"
    TOP_CATEGORIES = "top_categories"
    BRAND_MARKETING = "brand_marketing"


class Bots(StrEnum):
    """How a report treats the events of bots."""

    EXCLUDE = "exclude"
    INCLUDE = "include"
    BOTH = "both"
    """Figures without bots, each followed by the figure with bots."""
