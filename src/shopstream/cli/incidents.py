"""Incidents as rows for programs.

What the lake says of an incident that nobody asked the newest events about.

`shopstream incidents`.

What people say of incidents: `shopstream incidents ack | resolve | false-positive | reopen | precision`.

`shopstream incidents export`.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer
from rich.markup import escape
from rich.text import Text

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit, emit_object, err, out, settings_of
from shopstream.clock import to_ms
from shopstream.config import Settings
from shopstream.detection.detection import Severity
from shopstream.detection.title import describe_length
from shopstream.incidents.explanation import (
    describe_time,
    figures_of,
    genuine_share,
    lines_of,
    title_of,
    who_of,
)
from shopstream.incidents.incident import Incident, Role, State, TriageStatus
from shopstream.incidents.ports import Notification

__all__ = [
    "INCIDENT_ID",
    "ack",
    "app",
    "context_from_lake",
    "export",
    "false_positive",
    "flat",
    "incident_line",
    "part_record",
    "precision",
    "record",
    "reopen",
    "resolve",
]

app = typer.Typer(no_args_is_help=True, help="See what was found, and note what was done about it.")
INCIDENT_ID = Annotated[str, typer.Argument(metavar="ID", help="The incident's id; its beginning is enough.")]


def record(incident: Incident) -> dict[str, object]:
    """Every field."""
    return {
        "id": incident.id,
        "rule": incident.rule,
        "rules": list(incident.rules),
        "title": title_of(incident),
        "nature": str(incident.nature),
        "key_kind": incident.key_kind,
        "keys": dict(incident.keys),
        "severity": str(incident.severity),
        "confidence": incident.confidence,
        "first_event_time": incident.first_event_time,
        "last_event_time": incident.last_event_time,
        "detected_at_event_time": incident.detected_at_event_time,
        "state": str(incident.state),
        "ongoing": incident.ongoing,
        "status": str(incident.status),
        "status_at": incident.status_at,
        "owner": incident.owner,
        "comment": incident.comment,
        "episodes": incident.episodes,
        "campaign": incident.campaign,
        "actors": [{"kind": kind, "value": value} for kind, value in incident.actors],
        "verdict": incident.verdict,
        "notifications": incident.notifications,
        "windows": incident.windows,
        "peak_start": incident.peak_start,
        "peak_end": incident.peak_end,
        "peak": dict(incident.peak),
        "threshold": incident.threshold,
        "genuine_share": genuine_share(incident),
        "contributions": dict(incident.contributions),
        "detail": dict(incident.evidence),
        "context": None if incident.context is None else dict(incident.context),
        "tags": list(incident.tags),
        "rule_version": incident.rule_version,
        "parent": incident.parent,
        "role": str(incident.role),
        "evidence": incident.evidence_command,
    }


def part_record(part: Incident) -> dict[str, object]:
    """What an incident's own record says of one of its parts."""
    return {
        "id": part.id,
        "role": str(part.role),
        "rule": part.rule,
        "keys": dict(part.keys),
        "severity": str(part.severity),
        "detected_at_event_time": part.detected_at_event_time,
        "last_event_time": part.last_event_time,
        "windows": part.windows,
        "peak": dict(part.peak),
    }


def flat(values: Mapping[str, object]) -> dict[str, object]:
    """A CSV cell holds text or a number: `user_id=7`, `a b`; of what is nested deeper there is a count."""
    return {name: _cell(value) for name, value in values.items()}


def _cell(value: object) -> object:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={part}" for key, part in value.items())
    if isinstance(value, list):
        return len(value) if any(isinstance(part, Mapping) for part in value) else " ".join(map(str, value))
    return value if not isinstance(value, Iterable) or isinstance(value, str) else str(value)


_BEFORE = timedelta(minutes=10)
_LONGEST = timedelta(hours=1)
"""Of longer ones, the hour that ends with the strongest window."""

_ALL = 1 << 50


def context_from_lake(settings: Settings, incident: Incident) -> Mapping[str, object] | None:
    """The same as `engine.recent.RecentEvents.describe`, over its time; None where the lake has nothing of it."""
    import duckdb  # noqa: PLC0415  start-up time

    from shopstream.engine.recent import RecentEvents  # noqa: PLC0415  likewise
    from shopstream.lakehouse.ports import LakeTable  # noqa: PLC0415  likewise
    from shopstream.lakehouse.tables import create_views  # noqa: PLC0415  likewise

    if not adapters_of(settings).has_lake():
        return None
    first, last = incident.first_event_time, incident.last_event_time
    if last - first > _LONGEST:
        last = min(last, incident.peak_end)
        first = max(first, last - _LONGEST)
    with closing(adapters_of(settings).open_lakehouse()) as lakehouse, duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        create_views(connection, lakehouse, [LakeTable.EVENTS])
        events = connection.sql(
            "SELECT * FROM events WHERE event_time BETWEEN ? AND ? ORDER BY event_time", params=[first - _BEFORE, last]
        ).to_arrow_table()
        recent = RecentEvents(connection, kept_ms=_ALL, kept_rows=_ALL)
        recent.keep(events)
        return recent.describe(incident.keys, to_ms(first), to_ms(last))


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
        "who": who_of(incident),
        "began": incident.first_event_time,
        "lasted": describe_length(incident.duration),
        "peak": figures_of(incident),
    }


def print_incident(incident: Incident) -> None:
    """For people: what, who and when, in lines that fit a narrow terminal."""
    line = {name: v if isinstance(v, Text) else Text(str(v)) for name, v in incident_line(incident).items()}
    out.print(Text.assemble(line["severity"], "  ", (who_of(incident), "bold"), f": {title_of(incident)}"))
    lasted = "so far" if incident.ongoing else "lasted"
    said = f"  {line['state']}, {_rules(incident)}{_extent(incident)}"
    out.print(Text.assemble("    ", (incident.short_id, "cyan"), (said, "dim")))
    out.print(
        Text(
            f"    {describe_time(incident.first_event_time)}, {lasted} {line['lasted']}, peak {line['peak']}",
            style="dim",
        )
    )


def _rules(incident: Incident) -> str:
    more = len(incident.rules) - 1
    return f"rule {incident.rule}" + (f" and {more} more" if more > 0 else "")


def _extent(incident: Incident) -> str:
    nature = "" if incident.nature == "attack" else f", {incident.nature}"
    if incident.parent:
        return f"{nature}, part of {incident.parent}"
    under = incident.episodes - len(incident.rules)
    return nature + (f", {under:,} more under it" if under > 0 else "")


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
    most = limit if limit is not None else _SHOWN if fmt is Format.TABLE else 0
    with closing(adapters_of(settings_of(ctx)).open_incidents()) as store:
        incidents = store.list(
            states=state or (), severities=severity or (), rules=rule or (), limit=most + 1 if most else None
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
    settings = settings_of(ctx)
    with closing(adapters_of(settings).open_incidents()) as store:
        incident = store.get(incident_id)
        notifications = store.notifications(incident_id=incident.id)
        parts = store.parts(incident.id)[1:]
    if incident.context is None:
        incident = replace(incident, context=context_from_lake(settings, incident))
    events = _events_of(settings, incident)
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
        f"[{colour}]{incident.severity}[/]  [bold]{escape(title_of(incident))}[/]  "
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
        "who": who_of(incident),
        "with it": also,
        "began": describe_time(incident.first_event_time),
        "detected": f"{describe_time(incident.detected_at_event_time)}, "
        f"{describe_length(incident.detected_at_event_time - incident.first_event_time)} after its first event",
        "last event": f"{describe_time(incident.last_event_time)}"
        + (", goes on" if incident.ongoing else f", lasted {describe_length(incident.duration)}"),
        "peak": f"{figures_of(incident)}, from {describe_time(incident.peak_start)}",
        "line": f"{incident.threshold}; met by {incident.windows:,} {'window' if incident.windows == 1 else 'windows'}",
        **lines_of(incident),
        "events": _composition(events) if events else "",
        "labels": ", ".join(incident.tags),
        "status": f"{str(incident.status).replace('_', ' ')} {describe_time(incident.status_at)}"
        if incident.status_at
        else "",
        "owner": incident.owner,
        "comment": incident.comment,
        "told": "; ".join(f"{one.target}: {one.kind}, {one.state}" for one in notifications),
    }


def _print_parts(parts: Sequence[Incident]) -> None:
    if not parts:
        return
    out.print("\nIts parts:", highlight=False)
    for part in parts[:_PARTS]:
        began = describe_time(part.first_event_time)
        line = f"  {part.short_id}  {part.rule}, {who_of(part)}: {figures_of(part)}, from {began}"
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
    from shopstream.models.query import query  # noqa: PLC0415  likewise

    settings = settings_of(ctx)
    with closing(adapters_of(settings).open_incidents()) as store:
        incident = store.get(incident_id)
    with closing(adapters_of(settings).open_lakehouse()) as lakehouse:
        result = query(
            f"select {'*' if fmt is not Format.TABLE else _EVENT_COLUMNS} from events where {incident.events_sql} "
            f"order by event_time, event_id limit {limit}",
            lakehouse,
            settings.reports_path,
        )
    emit(result.rows, fmt, empty="The lake has none of its events yet; the engine writes it every few seconds.")


def _events_of(settings: Settings, incident: Incident) -> dict[str, int] | None:
    """How many events of each kind the lake has of it; None where there is no lake."""
    from shopstream.models.query import query  # noqa: PLC0415  likewise

    if not adapters_of(settings).has_lake():
        return None
    with closing(adapters_of(settings).open_lakehouse()) as lakehouse:
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


_Comment = Annotated[str | None, typer.Option("--comment", "-m", help="What you found or did.")]


def ack(
    ctx: typer.Context,
    incident_id: INCIDENT_ID,
    *,
    comment: _Comment = None,
    owner: Annotated[str | None, typer.Option(help="Who looks after it.")] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Acknowledge: somebody looks after it. Its episodes go on being counted.

    Examples:
      shopstream incidents ack 3fa9c1d2e4b70a55-1
      shopstream incidents ack 3fa9 --comment "price comparison; we call them"
    """
    _set_status(ctx, incident_id, TriageStatus.ACKNOWLEDGED, fmt, comment=comment, owner=owner)


def resolve(
    ctx: typer.Context, incident_id: INCIDENT_ID, comment: _Comment = None, fmt: FormatOption = Format.TABLE
) -> None:
    """Resolve: the rule was right, and nothing is left to do. Counts for the precision of its rules.

    Examples:
      shopstream incidents resolve 3fa9 --comment "blocked at the edge"
    """
    _set_status(ctx, incident_id, TriageStatus.RESOLVED, fmt, comment=comment)


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
    _set_status(ctx, incident_id, TriageStatus.FALSE_POSITIVE, fmt, comment=comment)


def reopen(
    ctx: typer.Context, incident_id: INCIDENT_ID, comment: _Comment = None, fmt: FormatOption = Format.TABLE
) -> None:
    """Take back what was noted; the comment stays unless there is another.

    Examples:
      shopstream incidents reopen 3fa9 --comment "it was not the price check"
    """
    _set_status(ctx, incident_id, TriageStatus.NONE, fmt, comment=comment)


def precision(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    """Show how often each rule was right, as people have judged its incidents.

    Resolved incidents were right, false positives wrong; the others are not judged. The interval says where the true
    figure lies with 95 %: few judgements say little.

    Examples:
      shopstream.incidents.queries
      shopstream.incidents.queries --format json
    """
    from shopstream.incidents.queries import read_precision  # noqa: PLC0415  start-up time

    with closing(adapters_of(settings_of(ctx)).open_incidents()) as store:
        judged = read_precision(store.list())
    rows: list[dict[str, object]] = []
    for one in judged:
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


def _set_status(
    ctx: typer.Context,
    incident_id: str,
    status: TriageStatus,
    fmt: Format,
    *,
    comment: str | None,
    owner: str | None = None,
) -> None:
    with closing(adapters_of(settings_of(ctx)).open_incidents()) as store:
        incident = store.set_status(incident_id, status, comment=comment, owner=owner)
    if fmt is Format.TABLE:
        state = incident.state if status is TriageStatus.NONE else _STATUS_WORDS[status]
        out.print(f"Incident {incident.id} is {str(state).replace('_', ' ')}.", highlight=False)
    else:
        values = record(incident)
        emit_object(flat(values) if fmt is Format.CSV else values, fmt)


_STATUS_WORDS = {
    TriageStatus.ACKNOWLEDGED: "acknowledged",
    TriageStatus.RESOLVED: "resolved",
    TriageStatus.FALSE_POSITIVE: "a false positive",
}


class ExportFormat(StrEnum):
    """Whose words."""

    OCSF = "ocsf"


def export(
    ctx: typer.Context,
    *,
    fmt: Annotated[ExportFormat, typer.Option("--format", help="Whose words.")] = ExportFormat.OCSF,
    state: Annotated[list[State] | None, typer.Option(help="Only these states.")] = None,
    severity: Annotated[list[Severity] | None, typer.Option(help="Only these severities.")] = None,
    source: Annotated[str, typer.Option(help="Names this installation: a URI reference.")] = "urn:shopstream",
) -> None:
    """Write incidents for other systems, one JSON object a line, the newest first.

    Each is an OCSF Detection Finding (class 2004) in a CloudEvents 1.0 envelope. The same state of an incident has the
    same id, so a receiver may be given all of them again and again. User ids and addresses are among the fields.

    Examples:
      shopstream incidents export --format ocsf > findings.jsonl
      shopstream incidents export --state open --severity critical
    """
    from shopstream.response.ocsf import cloud_event  # noqa: PLC0415  likewise

    del fmt  # there is one as yet
    with closing(adapters_of(settings_of(ctx)).open_incidents()) as store:
        incidents = store.list(states=state or (), severities=severity or ())
    for incident in incidents:
        sys.stdout.write(json.dumps(cloud_event(incident, source), ensure_ascii=False) + "\n")


app.command("export")(export)
app.command("ack")(ack)
app.command("resolve")(resolve)
app.command("false-positive")(false_positive)
app.command("reopen")(reopen)
app.command("precision")(precision)
