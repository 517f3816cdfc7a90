"""`shopstream build`, `report` and `query`: builds the marts, prints reports, and runs SQL."""

from enum import StrEnum
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit, emit_object, err, limit_of, out, settings_of
from shopstream.models.names import Bots, ReportName
from shopstream.models.query import query as run
from shopstream.models.reports import report as read


class Target(StrEnum):
    """Where the models run."""

    DUCKDB = "duckdb"
    ATHENA = "athena"


def build(  # noqa: PLR0917  Typer passes by name
    ctx: typer.Context,
    select: Annotated[
        list[str] | None,
        typer.Option(help="Build only this model and its inputs; other marts stay unchanged. Repeatable."),
    ] = None,
    memory_mib: Annotated[
        int, typer.Option("--memory-mib", min=256, help="Memory limit of the models; beyond it they spill to disk.")
    ] = 2048,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Also run tests on example rows, and tests that read every event again.")
    ] = False,
    target: Annotated[
        Target | None,
        typer.Option(help="Where the models run.", show_default="athena in the AWS profile, else duckdb"),
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Build the reports from the lake.

    dbt builds and tests every model in a new file, which then replaces the old one: readers see old or new reports,
    never a mixture. If a test fails, the old reports stay. Days and hours are in the shop's time zone (setting
    `timezone`). Bot traffic is counted separately (`report --bots`).

    In the AWS profile, Athena builds the marts one by one as Iceberg tables of the Glue database, and a copy is loaded
    into the local reports file. `--target duckdb` builds only the local file, from the lake on S3.

    Examples:
      shopstream build
      SHOPSTREAM_TIMEZONE=Asia/Almaty shopstream build
      shopstream build --select brand_marketing --format json
      shopstream build --target duckdb
    """
    settings = settings_of(ctx)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=err, transient=True) as bar:
        task = bar.add_task("reading the models", total=None)

        def show(name: str, done: int, total: int) -> None:
            bar.update(task, description=name, completed=done, total=total)

        result = adapters_of(settings).build_reports(
            select,
            show,
            on_athena=None if target is None else target is Target.ATHENA,
            memory_mib=memory_mib,
            thorough=thorough,
        )
    if not result.events:
        err.print("The lake has no events yet, so the reports are empty; `shopstream run` fills it.")
    summary: dict[str, object] = {
        "reports": str(result.reports_path),
        "timezone": settings.timezone,
        "events": result.events,
        "bot_events": result.bot_events,
        "duplicates": result.duplicates,
        "tests_passed": result.tests,
        "seconds": round(result.elapsed.total_seconds(), 1),
    }
    marts: dict[str, object] = {f"rows_{name}": rows for name, rows in result.rows.items()}
    emit_object(summary | marts, fmt, title="Reports built")


def report(
    ctx: typer.Context,
    name: Annotated[ReportName, typer.Argument(help="Name of the report.")],
    limit: Annotated[
        int | None, typer.Option(min=0, help="Maximum number of rows; 0: all.", show_default="depends on the report")
    ] = None,
    bots: Annotated[Bots, typer.Option(help="Figures without bots, with them, or both side by side.")] = Bots.EXCLUDE,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Print one of the four reports, as of the last `shopstream build`.

    The reports:
      unique_visitors   unique shoppers per day, new and returning
      abandoned_carts   products left in the cart, with their value
      top_categories    what shoppers view, by hour and weekday
      brand_marketing   brands that need marketing, with the reason in numbers

    Tables show the main columns; csv and json have all. Bot traffic is excluded unless --bots says otherwise.

    Examples:
      shopstream report brand_marketing
      shopstream report abandoned_carts --limit 0 --format csv > carts.csv
      shopstream report unique_visitors --limit 7 --format json
      shopstream report top_categories --bots both
    """
    found = read(name, adapters_of(settings_of(ctx)).reports_file(), limit, bots)
    rows = found.rows
    if fmt is Format.TABLE:
        out.print(f"[bold]{found.title}[/]: {escape(found.headline)}.")
        out.print(found.description, style="dim")
        if found.bots_note:
            out.print(found.bots_note, style="dim")
        rows = [{column: row[column] for column in found.main_columns} for row in rows]
    emit(rows, fmt, empty="There are no rows yet.")
    if len(rows) < found.total_rows:
        err.print(f"{len(rows):,} of {found.total_rows:,} rows; --limit 0 shows all.")


_TABLE_ROWS = 100


def query(
    ctx: typer.Context,
    sql: Annotated[str, typer.Argument(help="One SELECT in DuckDB's SQL.")],
    limit: Annotated[
        int | None,
        typer.Option(
            min=0, help="Maximum number of rows; 0: all.", show_default=f"{_TABLE_ROWS} for a table, else all"
        ),
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Query the marts and the lake in SQL.

    Marts, as of the last `shopstream build`: unique_visitors, abandoned_carts, abandoned_carts_daily, top_categories,
    brand_marketing, report_scope. Tables of the lake, as of now: events, dead_letters, detections. Queries can neither
    write nor read other files.

    Examples:
      shopstream query "show tables"
      shopstream query "describe unique_visitors"
      shopstream query "select event_type, count(*) from events group by all"
      shopstream query "from brand_marketing" --format csv > brands.csv
    """
    settings = settings_of(ctx)
    most = limit_of(limit, fmt, _TABLE_ROWS)
    with adapters_of(settings).open_lake_reader() as lakehouse:
        result = run(sql, lakehouse, adapters_of(settings).reports_file(), most)
    rows = result.rows
    if fmt is Format.TABLE:  # ids are names, not quantities: no thousands separators
        rows = [
            {name: str(v) if name.endswith("_id") and v is not None else v for name, v in row.items()} for row in rows
        ]
    emit(rows, fmt, empty="The query returns no rows.")
    if result.cut:
        err.print(f"These are the first {most:,} rows; --limit 0 shows all.")
