"""`shopstream incidents`."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import typer
from rich.markup import escape
from rich.text import Text

from shopstream.alerting.incident import Incident, State
from shopstream.alerting.message import describe_length
from shopstream.cli.output import Format, FormatOption, emit, emit_object, err, out, settings_of
from shopstream.config import Settings
from shopstream.detection.detection import Severity

__all__ = ["app", "incident_line"]

app = typer.Typer(no_args_is_help=True, help="See what was found, and note what was done about it.")

_ID = Annotated[str, typer.Argument(metavar="ID", help="The incident's id; its beginning is enough.")]
_COMMENT = Annotated[str | None, typer.Option("--comment", "-m", help="What you found or did.")]

_SHOWN = 50

_COLOURS = {
    Severity.CRITICAL: "bold red",
    Severity.HIGH: "red",
    Severity.MEDIUM: "yellow",
    Severity.LOW: "cyan",
    Severity.INFORMATIONAL: "dim",
}


def _record(incident: Incident) -> dict[str, object]:
    """For programs: every field."""
    return {
        "id": incident.id,
        "rule": incident.rule,
        "title": incident.title,
        "key_kind": incident.key_kind,
        "keys": dict(incident.keys),
        "severity": str(incident.severity),
        "first_event_time": incident.first_event_time,
        "last_event_time": incident.last_event_time,
        "detected_at_event_time": incident.detected_at_event_time,
        "state": str(incident.state),
        "ongoing": incident.ongoing,
        "handling": str(incident.handling),
        "handled_at": incident.handled_at,
        "comment": incident.comment,
        "windows": incident.windows,
        "peak_start": incident.peak_start,
        "peak_end": incident.peak_end,
        "peak": dict(incident.peak),
        "threshold": incident.threshold,
        "tags": list(incident.tags),
        "rule_version": incident.rule_version,
        "evidence": incident.evidence_command,
    }


def incident_line(incident: Incident) -> dict[str, object]:
    """For people: one line."""
    colour = _COLOURS[incident.severity]
    return {
        "id": incident.short_id,
        "severity": Text(str(incident.severity), colour),
        "state": str(incident.state),
        "rule": incident.rule,
        "who": _who(incident),
        "began": incident.first_event_time,
        "lasted": describe_length(incident.duration),
        "peak": _measures(incident),
    }


def print_incident(incident: Incident) -> None:
    """For people: what, who and when, in lines that fit a narrow terminal."""
    line = {name: v if isinstance(v, Text) else Text(str(v)) for name, v in incident_line(incident).items()}
    out.print(Text.assemble(line["severity"], "  ", (_who(incident), "bold"), f": {incident.title}"))
    lasted = "so far" if incident.ongoing else "lasted"
    out.print(Text.assemble("    ", (incident.short_id, "cyan"), (f"  {incident.state}, rule {incident.rule}", "dim")))
    out.print(
        Text(f"    {_moment(incident.first_event_time)}, {lasted} {line['lasted']}, peak {line['peak']}", style="dim")
    )


def _who(incident: Incident) -> str:
    return ", ".join(f"{name} {value}" for name, value in incident.keys.items()) or "whole site"


def _measures(incident: Incident) -> str:
    length = describe_length(incident.peak_end - incident.peak_start)
    return ", ".join(f"{_number(value)} {name}" for name, value in incident.peak.items()) + f" in {length}"


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


@app.command("list")
def list_incidents(
    ctx: typer.Context,
    *,
    state: Annotated[list[State] | None, typer.Option(help="Only these states.")] = None,
    severity: Annotated[list[Severity] | None, typer.Option(help="Only these severities.")] = None,
    rule: Annotated[list[str] | None, typer.Option(help="Only these rules.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=0, help="At most so many, 0 for all.", show_default=f"{_SHOWN} for a table, else all"),
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """List incidents, those with the newest events first.

    An incident is one episode: detections of one rule and one key that are no further apart than the rule's
    suppress_for. It is open until it has been quiet that long, then closed; you can acknowledge and resolve it.

    Examples:
      shopstream incidents list
      shopstream incidents list --state open --severity critical --severity high
      shopstream incidents list --rule user_burst --limit 20 --format json
    """
    from shopstream.alerting import read_incidents  # noqa: PLC0415  start-up time

    most = limit if limit is not None else _SHOWN if fmt is Format.TABLE else 0
    incidents = read_incidents(
        settings_of(ctx).incidents_path,
        states=state or (),
        severities=severity or (),
        rules=rule or (),
        limit=most + 1 if most else None,
    )
    shown = incidents[:most] if most else incidents
    if fmt is not Format.TABLE:
        records = [_record(incident) for incident in shown]
        emit([_flat(record) for record in records] if fmt is Format.CSV else records, fmt)
        return
    for incident in shown:
        print_incident(incident)
    if not shown:
        out.print("No incidents: nothing met a rule.")
    elif len(incidents) > len(shown):
        err.print(f"These are the newest {most:,}; --limit 0 shows all.")


def _flat(record: dict[str, object]) -> dict[str, object]:
    """A CSV cell holds text: `user_id=7`, `a b`."""
    flat = dict(record)
    for name in ("keys", "peak"):
        mapping = record[name]
        flat[name] = " ".join(f"{key}={value}" for key, value in mapping.items()) if isinstance(mapping, dict) else ""
    if "events" in record:
        events = record["events"]
        flat["events"] = events.get("events") if isinstance(events, dict) else None
    tags = record["tags"]
    flat["tags"] = " ".join(map(str, tags)) if isinstance(tags, Iterable) else ""
    return flat


@app.command()
def show(ctx: typer.Context, incident_id: _ID, fmt: FormatOption = Format.TABLE) -> None:
    """Show one incident with its evidence, and who was told.

    The events of its whole span are counted in the lake, which the engine writes every few seconds.

    Examples:
      shopstream incidents show 3fa9c1d2e4b70a55-1
      shopstream incidents show 3fa9 --format json
    """
    from shopstream.alerting import read_incident, read_notifications  # noqa: PLC0415  start-up time

    settings = settings_of(ctx)
    path = settings.incidents_path
    incident = read_incident(path, incident_id)
    events = _events_of(settings, incident)
    notifications = read_notifications(path, incident_id=incident.id)
    if fmt is not Format.TABLE:
        record = _record(incident)
        told = [
            {"target": one.target, "kind": one.kind, "state": str(one.state), "attempts": one.attempts}
            for one in notifications
        ]
        record |= {"events": events}
        emit_object({**record, "notifications": told} if fmt is Format.JSON else _flat(record), fmt)
        return
    colour = _COLOURS[incident.severity]
    out.print(f"[{colour}]{incident.severity}[/]  [bold]{escape(incident.title)}[/]  ({incident.state})")
    rows = {
        "id": incident.id,
        "rule": f"{incident.rule}, version {incident.rule_version}",
        "who": _who(incident),
        "began": _moment(incident.first_event_time),
        "detected": f"{_moment(incident.detected_at_event_time)}, "
        f"{describe_length(incident.detected_at_event_time - incident.first_event_time)} after its first event",
        "last event": f"{_moment(incident.last_event_time)}"
        + (", goes on" if incident.ongoing else f", lasted {describe_length(incident.duration)}"),
        "peak": f"{_measures(incident)}, from {_moment(incident.peak_start)}",
        "events": _composition(events) if events else "",
        "line": f"{incident.threshold}; met by {incident.windows:,} {'window' if incident.windows == 1 else 'windows'}",
        "labels": ", ".join(incident.tags),
        "handled": f"{incident.handling} {_moment(incident.handled_at)}" if incident.handled_at else "",
        "comment": incident.comment,
        "told": "; ".join(f"{one.target}: {one.kind}, {one.state}" for one in notifications),
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        if value:
            out.print(f"  [bold]{name:<{width}}[/]  {escape(value)}", highlight=False, soft_wrap=True)
    out.print("\nThe events:", highlight=False)
    out.print(f"  {escape(incident.evidence_command)}", highlight=False, soft_wrap=True)


def _events_of(settings: Settings, incident: Incident) -> dict[str, int] | None:
    """How many events of each kind the lake has of it; None where there is no lake."""
    from shopstream.lakehouse.embedded import EmbeddedLakehouse  # noqa: PLC0415  start-up time
    from shopstream.models.query import query  # noqa: PLC0415  likewise

    if not settings.lake_path.exists():
        return None
    result = query(
        "select count(*) as events, count(distinct user_id) as users, "
        "count(*) filter (where event_type = 'view') as views, count(*) filter (where event_type = 'cart') as carts, "
        "count(*) filter (where event_type = 'purchase') as purchases, count(distinct product_id) as products "
        f"from events where {incident.events_sql}",
        EmbeddedLakehouse(settings.lake_path, settings.lakehouse),
        settings.reports_path,
    )
    return {name: int(str(value)) for name, value in result.rows[0].items()}


def _composition(events: dict[str, int]) -> str:
    parts = ", ".join(f"{events[name]:,} {name}" for name in ("views", "carts", "purchases"))
    users = "1 user" if events["users"] == 1 else f"{events['users']:,} users"
    return f"{events['events']:,} by {users}, {events['products']:,} products: {parts}"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


@app.command()
def ack(ctx: typer.Context, incident_id: _ID, comment: _COMMENT = None, fmt: FormatOption = Format.TABLE) -> None:
    """Acknowledge: somebody looks after it. Its episode goes on being counted.

    Examples:
      shopstream incidents ack 3fa9c1d2e4b70a55-1
      shopstream incidents ack 3fa9 --comment "price comparison; we call them"
    """
    _handle(ctx, incident_id, comment, fmt, resolved=False)


@app.command()
def resolve(ctx: typer.Context, incident_id: _ID, comment: _COMMENT = None, fmt: FormatOption = Format.TABLE) -> None:
    """Resolve: nothing is left to do.

    Examples:
      shopstream incidents resolve 3fa9 --comment "blocked at the edge"
    """
    _handle(ctx, incident_id, comment, fmt, resolved=True)


def _handle(ctx: typer.Context, incident_id: str, comment: str | None, fmt: Format, *, resolved: bool) -> None:
    from shopstream.alerting import EmbeddedIncidentStore, read_incident  # noqa: PLC0415  start-up time
    from shopstream.clock import SystemClock  # noqa: PLC0415  start-up time

    settings = settings_of(ctx)
    read_incident(settings.incidents_path, incident_id)  # so that a wrong --home makes no store
    store = EmbeddedIncidentStore(settings.incidents_path, settings.alerting, SystemClock())
    try:
        incident = store.resolve(incident_id, comment) if resolved else store.acknowledge(incident_id, comment)
    finally:
        store.close()
    if fmt is Format.TABLE:
        out.print(f"Incident {incident.id} is {incident.handling}.", highlight=False)
    else:
        record = _record(incident)
        emit_object(_flat(record) if fmt is Format.CSV else record, fmt)
