"""`shopstream query`: a user's own SQL."""

from contextlib import closing
from typing import Annotated

import typer

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit, err, settings_of

__all__ = ["query"]

_TABLE_ROWS = 100


def query(
    ctx: typer.Context,
    sql: Annotated[str, typer.Argument(help="One SELECT in DuckDB's SQL.")],
    limit: Annotated[
        int | None,
        typer.Option(min=0, help="Rows at most, 0 for all.", show_default=f"{_TABLE_ROWS} for a table, else all"),
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Ask the marts and the lake in SQL.

    As of the last `shopstream build`: unique_visitors, abandoned_carts, abandoned_carts_daily, top_categories,
    brand_marketing, report_scope. As of now, from the lake: events, dead_letters, detections. Nothing can be written,
    and no other file can be read.

    Examples:
      shopstream query "show tables"
      shopstream query "describe unique_visitors"
      shopstream query "select event_type, count(*) from events group by all"
      shopstream query "from brand_marketing" --format csv > brands.csv
    """
    from shopstream.models.query import query as run  # noqa: PLC0415  start-up time

    settings = settings_of(ctx)
    most = limit if limit is not None else _TABLE_ROWS if fmt is Format.TABLE else 0
    with closing(adapters_of(settings).open_lakehouse()) as lakehouse:
        result = run(sql, lakehouse, adapters_of(settings).reports_file(), most)
    rows = result.rows
    if fmt is Format.TABLE:  # ids are names, not quantities: no thousands separators
        rows = [
            {name: str(v) if name.endswith("_id") and v is not None else v for name, v in row.items()} for row in rows
        ]
    emit(rows, fmt, empty="The query gives no rows.")
    if result.cut:
        err.print(f"These are the first {most:,} rows; --limit 0 prints all.")
