"""`shopstream lake`: the Iceberg tables."""

from datetime import timedelta
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit, err, settings_of
from shopstream.clock import SystemClock
from shopstream.errors import PermanentError
from shopstream.lakehouse.ports import LakeTable

if TYPE_CHECKING:
    from shopstream.lakehouse.iceberg import IcebergLakehouse

__all__ = ["app"]

app = typer.Typer(help="The lake: Iceberg tables of events, dead letters and detections.", no_args_is_help=True)

TableOption = Annotated[list[LakeTable] | None, typer.Option("--table", help="Only this table; repeat for several.")]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


def _open(ctx: typer.Context) -> "IcebergLakehouse":
    return adapters_of(settings_of(ctx)).open_lakehouse()


def _size(count: float) -> str:
    unit = 0
    while count >= _STEP and unit < len(_UNITS) - 1:
        count /= _STEP
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"


@app.command()
def status(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    """Show size, rows, files and snapshots of each table, and the positions it holds.

    Examples:
      shopstream lake status
      shopstream lake status --format json
    """
    lakehouse = _open(ctx)
    rows: list[dict[str, object]] = []
    for table in lakehouse.status():
        row: dict[str, object] = {
            "table": table.table,
            "rows": table.rows,
            "data_files": table.data_files,
            "bytes": table.bytes,
            "snapshots": table.snapshots,
            "current_snapshot_id": None if table.current_snapshot_id is None else str(table.current_snapshot_id),
        }
        if fmt is Format.JSON:
            row["positions"] = dict(table.positions)
        elif fmt is Format.TABLE:
            row["bytes"] = _size(table.bytes)
            row["shards"] = len(table.positions)
            del row["current_snapshot_id"]  # nothing for people, and wide
        rows.append(row)
    emit(rows, fmt)
    if fmt is Format.TABLE:
        err.print(lakehouse.catalog.description)


@app.command()
def ingest(
    ctx: typer.Context,
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="CSV, CSV.gz, JSON lines or Parquet; path or URL (s3://...).")
    ],
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Load files straight into the lake, past the stream: history for the reports, no live windows, no incidents.

    Each row becomes an event, is dropped as a duplicate, or goes to the dead letters with its reason: the summary adds
    up. A load that was interrupted goes on where it stopped when the command is given again; a file that is there
    already (the same content, whatever its name) is skipped.

    Examples:
      shopstream lake ingest 2019-Oct.csv
      shopstream lake ingest 2019-Oct.csv.gz 2019-Nov.csv.gz
      shopstream lake ingest s3://my-bucket/2019-Oct.parquet --format json
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415  start-up time

    from shopstream.lakehouse.ingest import IngestResult  # noqa: PLC0415  start-up time
    from shopstream.lakehouse.ingest import ingest as load  # noqa: PLC0415  start-up time

    lakehouse = _open(ctx)
    rows: list[dict[str, object]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rows]:,} rows"))
    for file in files:
        began = perf_counter()
        with Progress(*columns, TimeRemainingColumn(), console=err, transient=True) as bar:
            task = bar.add_task(file, total=None, rows=0)

            def show(consumed: int, size: int, so_far: IngestResult, bar: Progress = bar, task: int = task) -> None:
                bar.update(task, total=size, completed=consumed, rows=so_far.rows)  # type: ignore[arg-type]  # an int

            result = load(lakehouse, file, SystemClock(), show)
        if result.skipped:
            err.print(f"{file} is in the lake already; nothing was done.", highlight=False)
        rows.append(
            {
                "file": file,
                "outcome": "skipped" if result.skipped else "loaded",
                "rows": result.rows,
                "events": result.events,
                "duplicates": result.duplicates,
                "dead_letters": result.dead_letters,
                "seconds": round(perf_counter() - began, 1),
            }
        )
    emit(rows, fmt)


@app.command()
def compact(ctx: typer.Context, tables: TableOption = None, fmt: FormatOption = Format.TABLE) -> None:
    """Merge small files inside each day, rows in order of time. Readers and writers go on meanwhile.

    The merged files stay on the disk for older snapshots until `shopstream lake expire`.

    Examples:
      shopstream lake compact
      shopstream lake compact --table events
    """
    lakehouse = _open(ctx)
    emit([{"table": table.value, "files_less": lakehouse.compact(table)} for table in tables or LakeTable], fmt)


@app.command()
def expire(
    ctx: typer.Context,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Snapshots to keep.", show_default="setting keep_snapshots")
    ] = None,
    tables: TableOption = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Forget older snapshots, and delete the files that none of the kept ones needs. Rows stay.

    Examples:
      shopstream lake expire
      shopstream lake expire --keep 1 --table events
    """
    lakehouse = _open(ctx)
    keep = keep or lakehouse.settings.keep_snapshots
    emit([{"table": t.value, "files_deleted": lakehouse.expire(t, keep)} for t in tables or LakeTable], fmt)


@app.command()
def orphans(
    ctx: typer.Context,
    older_than: Annotated[
        str | None, typer.Option(help="Only files older than this, e.g. 2h.", show_default="setting orphan_age")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete them.")] = False,
    tables: TableOption = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """List files that no snapshot knows, e.g. of a commit that a crash cut short.

    Younger files are left out: a commit under way may be about to name them.

    Examples:
      shopstream lake orphans
      shopstream lake orphans --older-than 2h --delete
    """
    from shopstream.detection.duration import parse_duration  # noqa: PLC0415  start-up time

    try:
        age = timedelta(milliseconds=parse_duration(older_than)) if older_than else None
    except ValueError as error:
        raise PermanentError(f"--older-than: {error}") from error
    lakehouse = _open(ctx)
    rows: list[dict[str, object]] = []
    for table in tables or LakeTable:
        found = lakehouse.orphans(table, age, delete=delete)
        rows += [{"table": table.value, "file": path, "deleted": delete} for path in found]
    emit(rows, fmt, empty="No orphans.")
