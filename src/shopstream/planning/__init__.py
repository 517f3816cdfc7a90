"""What a load needs on AWS, and what it costs."""

from shopstream.planning.assumptions import Assumption, Assumptions, shipped_assumptions
from shopstream.planning.plan import Plan, make_plan
from shopstream.planning.prices import DEFAULT_REGION, PriceList, packaged_prices, read_prices
from shopstream.planning.sizing import Load

__all__ = [
    "DEFAULT_REGION",
    "Assumption",
    "Assumptions",
    "Load",
    "Plan",
    "PriceList",
    "make_plan",
    "packaged_prices",
    "read_prices",
    "shipped_assumptions",
]
