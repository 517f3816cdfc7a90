"""What people say of incidents: `shopstream incidents ack | resolve | false-positive | reopen | precision`."""

from contextlib import closing
from typing import Annotated

import typer

from shopstream.alerting.incident import Handling
from shopstream.cli.incident_records import flat, record
from shopstream.cli.output import Format, FormatOption, emit, emit_object, out, settings_of

__all__ = ["INCIDENT_ID", "ack", "false_positive", "precision", "reopen", "resolve"]

INCIDENT_ID = Annotated[str, typer.Argument(metavar="ID", help="The incident's id; its beginning is enough.")]
_Comment = Annotated[str | None, typer.Option("--comment", "-m", help="What you found or did.")]


def ack(
    ctx: typer.Context, incident_id: INCIDENT_ID, comment: _Comment = None, fmt: FormatOption = Format.TABLE
) -> None:
    """Acknowledge: somebody looks after it. Its episodes go on being counted.

    Examples:
      shopstream incidents ack 3fa9c1d2e4b70a55-1
      shopstream incidents ack 3fa9 --comment "price comparison; we call them"
    """
    _handle(ctx, incident_id, Handling.ACKNOWLEDGED, comment, fmt)


def resolve(
    ctx: typer.Context, incident_id: INCIDENT_ID, comment: _Comment = None, fmt: FormatOption = Format.TABLE
) -> None:
    """Resolve: the rule was right, and nothing is left to do. Counts for the precision of its rules.

    Examples:
      shopstream incidents resolve 3fa9 --comment "blocked at the edge"
    """
    _handle(ctx, incident_id, Handling.RESOLVED, comment, fmt)


def false_positive(
    ctx: typer.Context,
    incident_id: INCIDENT_ID,
    comment: Annotated[str, typer.Option("--comment", "-m", help="Why it is none; the next one asks for it.")],
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Say that it is none: its actors are people again for reports and blocklists.

    Counts against the precision of its rules. By the id of a part (one actor of a campaign) it holds for that part
    alone. The events stay as they are; `shopstream build` brings the reports up to date.

    Examples:
      shopstream incidents false-positive 3fa9 --comment "our own price check"
    """
    _handle(ctx, incident_id, Handling.FALSE_POSITIVE, comment, fmt)


def reopen(
    ctx: typer.Context, incident_id: INCIDENT_ID, comment: _Comment = None, fmt: FormatOption = Format.TABLE
) -> None:
    """Take back what was noted; the comment stays unless there is another.

    Examples:
      shopstream incidents reopen 3fa9 --comment "it was not the price check"
    """
    _handle(ctx, incident_id, Handling.NONE, comment, fmt)


def precision(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    """Show how often each rule was right, as people have judged its incidents.

    Resolved incidents were right, false positives wrong; the others are not judged. The interval says where the true
    figure lies with 95 %: few judgements say little.

    Examples:
      shopstream incidents precision
      shopstream incidents precision --format json
    """
    from shopstream.alerting.precision import read_precision  # noqa: PLC0415  start-up time
    from shopstream.bootstrap import incidents_file  # noqa: PLC0415  likewise

    rows: list[dict[str, object]] = []
    for one in read_precision(incidents_file(settings_of(ctx))):
        low, high = one.interval
        row: dict[str, object] = {"rule": one.rule, "incidents": one.incidents, "right": one.right, "wrong": one.wrong}
        if fmt is Format.TABLE:
            known = one.precision is not None
            row["precision"] = f"{one.precision:.0%}" if known else "not judged yet"
            row["95 %"] = f"{low:.0%} to {high:.0%}" if known else ""
        else:
            row |= {"precision": one.precision, "low": round(low, 4), "high": round(high, 4)}
        rows.append(row)
    emit(rows, fmt, empty="No rule has incidents yet.")


def _handle(ctx: typer.Context, incident_id: str, handling: Handling, comment: str | None, fmt: Format) -> None:
    from shopstream.alerting import read_incident  # noqa: PLC0415  start-up time
    from shopstream.bootstrap import incidents_file, open_incidents  # noqa: PLC0415  likewise

    settings = settings_of(ctx)
    read_incident(incidents_file(settings), incident_id)  # so that a wrong --home makes no store
    with closing(open_incidents(settings)) as store:
        if handling is Handling.FALSE_POSITIVE:
            incident = store.mark_false_positive(incident_id, comment or "")
        elif handling is Handling.NONE:
            incident = store.reopen(incident_id, comment)
        elif handling is Handling.RESOLVED:
            incident = store.resolve(incident_id, comment)
        else:
            incident = store.acknowledge(incident_id, comment)
    if fmt is Format.TABLE:
        state = str(incident.state).replace("_", " ") if handling is Handling.NONE else _WORDS[handling]
        out.print(f"Incident {incident.id} is {state}.", highlight=False)
    else:
        values = record(incident)
        emit_object(flat(values) if fmt is Format.CSV else values, fmt)


_WORDS = {
    Handling.ACKNOWLEDGED: "acknowledged",
    Handling.RESOLVED: "resolved",
    Handling.FALSE_POSITIVE: "a false positive",
}
