"""`shopstream lake` and `shopstream deadletters`: the Iceberg tables, and the rejected records in them."""

from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit, emit_object, err, settings_of
from shopstream.clock import SystemClock, from_ms, parse_duration
from shopstream.errors import PermanentError
from shopstream.lakehouse.deadletters import DeadLetters
from shopstream.lakehouse.iceberg import IcebergLakehouse
from shopstream.lakehouse.ingest import IngestResult
from shopstream.lakehouse.ingest import ingest as load
from shopstream.lakehouse.ports import LakeTable

TableOption = Annotated[list[LakeTable] | None, typer.Option("--table", help="Only this table; repeatable.")]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


def _open(ctx: typer.Context) -> IcebergLakehouse:
    return adapters_of(settings_of(ctx)).open_lakehouse()


def _size(count: float) -> str:
    unit = 0
    while count >= _STEP and unit < len(_UNITS) - 1:
        count /= _STEP
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"


def lake_status(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    """Show rows, files, size, snapshots and positions of each table.

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


def ingest(
    ctx: typer.Context,
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="CSV, CSV.gz, JSON lines or Parquet; path or URL (s3://...).")
    ],
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Load files straight into the lake: history for reports, no live windows, no incidents.

    Each row becomes an event, a dropped duplicate, or a dead letter with its reason. Run the command again to resume an
    interrupted load. A file with content that is already loaded is skipped, whatever its name.

    Examples:
      shopstream lake ingest 2019-Oct.csv
      shopstream lake ingest 2019-Oct.csv.gz 2019-Nov.csv.gz
      shopstream lake ingest s3://my-bucket/2019-Oct.parquet --format json
    """
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
            err.print(f"{file} is already in the lake and was skipped.", soft_wrap=True)
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


def compact(ctx: typer.Context, tables: TableOption = None, fmt: FormatOption = Format.TABLE) -> None:
    """Merge small files within each day, and sort rows by time. Readers and writers continue.

    Merged files stay on disk for older snapshots until `shopstream lake expire`.

    Examples:
      shopstream lake compact
      shopstream lake compact --table events
    """
    lakehouse = _open(ctx)
    emit([{"table": table.value, "files_less": lakehouse.compact(table)} for table in tables or LakeTable], fmt)


def expire(
    ctx: typer.Context,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Snapshots to keep.", show_default="setting keep_snapshots")
    ] = None,
    tables: TableOption = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Expire old snapshots, and delete the files that only they need. No row is lost.

    Examples:
      shopstream lake expire
      shopstream lake expire --keep 1 --table events
    """
    lakehouse = _open(ctx)
    keep = keep or lakehouse.settings.keep_snapshots
    emit([{"table": t.value, "files_deleted": lakehouse.expire(t, keep)} for t in tables or LakeTable], fmt)


def orphans(
    ctx: typer.Context,
    older_than: Annotated[
        str | None, typer.Option(help="Only files older than this, e.g. 2h.", show_default="setting orphan_age")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete them.")] = False,
    tables: TableOption = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """List files that no snapshot references, e.g. those of an interrupted commit.

    Younger files are skipped: a running commit may still reference them.

    Examples:
      shopstream lake orphans
      shopstream lake orphans --older-than 2h --delete
    """
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


_SHORT_ID = 10
"""Characters that identify a dead letter in practice; `show` and `replay` accept them."""

ReasonOption = Annotated[str | None, typer.Option(help="Only this reason, e.g. bad_price.")]


def _dead_letters(ctx: typer.Context) -> DeadLetters:
    adapters = adapters_of(settings_of(ctx))
    adapters.replay_ledger.mkdir(parents=True, exist_ok=True)
    return DeadLetters(adapters.open_lakehouse(), adapters.replay_ledger, adapters.clock)


def _moment(ms: int | None) -> object:
    return None if ms is None else from_ms(ms)


def list_dead_letters(
    ctx: typer.Context,
    reason: ReasonOption = None,
    by_reason: Annotated[bool, typer.Option("--by-reason", help="Count per reason.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of dead letters.")] = 50,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """List rejected records, newest first, with the reason.

    Examples:
      shopstream deadletters list
      shopstream deadletters list --by-reason
      shopstream deadletters list --reason bad_price --limit 1000 --format csv
    """
    letters = _dead_letters(ctx)
    counts = letters.by_reason()
    if by_reason:
        emit(counts, fmt, empty="No dead letters.")
        return
    rows = [
        {
            "dead_letter_id": row["dead_letter_id"],
            "reason": row["reason"],
            "detail": row["detail"],
            "arrival_time": row["arrival_time"],
            "shard_id": row["shard_id"],
            "sequence_number": row["sequence_number"],
            "place": str(row["place"]),
            "replayed_at": _moment(row["replayed_at_ms"]),
        }
        for row in letters.newest(limit, reason)
    ]
    if fmt is Format.TABLE:  # `show` has the other columns
        rows = [
            {
                "id": str(row["dead_letter_id"])[:_SHORT_ID],
                **{name: row[name] for name in ("reason", "detail", "arrival_time", "replayed_at")},
            }
            for row in rows
        ]
    emit(rows, fmt, empty="No dead letters.")
    total = sum(count["dead_letters"] for count in counts if reason in {None, count["reason"]})
    if total > len(rows):
        err.print(f"These are the newest {len(rows):,} of {total:,}; --limit shows more.")


def show_dead_letter(
    ctx: typer.Context,
    dead_letter_id: Annotated[str, typer.Argument(metavar="ID", help="Dead letter id, or its first characters.")],
    fmt: FormatOption = Format.TABLE,
) -> None:
    r"""Show one dead letter with its bytes; bytes that are not text appear as \xNN.

    Examples:
      shopstream deadletters show 4f2a91
      shopstream deadletters show 4f2a91 --format json
    """
    row = _dead_letters(ctx).get(dead_letter_id)
    replayed_at = _moment(row.pop("replayed_at_ms"))
    payload = row.pop("payload").decode("utf-8", "backslashreplace")
    emit_object({**row, "place": str(row["place"]), "replayed_at": replayed_at, "payload": payload}, fmt)


def replay_dead_letters(
    ctx: typer.Context,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Dead letter ids, or their first characters.")
    ] = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Replay all that were not replayed before.")] = False,
    reason: ReasonOption = None,
    payload_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Send these corrected bytes for the single ID.")
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Replay dead letters into the stream, each once: after a fix, or with corrected bytes.

    Dead letters that were replayed before are skipped. A record that fails again becomes a new dead letter.

    Examples:
      shopstream deadletters replay 4f2a91 77b0c3
      shopstream deadletters replay --all --reason event_time_in_future
      shopstream deadletters replay 4f2a91 --payload-file corrected.csv
    """
    if bool(ids) == all_:
        raise PermanentError(
            "expected either ids or --all, got both or neither; `shopstream deadletters list` shows ids"
        )
    if reason is not None and not all_:
        raise PermanentError("expected --reason together with --all, got ids; drop one of them")
    if payload_file is not None and (all_ or len(ids or []) != 1):
        raise PermanentError("expected one id for --payload-file, got another number; replay them one by one")
    letters = _dead_letters(ctx)
    payload = payload_file.read_bytes() if payload_file else None
    with adapters_of(settings_of(ctx)).open_stream() as stream:
        results = letters.replay_all(stream, reason) if all_ else letters.replay(ids or [], stream, payload)
    counts = {
        "sent": sum(result.status == "sent" for result in results),
        "sent_before": sum(result.status == "sent_before" for result in results),
        "refused": sum(result.status == "refused" for result in results),
    }
    emit_object(counts, fmt, title="Replay of dead letters")
    if counts["sent_before"]:
        err.print(f"{counts['sent_before']:,} were replayed before and were skipped.")
    for result in results:
        if result.status == "refused":
            err.print(f"{result.dead_letter_id} was refused: {result.detail}")
    if counts["refused"]:
        raise typer.Exit(1)
