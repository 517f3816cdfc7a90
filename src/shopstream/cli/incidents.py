"""`shopstream incidents`: lists incidents, and sets their status."""

import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing
from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, LimitOption, emit, emit_object, err, limit_of, out, settings_of
from shopstream.detection.detection import Severity
from shopstream.detection.wording import describe_length
from shopstream.incidents.explanation import (
    describe_time,
    figures_of,
    genuine_share,
    title_of,
    who_of,
)
from shopstream.incidents.incident import Incident, State, TriageStatus, read_precision
from shopstream.response.ocsf import cloud_event

INCIDENT_ID = Annotated[str, typer.Argument(metavar="ID", help="Incident id, or its first characters.")]


def record(incident: Incident) -> dict[str, object]:
    """All fields, for programs."""
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
    """One part of an incident, for programs."""
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
    """Values as CSV cells: `user_id=7`, `a b`; deeper nested lists become their length."""
    return {name: _cell(value) for name, value in values.items()}


def _cell(value: object) -> object:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={part}" for key, part in value.items())
    if isinstance(value, list):
        return len(value) if any(isinstance(part, Mapping) for part in value) else " ".join(map(str, value))
    return value if not isinstance(value, Iterable) or isinstance(value, str) else str(value)


COLOURS = {
    Severity.CRITICAL: "bold red",
    Severity.HIGH: "red",
    Severity.MEDIUM: "yellow",
    Severity.LOW: "cyan",
    Severity.INFORMATIONAL: "dim",
}


def incident_line(incident: Incident) -> dict[str, object]:
    """Short fields, for people."""
    colour = COLOURS[incident.severity]
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
    """Print what, who and when, in lines that fit a narrow terminal."""
    line = {name: v if isinstance(v, Text) else Text(str(v)) for name, v in incident_line(incident).items()}
    out.print(Text.assemble(line["severity"], "  ", (who_of(incident), "bold"), f": {title_of(incident)}"))
    lasted = "so far" if incident.ongoing else "lasted"
    said = f"  {line['state']}, {_rules(incident)}{extent_text(incident)}"
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


def extent_text(incident: Incident) -> str:
    """Nature of an incident, and what it belongs to or covers, as the end of a line."""
    nature = "" if incident.nature == "attack" else f", {incident.nature}"
    if incident.parent:
        return f"{nature}, part of {incident.parent}"
    under = incident.episodes - len(incident.rules)
    return nature + (f", {under:,} more under it" if under > 0 else "")


def list_incidents(
    ctx: typer.Context,
    *,
    state: Annotated[list[State] | None, typer.Option(help="Show only these states; repeatable.")] = None,
    severity: Annotated[list[Severity] | None, typer.Option(help="Show only these severities; repeatable.")] = None,
    rule: Annotated[list[str] | None, typer.Option(help="Show only these rules; repeatable.")] = None,
    limit: LimitOption = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """List incidents, those with the newest events first.

    An incident groups detections with one cause: several rules on one actor, many actors with one signature (a
    campaign), or a flood of the site with its categories and actors. It closes once all of it has been quiet for the
    rules' suppress_for. You can acknowledge it, resolve it, or mark it as a false positive.

    Examples:
      shopstream incidents list
      shopstream incidents list --state open --severity critical --severity high
      shopstream incidents list --rule user_burst --limit 20 --format json
    """
    most = limit_of(limit, fmt)
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
        filtered = state or severity or rule
        out.print("No incident matches these filters." if filtered else "No incidents: no rule has fired.")
    elif len(incidents) > len(shown):
        err.print(f"These are the newest {most:,}; --limit 0 shows all.")


_Comment = Annotated[str | None, typer.Option("--comment", "-m", help="What you found or did.")]


def ack(
    ctx: typer.Context,
    incident_id: INCIDENT_ID,
    *,
    comment: _Comment = None,
    owner: Annotated[str | None, typer.Option(help="Who is working on it.")] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Acknowledge an incident: somebody is working on it.

    Examples:
      shopstream incidents ack 3fa9c1d2e4b70a55-1
      shopstream incidents ack 3fa9 --comment "price comparison; we call them"
    """
    _set_status(ctx, incident_id, TriageStatus.ACKNOWLEDGED, fmt, comment=comment, owner=owner)


def resolve(
    ctx: typer.Context, incident_id: INCIDENT_ID, comment: _Comment = None, fmt: FormatOption = Format.TABLE
) -> None:
    """Resolve an incident: the detection was right, and nothing is left to do.

    Examples:
      shopstream incidents resolve 3fa9 --comment "blocked at the edge"
    """
    _set_status(ctx, incident_id, TriageStatus.RESOLVED, fmt, comment=comment)


def false_positive(
    ctx: typer.Context,
    incident_id: INCIDENT_ID,
    comment: Annotated[
        str, typer.Option("--comment", "-m", help="Why it is a false positive; the next person will want to know.")
    ],
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Mark the incident as a false positive. Its actors count as human again in reports and blocklists.

    It counts against the precision of its rules. The id of a part (one actor of a campaign) marks that part alone.
    Events do not change; `shopstream build` updates the reports.

    Examples:
      shopstream incidents false-positive 3fa9 --comment "our own price check"
    """
    _set_status(ctx, incident_id, TriageStatus.FALSE_POSITIVE, fmt, comment=comment)


def reopen(
    ctx: typer.Context, incident_id: INCIDENT_ID, comment: _Comment = None, fmt: FormatOption = Format.TABLE
) -> None:
    """Undo acknowledge, resolve or false-positive.

    Examples:
      shopstream incidents reopen 3fa9 --comment "it was not the price check"
    """
    _set_status(ctx, incident_id, TriageStatus.NONE, fmt, comment=comment)


def precision(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    """Show the precision of each rule, from resolved incidents and false positives.

    Resolved incidents were right, false positives wrong; all others are not judged. The 95 % interval is wide while few
    are judged.

    Examples:
      shopstream incidents precision
      shopstream incidents precision --format json
    """
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
        out.print(f"Incident {incident.id} is {str(state).replace('_', ' ')}.")
    else:
        values = record(incident)
        emit_object(flat(values) if fmt is Format.CSV else values, fmt)


_STATUS_WORDS = {
    TriageStatus.ACKNOWLEDGED: "acknowledged",
    TriageStatus.RESOLVED: "resolved",
    TriageStatus.FALSE_POSITIVE: "a false positive",
}


class ExportFormat(StrEnum):
    """Schemas of other systems."""

    OCSF = "ocsf"


def export(
    ctx: typer.Context,
    *,
    fmt: Annotated[ExportFormat, typer.Option("--format", help="Schema of the objects.")] = ExportFormat.OCSF,
    state: Annotated[list[State] | None, typer.Option(help="Show only these states; repeatable.")] = None,
    severity: Annotated[list[Severity] | None, typer.Option(help="Show only these severities; repeatable.")] = None,
    source: Annotated[str, typer.Option(help="URI reference that names this installation.")] = "urn:shopstream",
) -> None:
    """Export incidents for other systems, one JSON object per line, newest first.

    Each is an OCSF Detection Finding (class 2004) in a CloudEvents 1.0 envelope. The id names the
    state of an incident, so a receiver can drop what it already has. Fields include user ids and addresses.

    Examples:
      shopstream incidents export --format ocsf > findings.jsonl
      shopstream incidents export --state open --severity critical
    """
    del fmt  # there is only one yet
    with closing(adapters_of(settings_of(ctx)).open_incidents()) as store:
        incidents = store.list(states=state or (), severities=severity or ())
    for incident in incidents:
        sys.stdout.write(json.dumps(cloud_event(incident, source), ensure_ascii=False) + "\n")
