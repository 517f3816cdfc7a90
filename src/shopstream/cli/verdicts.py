"""`shopstream verdicts`."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Annotated, Any

import typer

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit, err, settings_of

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="What incidents say of actors: bot or human, from when until when.")

_SHOWN = 50


def _per_incident(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """For people: what several rules of one incident say of an actor is one line."""
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        place = row["actor_kind"], row["actor"], row["incident_id"]
        line = lines.setdefault(
            place,
            {"actor": f"{row['actor_kind']} {row['actor']}", "verdict": row["verdict"], "from": row["from_time"],
             "until": row["until_time"], "rules": 0, "incident": row["incident_id"]},
        )  # fmt: skip
        line["from"] = min(line["from"], row["from_time"])
        line["until"] = max(line["until"], row["until_time"])
        line["rules"] += 1
    return list(lines.values())


@app.command("list")
def list_verdicts(
    ctx: typer.Context,
    *,
    actor: Annotated[str | None, typer.Option(help="Only of this user id, session, address …")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=0, help="At most so many, 0 for all.", show_default=f"{_SHOWN} for a table, else all"),
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """List verdicts on actors, the newest first; the reports leave out what bots did.

    A verdict holds from the first to the last event of an incident. Where somebody called the incident a false
    positive, the actor is human in that time.

    Examples:
      shopstream verdicts list
      shopstream verdicts list --actor 526725566 --format json
    """
    from shopstream.incidents.queries import read_verdicts  # noqa: PLC0415

    with closing(adapters_of(settings_of(ctx)).open_incidents()) as store:
        found = read_verdicts(store).to_pylist()
    rows = [row for row in found if actor in {None, row["actor"]}]
    rows.reverse()
    if fmt is Format.TABLE:
        rows = _per_incident(rows)
    most = limit if limit is not None else _SHOWN if fmt is Format.TABLE else 0
    emit(rows[:most] if most else rows, fmt, empty="No verdicts: no rule has called anybody a bot.")
    if most and len(rows) > most:
        err.print(f"These are the newest {most:,} of {len(rows):,}; --limit 0 shows all.")
