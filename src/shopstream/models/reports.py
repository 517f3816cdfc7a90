"""The four reports, read from the marts."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from shopstream.errors import StateError
from shopstream.models.names import Bots, ReportName

__all__ = ["Report", "Scope", "open_reports", "report", "scope"]


@dataclass(frozen=True, slots=True)
class Report:
    """One report, ready to be shown.

    Args:
        name: which one.
        title: a few words.
        description: how to read it, one or two sentences.
        headline: its main figure as a sentence.
        rows: column → value; ids are text, money is Decimal, times are the shop's wall clock.
        total_rows: rows there are, of which `rows` may be the first.
        main_columns: the columns to show where there is not room for all.
        bots_note: a sentence on the events of bots; empty as long as nobody is said to be one.
    """

    name: ReportName
    title: str
    description: str
    headline: str
    rows: list[dict[str, object]]
    total_rows: int
    main_columns: tuple[str, ...]
    bots_note: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """What the reports were built from; the values are those of the mart `report_scope`."""

    timezone: str
    built_at_utc: datetime
    events: int
    bot_events: int
    duplicates: int
    visitors: int
    visitors_with_bots: int
    bot_actors: int
    first_event_at: datetime | None
    last_event_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Definition:
    title: str
    description: str
    default_limit: int
    main_columns: str
    headline: str  # SQL for one text
    rows: str  # SQL for all rows, the best first; {twins} is where the figures with bots go, if both are asked for
    twins: str  # columns that are there without and with bots, save where the mart says it of each row
    twins_shown: str  # of these, the ones to show with the main columns
    display_order: str = ""  # SQL order of the rows that are shown, where it is another one


_DEFINITIONS: dict[ReportName, _Definition] = {
    ReportName.UNIQUE_VISITORS: _Definition(
        title="Unique visitors per day",
        description="Different shoppers on each shop day; new ones are on no earlier day in the lake. "
        "The first or last day may be incomplete: see its first and last event.",
        default_limit=31,
        main_columns="shop_date visitors new_visitors returning_visitors sessions buyers purchases revenue",
        headline="""
            select case d.days
                when 0 then 'no visitors yet'
                when 1 then format('{:,} visitors on one day, {}', s.visitors, d.busiest)
                else format('{:,} visitors on {:,} days; the busiest day, {}, had {:,}',
                    s.visitors, d.days, d.busiest, d.most)
                end
            from report_scope s cross join (
                select count(*) as days, max(visitors) as most, cast(arg_max(shop_date, visitors) as varchar) as busiest
                from unique_visitors) d
        """,
        rows="""
            select shop_date, visitors, new_visitors, returning_visitors, sessions, buyers,
                round(buyer_share, 4) as buyer_share, events, views, carts, purchases, revenue,
                first_event_at, last_event_at{twins}
            from unique_visitors order by shop_date desc
        """,
        twins="visitors new_visitors returning_visitors sessions buyers events views carts purchases revenue",
        twins_shown="visitors sessions events",
        display_order="shop_date",
    ),
    ReportName.ABANDONED_CARTS: _Definition(
        title="Carts not bought",
        description="Products put in the cart and neither bought nor removed since: abandoned after a pause, open "
        "before. The value counts one piece each, for events carry no quantity. The mart abandoned_carts_daily sums up "
        "by day.",
        default_limit=20,
        main_columns="user_id product_id category brand value last_carted_at state",
        headline="""
            select format('{:,} cart lines abandoned, worth {:,.2f}; {:,} still open; '
                || '{:,} of {:,} purchases had no cart event',
                coalesce(sum(abandoned), 0)::bigint, coalesce(sum(abandoned_value), 0)::double,
                coalesce(sum(still_open), 0)::bigint, coalesce(sum(purchases_without_cart), 0)::bigint,
                coalesce(sum(purchases), 0)::bigint)
            from abandoned_carts_daily
        """,
        rows="""
            select cast(user_id as varchar) as user_id, cast(product_id as varchar) as product_id, category, brand,
                value, times_carted, last_carted_at, state{twins}
            from abandoned_carts carts
            order by state, value desc, last_carted_at desc, carts.user_id, carts.product_id
        """,
        twins="is_bot",
        twins_shown="is_bot",
    ),
    ReportName.TOP_CATEGORIES: _Definition(
        title="Top categories by hour and weekday",
        description="The three most viewed categories of each hour of each weekday, the busiest hours first; "
        "days says how many such hours are added up. The mart top_categories has every category.",
        default_limit=24,
        main_columns="weekday hour category views views_share visitors purchases revenue",
        headline="""
            select coalesce(
                (select format('{} leads on {} at {:02d}:00, the busiest hour, with {:,} of {:,} views',
                    category, weekday_name, hour, views, slot_views)
                from (select *, sum(views) over (partition by weekday, hour)::bigint as slot_views from top_categories)
                where rank = 1 order by slot_views desc, weekday, hour limit 1),
                'no events yet')
        """,
        rows="""
            select weekday_name as weekday, hour, rank, category, views, round(views_share, 4) as views_share, visitors,
                carts, purchases, revenue, days{twins}
            from (select *, sum(views) over (partition by weekday, hour) as slot_views from top_categories) slots
            where rank <= 3 order by slot_views desc, slots.weekday, hour, rank
        """,
        twins="rank views views_share visitors carts purchases revenue",
        twins_shown="rank views visitors",
    ),
    ReportName.BRAND_MARKETING: _Definition(
        title="Brands that need marketing",
        description="Brands whose conversion (buyers among visitors) lies off the shop's median by more than chance: "
        "seen but not bought, or bought but hardly seen. Missed revenue estimates what the median would have brought.",
        default_limit=20,
        main_columns="brand verdict reason missed_revenue",
        headline="""
            select format('{:,} of {:,} brands need marketing; about {:,.0f} in sales missed; '
                || '{:,} have too few visitors to tell',
                count(*) filter (needs_marketing), count(*), coalesce(sum(missed_revenue), 0)::double,
                count(*) filter (verdict = 'too_few_visitors'))
            from brand_marketing
        """,
        rows="""
            select brand, needs_marketing, verdict, reason, missed_revenue, visitors, buyers,
                round(conversion, 4) as conversion, views, purchases, revenue{twins}
            from brand_marketing
            order by brand_marketing.needs_marketing desc, missed_revenue desc, visitors desc, brand
        """,
        twins="needs_marketing verdict reason missed_revenue visitors buyers conversion views purchases revenue",
        twins_shown="verdict",
    ),
}

# What a mart is where one of the two figures is asked for: rows that bots alone made go, or all rows stay.
_NOT_BOTS_ALONE = {
    "abandoned_carts": "not is_bot",
    "top_categories": "visitors > 0",
    "brand_marketing": "visitors > 0",
}
_ENDING = "_with_bots"


def open_reports(path: Path) -> duckdb.DuckDBPyConnection:
    """A connection in which the marts are the tables of the schema `reports`; nothing can be written.

    The file is attached, not opened by name: within one process DuckDB would hand out an older file of the same name
    as long as somebody has it open.

    Raises:
        StateError: there are no reports yet, or the file is none of ours.
    """
    if not path.is_file():
        raise StateError(f"expected the reports in {path}, found none; run `shopstream build` first")
    connection = duckdb.connect()
    try:
        connection.execute("set timezone = 'UTC'")
        literal = str(path.resolve()).replace("'", "''")  # ATTACH takes no bound parameters
        connection.execute(f"attach '{literal}' as reports (read_only)")
    except duckdb.Error as error:
        connection.close()
        raise StateError(
            f"expected a reports file in {path}, DuckDB says: {error}; remove it and run `shopstream build`"
        ) from error
    return connection


def choose_bots(connection: duckdb.DuckDBPyConnection, bots: Bots) -> None:
    """Let the marts' names stand for their figures without bots, with them, or for the marts as they are."""
    for (mart,) in connection.execute(
        "select view_name from duckdb_views() where temporary and not internal"
    ).fetchall():
        connection.execute(f'drop view "{mart}"')
    if bots is Bots.BOTH:
        return
    columns: dict[str, list[str]] = {}
    for mart, column in connection.execute(
        "select table_name, column_name from duckdb_columns() where database_name = 'reports' order by column_index"
    ).fetchall():
        columns.setdefault(mart, []).append(column)
    for mart, names in columns.items():
        twins = {name.removesuffix(_ENDING) for name in names if name.endswith(_ENDING)}
        if bots is Bots.INCLUDE:
            shown = ", ".join(
                f"{name}{_ENDING} as {name}" if name in twins else name
                for name in names
                if name.removesuffix(_ENDING) == name
            )
            where = "true"
        else:
            shown, where = "*", _NOT_BOTS_ALONE.get(mart, "true")
        connection.execute(f'create temporary view "{mart}" as select {shown} from reports.main."{mart}" where {where}')


def scope(reports_path: Path) -> Scope:
    """What the reports were built from.

    Raises:
        StateError: there are no reports yet, or they were built by another version.
    """
    with open_reports(reports_path) as connection:
        try:
            return _scope(connection)
        except (duckdb.CatalogException, duckdb.BinderException) as error:
            raise _other_version(reports_path, error) from error


def report(name: ReportName, reports_path: Path, limit: int | None = None, bots: Bots = Bots.EXCLUDE) -> Report:
    """One report, from the marts as they were last built.

    Args:
        name: which one.
        reports_path: the reports file.
        limit: rows at most; None takes the report's own number, 0 takes all.
        bots: what to do with their events; with BOTH, columns ending in `_with_bots` follow the others, and the
            headline is without bots.

    Raises:
        StateError: there are no reports yet, or they were built by another version.
    """
    definition = _DEFINITIONS[name]
    most = definition.default_limit if limit is None else limit
    both = bots is Bots.BOTH
    source = definition.rows.replace("{twins}", _twins(definition.twins) if both else "")
    with open_reports(reports_path) as connection:
        try:
            connection.execute("use reports")
            found = _scope(connection)
            choose_bots(connection, Bots.EXCLUDE if both else bots)
            headline = connection.execute(definition.headline).fetchall()
            if both:
                choose_bots(connection, bots)
            total = connection.execute(f"select count(*) from ({source})").fetchall()
            shown = f"select * from ({source} limit ?)"
            if definition.display_order:
                shown += f" order by {definition.display_order}"
            cursor = connection.execute(shown, [most or None])
            columns = [column[0] for column in cursor.description or []]
            rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
        except (duckdb.CatalogException, duckdb.BinderException) as error:
            raise _other_version(reports_path, error) from error
    main_columns = definition.main_columns.split()
    if both:
        main_columns += [_twin(column) for column in definition.twins_shown.split()]
    return Report(
        name=name,
        title=definition.title,
        description=definition.description,
        headline=str(headline[0][0]),
        rows=rows,
        total_rows=int(total[0][0]),
        main_columns=tuple(main_columns),
        bots_note=_bots_note(found, bots),
    )


def _scope(connection: duckdb.DuckDBPyConnection) -> Scope:
    rows = connection.execute(
        "select timezone, built_at_utc, events, bot_events, duplicates, visitors, visitors_with_bots, bot_actors,"
        " first_event_at, last_event_at from reports.main.report_scope"
    ).fetchall()
    return Scope(*rows[0])


def _twin(column: str) -> str:
    return column if column == "is_bot" else column + _ENDING


def _twins(columns: str) -> str:
    return "".join(f", {_twin(column)}" for column in columns.split())


def _bots_note(found: Scope, bots: Bots) -> str:
    if not found.bot_events:
        return ""
    told = f"{found.bot_events:,} of {found.events:,} events are bots', by verdicts on {found.bot_actors:,} actors"
    if bots is Bots.INCLUDE:
        return f"{told}: they are in these figures."
    return f"{told}: they are left out" + (
        " but in the columns with_bots." if bots is Bots.BOTH else "; --bots include or both shows them."
    )


def _other_version(reports_path: Path, error: duckdb.Error) -> StateError:
    return StateError(f"expected marts of this version in {reports_path}, DuckDB says: {error}; run `shopstream build`")
