"""`shopstream build`: marts from the lake."""

from enum import StrEnum
from typing import Annotated

import typer

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit_object, err, settings_of

__all__ = ["Target", "build"]


class Target(StrEnum):
    """Where the models run."""

    DUCKDB = "duckdb"
    ATHENA = "athena"


def build(  # noqa: PLR0917  Typer passes by name
    ctx: typer.Context,
    select: Annotated[
        list[str] | None,
        typer.Option(help="Build this model and what it is made from; the other marts stay. Repeat for several."),
    ] = None,
    memory_mib: Annotated[
        int, typer.Option("--memory-mib", min=256, help="Memory for the models; beyond it they use the disk.")
    ] = 2048,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Also test the models on made-up rows, and every event once more.")
    ] = False,
    target: Annotated[
        Target | None,
        typer.Option(help="Where the models run.", show_default="athena in the AWS profile, else duckdb"),
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Build the reports from the lake.

    dbt builds and tests every model into a new file, which then takes the place of the old one: whoever reads the
    reports sees the old ones or the new ones, never half of them. When a test fails, the old stay. Days and hours are
    the shop's (setting `timezone`). Events of actors that incidents call bots are counted apart (`report --bots`).

    In the AWS profile Athena builds the marts as Iceberg tables of the Glue database, one after the other, and they are
    brought into the reports file of this machine; `--target duckdb` builds that file alone, here, from the lake on S3.

    Examples:
      shopstream build
      SHOPSTREAM_TIMEZONE=Asia/Almaty shopstream build
      shopstream build --select brand_marketing --format json
      shopstream build --target duckdb
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415  start-up time

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
        err.print("The lake holds no events yet, so the reports are empty; `shopstream run` fills it.")
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
