"""The four reports as the page draws them: the rows of `models.reports` and the figures of their charts."""

from pathlib import Path
from typing import Final

import duckdb

from shopstream.errors import StateError
from shopstream.models.names import Bots, ReportName
from shopstream.models.reports import choose_bots, open_reports, report, scope

__all__ = ["reports_panel"]

_DAYS: Final = 92
_BRANDS_DRAWN: Final = 300

_FIGURES: Final = {
    # What became of the carts of each day, the last three months.
    "cart_days": """
        select shop_date, abandoned, abandoned_value, bought_value, still_open, abandoned_share
        from (select * from abandoned_carts_daily order by shop_date desc limit ?) order by shop_date""",
    # Views of each hour of each weekday, and who leads there.
    "slots": """
        select weekday, weekday_name, hour, category, views, slot_views, slot_carts, slot_purchases, days
        from (select *, sum(views) over slot as slot_views, sum(carts) over slot as slot_carts,
                  sum(purchases) over slot as slot_purchases
              from top_categories window slot as (partition by weekday, hour))
        where rank = 1 order by weekday, hour""",
    "categories": """
        select category, sum(views)::bigint as views, sum(carts)::bigint as carts, sum(purchases)::bigint as purchases,
            sum(revenue) as revenue
        from top_categories group by category order by views desc, category limit 10""",
    # The brands most people saw, and all that need marketing.
    "brands": """
        select brand, visitors, conversion, verdict, median_conversion, median_visitors
        from brand_marketing where verdict <> 'too_few_visitors'
        order by needs_marketing desc, visitors desc, brand limit ?""",
    "brand_counts": "select count(*) as brands, count(*) filter (needs_marketing) as needing from brand_marketing",
}
_BOUND: Final = {"cart_days": [_DAYS], "brands": [_BRANDS_DRAWN]}


def reports_panel(path: Path) -> dict[str, object] | None:
    """Everything the report sections show; None as long as there are no reports.

    Raises:
        StateError: the file is none of ours, or was built by another version.
    """
    if not path.is_file():
        return None
    found = {
        str(name): _report(name, path, limit)
        for name, limit in (
            (ReportName.UNIQUE_VISITORS, _DAYS),
            (ReportName.ABANDONED_CARTS, 12),
            (ReportName.TOP_CATEGORIES, 24),
            (ReportName.BRAND_MARKETING, 15),
        )
    }
    return {"scope": _scope(path), **found, **_figures(path)}


def _report(name: ReportName, path: Path, limit: int) -> dict[str, object]:
    read = report(name, path, limit)
    return {
        "title": read.title,
        "description": read.description,
        "headline": read.headline,
        "rows": read.rows,
        "shown": len(read.rows),
        "total": read.total_rows,
    }


def _scope(path: Path) -> dict[str, object]:
    found = scope(path)
    return {
        "timezone": found.timezone,
        "built_at": f"{found.built_at_utc.replace(tzinfo=None).isoformat(timespec='seconds')}Z",
        "events": found.events,
        "in_lake": found.events + found.duplicates,
        "visitors": found.visitors,
        "bot_events": found.bot_events,
        "bot_actors": found.bot_actors,
        "bot_visitors": found.visitors_with_bots - found.visitors,
        "first_event_at": found.first_event_at,
        "last_event_at": found.last_event_at,
    }


def _figures(path: Path) -> dict[str, object]:
    figures: dict[str, object] = {}
    with open_reports(path) as connection:
        connection.execute("use reports")
        try:
            choose_bots(connection, Bots.EXCLUDE)
            for name, sql in _FIGURES.items():
                cursor = connection.execute(sql, _BOUND.get(name))
                columns = [column[0] for column in cursor.description or []]
                figures[name] = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
        except duckdb.Error as error:
            raise StateError(
                f"expected marts of this version in {path}, DuckDB says: {error}; run `shopstream build`"
            ) from error
    return figures
