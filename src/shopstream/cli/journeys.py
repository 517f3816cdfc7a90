"""`shopstream journeys`: live shopper journeys, and the timeline of one shopper."""

import json
import sys
from decimal import Decimal
from typing import Annotated, Any

import duckdb
import typer

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit, err, out, settings_of
from shopstream.clock import from_ms
from shopstream.journeys.live import timeline
from shopstream.lakehouse.tables import create_views

app = typer.Typer(invoke_without_command=True)


@app.callback()
def overview(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    """Show what shoppers do now: active sessions, funnel, open carts and top lists.

    Examples:
      shopstream journeys
      shopstream journeys --format json
      shopstream journeys show 512345678
    """
    if ctx.invoked_subcommand:
        return
    panels: dict[str, Any] = adapters_of(settings_of(ctx)).open_live().read()
    if fmt is Format.JSON:
        sys.stdout.write(json.dumps(panels, indent=2) + "\n")
        return
    if not panels:
        err.print("No live journeys yet: start `shopstream run` and send events, e.g. with `shopstream simulate`.")
        return
    if fmt is Format.CSV:
        emit(panels["funnel"], fmt)
        return
    sessions, carts = panels["sessions"], panels["carts"]
    out.print(f"As of {from_ms(panels['as_of_ms']):%Y-%m-%d %H:%M:%S} UTC", style="bold")
    out.print(
        f"{sessions['active']:,} active sessions of {sessions['shoppers']:,} shoppers: {sessions['with_cart']:,} with "
        f"something in the cart, {sessions['bought']:,} bought; {carts['lines']:,} products in {carts['carts']:,} open "
        f"carts, worth {float(carts['value']):,.2f}"
    )
    emit(panels["funnel"], fmt, title="Funnel of the sessions active in the last minutes")
    top = panels["top"]["60m"]
    for what in ("products", "categories", "brands"):
        rows = [_row(row) for row in top[what]]
        emit(rows, fmt, title=f"Top {what} of the last 60 minutes")


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """Ids as text and money as decimals, which JSON does not keep."""
    kinds = {"product_id": str, "revenue": Decimal}
    return {name: kinds.get(name, lambda same: same)(value) for name, value in row.items()}


@app.command()
def show(
    ctx: typer.Context,
    user: Annotated[int, typer.Argument(help="The shopper's user_id.")],
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of events, newest first.")] = 100,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Print one shopper's timeline from the lake, oldest first, with the time since the previous event.

    Examples:
      shopstream journeys show 512345678
      shopstream journeys show 512345678 --limit 1000 --format csv
    """
    with adapters_of(settings_of(ctx)).open_lake_reader() as lakehouse, duckdb.connect() as connection:
        create_views(connection, lakehouse)
        rows = timeline(connection, user, limit)
    emit(
        rows,
        fmt,
        title=f"Shopper {user}",
        empty=f"No event of {user} in the lake (the last seconds are missing).",
    )
