"""The four reports, read from the marts."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from shopstream.engine.tables import fetch_dicts
from shopstream.errors import StateError
from shopstream.models.names import Bots, ReportName


@dataclass(frozen=True, slots=True)
class Report:
    """One report.

    Args:
        name: which one.
        title: a few words.
        description: how to read it, one or two sentences.
        headline: its main figure as a sentence.
        rows: column → value; ids are text, money is Decimal, times are the shop's wall clock.
        total_rows: number of rows; `rows` may hold only the first of them.
        main_columns: columns to show if there is not room for all.
        bots_note: a sentence on the events of bots; empty if there are none.
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
    """The data that the reports were built from; values of the mart `report_scope`."""

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
    rows: str  # SQL for all rows, most important first; {twins} becomes the columns with bots, if both are requested
    twins: str  # columns that exist without and with bots, or `is_bot` where the mart marks each row
    twins_shown: str  # twins to show with the main columns
    display_order: str = ""  # SQL order of the rows shown, if different


_DEFINITIONS: dict[ReportName, _Definition] = {
    ReportName.UNIQUE_VISITORS: _Definition(
        title="Unique visitors per day",
        description="Distinct shoppers per shop day; a visitor is new if the lake has no earlier day for them. "
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
        title="Abandoned carts",
        description="Products added to the cart, then neither bought nor removed: abandoned after a pause, open "
        "before. The value counts one piece each, because events carry no quantity. The mart abandoned_carts_daily has "
        "sums per day.",
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
        description="The three most viewed categories of each hour of each weekday, busiest hours first; "
        "days is the number of such hours added up. The mart top_categories has every category.",
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
        description="Brands whose conversion (buyers among visitors) differs from the shop's median beyond chance: "
        "viewed but not bought, or bought but rarely viewed. Missed revenue estimates sales at the median conversion.",
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

# Rows to keep without bots: those that bots alone produced are dropped.
_NOT_BOTS_ALONE = {
    "abandoned_carts": "not is_bot",
    "top_categories": "visitors > 0",
    "brand_marketing": "visitors > 0",
}
_ENDING = "_with_bots"


def open_reports(path: Path) -> duckdb.DuckDBPyConnection:
    """A read-only connection in which the marts are the tables of the schema `reports`.

    The file is attached, not opened by name: within one process, DuckDB would return an older file of the same name
    while another connection has it open.

    Raises:
        StateError: there are no reports yet, or the file is not a reports file.
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
    """Make the names of marts show figures without bots, figures with bots, or (for BOTH) the marts themselves."""
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
    """The data that the reports were built from.

    Raises:
        StateError: there are no reports yet, or another version built them.
    """
    with open_reports(reports_path) as connection:
        try:
            return _scope(connection)
        except (duckdb.CatalogException, duckdb.BinderException) as error:
            raise _other_version(reports_path, error) from error


def report(name: ReportName, reports_path: Path, limit: int | None = None, bots: Bots = Bots.EXCLUDE) -> Report:
    """One report, from the marts of the last build.

    Args:
        name: which one.
        reports_path: the reports file.
        limit: maximum number of rows; None: the report's default, 0: all.
        bots: how to treat events of bots; with BOTH, columns ending in `_with_bots` follow the others, and the headline
            excludes bots.

    Raises:
        StateError: there are no reports yet, or another version built them.
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
            rows = fetch_dicts(cursor)
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
    counts = f"{found.bot_events:,} of {found.events:,} events come from bots (verdicts on {found.bot_actors:,} actors)"
    if bots is Bots.INCLUDE:
        return f"{counts}: included in these figures."
    return f"{counts}: excluded" + (
        " except in the columns with_bots." if bots is Bots.BOTH else "; --bots include or both shows them."
    )


def _other_version(reports_path: Path, error: duckdb.Error) -> StateError:
    return StateError(f"expected marts of this version in {reports_path}, DuckDB says: {error}; run `shopstream build`")
