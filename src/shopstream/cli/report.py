"""`shopstream report`: the four reports."""

from typing import Annotated

import typer
from rich.markup import escape

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit, err, out, settings_of
from shopstream.models.names import Bots, ReportName

__all__ = ["report"]


def report(
    ctx: typer.Context,
    name: Annotated[ReportName, typer.Argument(help="Which report.")],
    limit: Annotated[
        int | None, typer.Option(min=0, help="Rows at most, 0 for all.", show_default="what fits the report")
    ] = None,
    bots: Annotated[Bots, typer.Option(help="Figures without bots, with them, or both side by side.")] = Bots.EXCLUDE,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Print one of the four reports, as of the last `shopstream build`.

    The reports:
      unique_visitors   different shoppers each day, new and returning
      abandoned_carts   what was put in the cart and not bought, with its value
      top_categories    what shoppers look at, by hour and weekday
      brand_marketing   brands that need marketing, with the reason in numbers

    A table shows the main columns; csv and json have all. Events that incidents call a bot's are left out, unless
    --bots says otherwise.

    Examples:
      shopstream report brand_marketing
      shopstream report abandoned_carts --limit 0 --format csv > carts.csv
      shopstream report unique_visitors --limit 7 --format json
      shopstream report top_categories --bots both
    """
    from shopstream.models.reports import report as read  # noqa: PLC0415  start-up time

    found = read(name, adapters_of(settings_of(ctx)).reports_file(), limit, bots)
    rows = found.rows
    if fmt is Format.TABLE:
        out.print(f"[bold]{found.title}[/]: {escape(found.headline)}.", highlight=False)
        out.print(found.description, style="dim", highlight=False)
        if found.bots_note:
            out.print(found.bots_note, style="dim", highlight=False)
        rows = [{column: row[column] for column in found.main_columns} for row in rows]
    emit(rows, fmt, empty="There are no rows yet.")
    if len(rows) < found.total_rows:
        err.print(f"{len(rows):,} of {found.total_rows:,} rows; --limit 0 prints all.", highlight=False)
