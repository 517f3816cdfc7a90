"""`shopstream incidents`."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from typing import Annotated

import typer
from rich.markup import escape
from rich.text import Text

from shopstream.alerting.grounds import evidence_lines
from shopstream.alerting.grounds import number as _number
from shopstream.alerting.incident import Incident, Role, State
from shopstream.alerting.message import describe_length
from shopstream.alerting.outbox import Notification
from shopstream.cli import incident_handling
from shopstream.cli.incident_context import context_from_lake
from shopstream.cli.incident_export import export
from shopstream.cli.incident_handling import INCIDENT_ID
from shopstream.cli.incident_records import flat, part_record, record
from shopstream.cli.output import Format, FormatOption, emit, emit_object, err, out, settings_of
from shopstream.config import Settings
from shopstream.detection.detection import Severity

__all__ = ["app", "incident_line"]

app = typer.Typer(no_args_is_help=True, help="See what was found, and note what was done about it.")

app.command("export")(export)
app.command("ack")(incident_handling.ack)
app.command("resolve")(incident_handling.resolve)
app.command("false-positive")(incident_handling.false_positive)
app.command("reopen")(incident_handling.reopen)
app.command("precision")(incident_handling.precision)

_SHOWN = 50
_PARTS = 20
_EVENT_COLUMNS = "event_time, event_type, product_id::text as product_id, price, user_id::text as user_id"
_WORDS = {
    Role.RULE: ("more rule", "more rules"),
    Role.CHILD: ("part of the shop", "parts of the shop"),
    Role.ACTOR: ("actor's episode", "actors' episodes"),
}

_COLOURS = {
    Severity.CRITICAL: "bold red",
    Severity.HIGH: "red",
    Severity.MEDIUM: "yellow",
    Severity.LOW: "cyan",
    Severity.INFORMATIONAL: "dim",
}


def incident_line(incident: Incident) -> dict[str, object]:
    """For people: one line."""
    colour = _COLOURS[incident.severity]
    return {
        "id": incident.short_id,
        "severity": Text(str(incident.severity), colour),
        "state": str(incident.state).replace("_", " "),
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
    said = f"  {line['state']}, {_rules(incident)}{_extent(incident)}"
    out.print(Text.assemble("    ", (incident.short_id, "cyan"), (said, "dim")))
    out.print(
        Text(f"    {_moment(incident.first_event_time)}, {lasted} {line['lasted']}, peak {line['peak']}", style="dim")
    )


def _who(incident: Incident) -> str:
    if incident.campaign:
        kinds = Counter(actor.kind for actor in incident.actors)
        return "campaign of " + ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    return ", ".join(f"{name} {value}" for name, value in incident.keys.items()) or "whole site"


def _rules(incident: Incident) -> str:
    more = len(incident.rules) - 1
    return f"rule {incident.rule}" + (f" and {more} more" if more > 0 else "")


def _extent(incident: Incident) -> str:
    nature = "" if incident.nature == "attack" else f", {incident.nature}"
    if incident.parent:
        return f"{nature}, part of {incident.parent}"
    under = incident.episodes - len(incident.rules)
    return nature + (f", {under:,} more under it" if under > 0 else "")


def _measures(incident: Incident) -> str:
    length = describe_length(incident.peak_end - incident.peak_start)
    return ", ".join(f"{_number(value)} {name}" for name, value in incident.peak.items()) + f" in {length}"


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

    An incident is what has one cause: several rules on one actor, many actors with one signature (a campaign), a flood
    of the site with the categories and actors in it. It is open until all of it has been quiet for the rules'
    suppress_for, then closed; you can acknowledge it, resolve it, or call it a false positive.

    Examples:
      shopstream incidents list
      shopstream incidents list --state open --severity critical --severity high
      shopstream incidents list --rule user_burst --limit 20 --format json
    """
    from shopstream.alerting import read_incidents  # noqa: PLC0415  start-up time
    from shopstream.bootstrap import incidents_file  # noqa: PLC0415  likewise

    most = limit if limit is not None else _SHOWN if fmt is Format.TABLE else 0
    incidents = read_incidents(
        incidents_file(settings_of(ctx)),
        states=state or (),
        severities=severity or (),
        rules=rule or (),
        limit=most + 1 if most else None,
    )
    shown = incidents[:most] if most else incidents
    if fmt is not Format.TABLE:
        records = [record(incident) for incident in shown]
        emit([flat(values) for values in records] if fmt is Format.CSV else records, fmt)
        return
    for incident in shown:
        print_incident(incident)
    if not shown:
        out.print("No incidents: nothing met a rule.")
    elif len(incidents) > len(shown):
        err.print(f"These are the newest {most:,}; --limit 0 shows all.")


@app.command()
def show(ctx: typer.Context, incident_id: INCIDENT_ID, fmt: FormatOption = Format.TABLE) -> None:
    """Show one incident: its evidence, its parts, who was told, and the one command that shows the events.

    What the events were when it opened is remembered for the gravest few of each moment, and else read from the lake,
    which the engine writes every few seconds; there, too, the events of its whole span are counted. The id of a part
    shows that part.

    Examples:
      shopstream incidents show 3fa9c1d2e4b70a55-1
      shopstream incidents show 3fa9 --format json
    """
    from shopstream.alerting import read_episodes, read_incident, read_notifications  # noqa: PLC0415  start-up time
    from shopstream.bootstrap import incidents_file  # noqa: PLC0415  likewise

    settings = settings_of(ctx)
    path = incidents_file(settings)
    incident = read_incident(path, incident_id)
    if incident.context is None:
        incident = replace(incident, context=context_from_lake(settings, incident))
    events = _events_of(settings, incident)
    notifications = read_notifications(path, incident_id=incident.id)
    parts = read_episodes(path, incident.id)[1:]
    if fmt is not Format.TABLE:
        told = [
            {"target": one.target, "kind": one.kind, "state": str(one.state), "attempts": one.attempts}
            for one in notifications
        ]
        more = {"events": events, "parts": [part_record(part) for part in parts], "notified": told}
        values = record(incident) | more
        emit_object(flat(values) if fmt is Format.CSV else values, fmt)
        return
    colour = _COLOURS[incident.severity]
    out.print(
        f"[{colour}]{incident.severity}[/]  [bold]{escape(incident.title)}[/]  "
        f"({str(incident.state).replace('_', ' ')}{_extent(incident)})"
    )
    rows = _facts(incident, events, parts, notifications)
    width = max(map(len, rows))
    for name, value in rows.items():
        if value:
            out.print(f"  [bold]{name:<{width}}[/]  {escape(value)}", highlight=False, soft_wrap=True)
    if incident.context is None:
        out.print("  What the events were at the time is not known: the lake has none of them.")
    _print_parts(parts)
    out.print("\nThe events:", highlight=False)
    out.print(f"  {escape(incident.evidence_command)}", highlight=False, soft_wrap=True)


def _facts(
    incident: Incident, events: dict[str, int] | None, parts: Sequence[Incident], notifications: Sequence[Notification]
) -> dict[str, str]:
    kinds = Counter(part.role for part in parts)
    also = ", ".join(f"{count:,} {_WORDS[role][count > 1]}" for role, count in kinds.items())
    return {
        "id": incident.id,
        "rule": f"{incident.rule}, version {incident.rule_version}",
        "who": _who(incident),
        "with it": also,
        "began": _moment(incident.first_event_time),
        "detected": f"{_moment(incident.detected_at_event_time)}, "
        f"{describe_length(incident.detected_at_event_time - incident.first_event_time)} after its first event",
        "last event": f"{_moment(incident.last_event_time)}"
        + (", goes on" if incident.ongoing else f", lasted {describe_length(incident.duration)}"),
        "peak": f"{_measures(incident)}, from {_moment(incident.peak_start)}",
        "line": f"{incident.threshold}; met by {incident.windows:,} {'window' if incident.windows == 1 else 'windows'}",
        **evidence_lines(incident),
        "events": _composition(events) if events else "",
        "labels": ", ".join(incident.tags),
        "handled": f"{str(incident.handling).replace('_', ' ')} {_moment(incident.handled_at)}"
        if incident.handled_at
        else "",
        "comment": incident.comment,
        "told": "; ".join(f"{one.target}: {one.kind}, {one.state}" for one in notifications),
    }


def _print_parts(parts: Sequence[Incident]) -> None:
    if not parts:
        return
    out.print("\nIts parts:", highlight=False)
    for part in parts[:_PARTS]:
        line = f"  {part.short_id}  {part.rule}, {_who(part)}: {_measures(part)}, from {_moment(part.first_event_time)}"
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if len(parts) > _PARTS:
        out.print(f"  … and {len(parts) - _PARTS:,} more: --format json has all", highlight=False)


@app.command()
def events(
    ctx: typer.Context,
    incident_id: INCIDENT_ID,
    *,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 1_000,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Show the events behind an incident, from the lake, the earliest first; of a campaign those of all its actors.

    Examples:
      shopstream incidents events 3fa9
      shopstream incidents events 3fa9 --limit 100000 --format csv > events.csv
    """
    from shopstream.alerting import read_incident  # noqa: PLC0415  start-up time
    from shopstream.bootstrap import incidents_file, open_lakehouse  # noqa: PLC0415  likewise
    from shopstream.models.query import query  # noqa: PLC0415  likewise

    settings = settings_of(ctx)
    incident = read_incident(incidents_file(settings), incident_id)
    with closing(open_lakehouse(settings)) as lakehouse:
        result = query(
            f"select {'*' if fmt is not Format.TABLE else _EVENT_COLUMNS} from events where {incident.events_sql} "
            f"order by event_time, event_id limit {limit}",
            lakehouse,
            settings.reports_path,
        )
    emit(result.rows, fmt, empty="The lake has none of its events yet; the engine writes it every few seconds.")


def _events_of(settings: Settings, incident: Incident) -> dict[str, int] | None:
    """How many events of each kind the lake has of it; None where there is no lake."""
    from shopstream.bootstrap import has_lake, open_lakehouse  # noqa: PLC0415  start-up time
    from shopstream.models.query import query  # noqa: PLC0415  likewise

    if not has_lake(settings):
        return None
    with closing(open_lakehouse(settings)) as lakehouse:
        result = query(
            "select count(*) as events, count(distinct user_id) as users, "
            "count(*) filter (where event_type = 'view') as views, "
            "count(*) filter (where event_type = 'cart') as carts, "
            "count(*) filter (where event_type = 'purchase') as purchases, count(distinct product_id) as products "
            f"from events where {incident.events_sql}",
            lakehouse,
            settings.reports_path,
        )
    return {name: int(str(value)) for name, value in result.rows[0].items()}


def _composition(events: dict[str, int]) -> str:
    parts = ", ".join(f"{events[name]:,} {name}" for name in ("views", "carts", "purchases"))
    users = "1 user" if events["users"] == 1 else f"{events['users']:,} users"
    return f"{events['events']:,} by {users}, {events['products']:,} products: {parts}"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
