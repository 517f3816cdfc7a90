"""What the reports are called."""

from enum import StrEnum

__all__ = ["ReportName"]


class ReportName(StrEnum):
    """The reports."""

    UNIQUE_VISITORS = "unique_visitors"
    ABANDONED_CARTS = "abandoned_carts"
    TOP_CATEGORIES = "top_categories"
    BRAND_MARKETING = "brand_marketing"
