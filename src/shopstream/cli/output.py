"""What commands print: tables for people, JSON and CSV for programs.

Results go to stdout; progress, hints and errors to stderr, so that `--format json` is clean.
"""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from shopstream.config import Settings, load_settings

if TYPE_CHECKING:
    from shopstream.yaml_files import Problem

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class Format(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="table for people; csv or json for programs.")]
TABLE_ROWS = 50
LimitOption = Annotated[
    int | None,
    typer.Option(
        min=0, help="Maximum number of rows; 0 shows all.", show_default=f"{TABLE_ROWS} for a table, else all"
    ),
]


def settings_of(ctx: typer.Context) -> Settings:
    """The settings of this call, from its flags, the environment and the settings file."""
    root = ctx.find_root()
    if not isinstance(root.obj, Settings):
        home = root.params.get("home")
        root.obj = load_settings(root.params.get("config"), {"home": home} if home else None)
    return root.obj


def limit_of(limit: int | None, fmt: Format, table_rows: int = TABLE_ROWS) -> int:
    """Rows to show at most; 0 for all."""
    return limit if limit is not None else table_rows if fmt is Format.TABLE else 0


def _plain(value: object) -> object:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    raise TypeError(f"no JSON form for {type(value).__name__}")


def _cell(value: object) -> str | Text:
    text: str | Text
    match value:
        case None:
            text = ""
        case bool():
            text = "yes" if value else "no"
        case int():
            text = f"{value:,}"
        case float():
            text = f"{value:,.4g}"
        case Decimal():
            text = f"{value:,.2f}"
        case datetime():
            text = value.strftime("%Y-%m-%d %H:%M:%S")
        case list() | tuple():
            text = ", ".join(str(_cell(item)) for item in value)
        case Text():  # styled by the caller
            text = value
        case _:
            text = escape(str(value))  # a brand called [b] is no markup
    return text


def emit(
    rows: Sequence[Mapping[str, object]], fmt: Format, *, title: str = "", empty: str = "Nothing to show."
) -> None:
    """Print rows; all have the same keys, which are the columns. Ids should come as text: numbers get separators."""
    if fmt is Format.JSON:
        sys.stdout.write(json.dumps([dict(row) for row in rows], default=_plain, ensure_ascii=False, indent=2) + "\n")
    elif fmt is Format.CSV:
        if rows:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(rows[0])
            writer.writerows([["" if v is None else v for v in row.values()] for row in rows])
    elif not rows:
        out.print(empty)
    else:
        cells = [[_cell(value) for value in row.values()] for row in rows]
        names = [name.replace("_", " ") for name in rows[0]]
        widths = [max(map(_longest_word, column)) for column in zip(names, *cells, strict=True)]
        if sum(widths) + 3 * len(widths) + 1 > out.width:
            _print_records(names, cells, title)
            return
        table = Table(title=title or None, title_justify="left", header_style="bold")
        for name, value, width in zip(names, rows[0].values(), widths, strict=True):
            numeric = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
            table.add_column(name, justify="right" if numeric else "left", min_width=width)
        for row in cells:
            table.add_row(*row)
        out.print(table)


def _longest_word(cell: str | Text) -> int:
    text = Text.from_markup(cell).plain if isinstance(cell, str) else cell.plain
    return max(map(cell_len, text.split()), default=0)


def _print_records(names: Sequence[str], rows: Sequence[Sequence[str | Text]], title: str) -> None:
    """Print rows that are too wide for a table one below the other: a broken word cannot be read or copied."""
    if title:
        out.print(title, style="italic")
    width = max(map(len, names))
    for number, row in enumerate(rows):
        if number:
            out.print()
        for name, cell in zip(names, row, strict=True):
            text = Text.from_markup(cell) if isinstance(cell, str) else cell
            out.print(Text.assemble((f"{name:<{width}}  ", "bold"), text), soft_wrap=True)


def emit_object(row: Mapping[str, object], fmt: Format, *, title: str = "") -> None:
    """Print one thing: a JSON object, a CSV of one row, or a table of names and values."""
    if fmt is Format.JSON:
        sys.stdout.write(json.dumps(dict(row), default=_plain, ensure_ascii=False, indent=2) + "\n")
    elif fmt is Format.CSV:
        emit([row], fmt)
    else:
        table = Table(title=title or None, title_justify="left", show_header=False)
        table.add_column(style="bold")
        table.add_column()
        for name, value in row.items():
            table.add_row(name.replace("_", " "), _cell(value))
        out.print(table)


def emit_problems(problems: "Sequence[Problem]", fmt: Format, summary: str) -> None:
    """Print the problems of checked files; a table ends with the summary."""
    if fmt is not Format.TABLE:
        emit([asdict(problem) for problem in problems], fmt)
        return
    for problem in problems:
        out.print(str(problem), markup=False, soft_wrap=True)
    out.print(summary)
