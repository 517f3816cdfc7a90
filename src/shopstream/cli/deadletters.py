"""`shopstream deadletters`: what was rejected, why, and sending it again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit, emit_object, err, settings_of
from shopstream.clock import from_ms
from shopstream.errors import PermanentError

if TYPE_CHECKING:
    from shopstream.lakehouse.deadletters import DeadLetters

__all__ = ["app"]

app = typer.Typer(help="Rejected bytes: why, and sending them again.", no_args_is_help=True)

_SHORT_ID = 10
"""Characters that name a dead letter in practice; `show` and `replay` take them."""

ReasonOption = Annotated[str | None, typer.Option(help="Only those that this rule rejected, e.g. bad_price.")]


def _dead_letters(ctx: typer.Context) -> "DeadLetters":
    from shopstream.lakehouse.deadletters import DeadLetters  # noqa: PLC0415  start-up time

    settings = settings_of(ctx)
    adapters = adapters_of(settings)
    adapters.replay_ledger.mkdir(parents=True, exist_ok=True)
    return DeadLetters(adapters.open_lakehouse(), adapters.replay_ledger, adapters.clock)


def _moment(ms: int | None) -> object:
    return None if ms is None else from_ms(ms)


@app.command(name="list")
def list_(
    ctx: typer.Context,
    reason: ReasonOption = None,
    by_reason: Annotated[bool, typer.Option("--by-reason", help="One line a reason, with its count.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Newest dead letters to list.")] = 50,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """List what could not become an event, newest first, with the reason.

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
    if fmt is Format.TABLE:  # where it stood fills the screen; `show` tells
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


@app.command()
def show(
    ctx: typer.Context,
    dead_letter_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, or the first characters of it.")],
    fmt: FormatOption = Format.TABLE,
) -> None:
    r"""Show one dead letter with its bytes; those that are no text appear as \xNN.

    Examples:
      shopstream deadletters show 4f2a91
      shopstream deadletters show 4f2a91 --format json
    """
    row = _dead_letters(ctx).get(dead_letter_id)
    replayed_at = _moment(row.pop("replayed_at_ms"))
    payload = row.pop("payload").decode("utf-8", "backslashreplace")
    emit_object({**row, "place": str(row["place"]), "replayed_at": replayed_at, "payload": payload}, fmt)


@app.command()
def replay(
    ctx: typer.Context,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids, or the first characters of each.")] = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="All that were not sent again before.")] = False,
    reason: ReasonOption = None,
    payload_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Corrected bytes to send for the one ID given.")
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Put dead letters back into the stream, each once: after a fix, or with corrected bytes.

    What was sent before is not sent again. What fails again becomes a new dead letter.

    Examples:
      shopstream deadletters replay 4f2a91 77b0c3
      shopstream deadletters replay --all --reason event_time_in_future
      shopstream deadletters replay 4f2a91 --payload-file corrected.csv
    """
    if bool(ids) == all_:
        raise PermanentError("expected either ids or --all, got both or none; `shopstream deadletters list` shows ids")
    if reason is not None and not all_:
        raise PermanentError("expected --reason together with --all, got ids; drop one of them")
    if payload_file is not None and (all_ or len(ids or []) != 1):
        raise PermanentError("expected one id for --payload-file, got another number; replay them one by one")
    letters = _dead_letters(ctx)
    payload = payload_file.read_bytes() if payload_file else None
    with adapters_of(settings_of(ctx)).open_stream() as stream:
        results = letters.replay_all(stream, reason) if all_ else letters.replay(ids or [], stream, payload)
    counts = {
        "sent": sum(result.outcome == "sent" for result in results),
        "sent_before": sum(result.outcome == "sent_before" for result in results),
        "refused": sum(result.outcome == "refused" for result in results),
    }
    emit_object(counts, fmt, title="Replay of dead letters")
    if counts["sent_before"]:
        err.print(f"{counts['sent_before']:,} had been sent before and were not sent again.")
    for result in results:
        if result.outcome == "refused":
            err.print(f"{result.dead_letter_id} was refused: {result.detail}", highlight=False)
    if counts["refused"]:
        raise typer.Exit(1)
