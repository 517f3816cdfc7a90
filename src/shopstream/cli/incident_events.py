"""`shopstream incidents show` and `events`: an incident with its evidence, and the events behind it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Annotated

import duckdb
import typer
from rich.markup import escape

from shopstream.adapters.ports import adapters_of
from shopstream.cli.incidents import COLOURS, INCIDENT_ID, extent_text, flat, part_record, record
from shopstream.cli.output import Format, FormatOption, emit, emit_object, out, settings_of
from shopstream.clock import to_ms
from shopstream.config import Settings
from shopstream.detection.wording import describe_length
from shopstream.engine.recent import RecentEvents
from shopstream.incidents.explanation import (
    describe_time,
    figures_of,
    lines_of,
    title_of,
    who_of,
)
from shopstream.incidents.incident import Incident, Role
from shopstream.incidents.ports import Notification
from shopstream.lakehouse.ports import LakeTable
from shopstream.lakehouse.tables import create_views
from shopstream.models.query import query

_BEFORE = timedelta(minutes=10)
_LONGEST = timedelta(hours=1)
"""For longer incidents, only the hour that ends with the strongest window."""

_ALL = 1 << 50


def context_from_lake(settings: Settings, incident: Incident) -> Mapping[str, object] | None:
    """`engine.recent.RecentEvents.describe` over the time of an incident; None if the lake has none of its events."""
    if not adapters_of(settings).has_lake():
        return None
    first, last = incident.first_event_time, incident.last_event_time
    if last - first > _LONGEST:
        last = min(last, incident.peak_end)
        first = max(first, last - _LONGEST)
    with adapters_of(settings).open_lake_reader() as lakehouse, duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        create_views(connection, lakehouse, [LakeTable.EVENTS])
        events = connection.sql(
            "SELECT * FROM events WHERE event_time BETWEEN ? AND ? ORDER BY event_time", params=[first - _BEFORE, last]
        ).to_arrow_table()
        recent = RecentEvents(connection, kept_ms=_ALL, kept_rows=_ALL)
        recent.keep(events)
        return recent.describe(incident.keys, to_ms(first), to_ms(last))


_PARTS = 20
_EVENT_COLUMNS = "event_time, event_type, product_id::text as product_id, price, user_id::text as user_id"
_WORDS = {
    Role.RULE: ("other rule", "other rules"),
    Role.CHILD: ("part of the shop", "parts of the shop"),
    Role.ACTOR: ("actor's episode", "actors' episodes"),
}


def show(ctx: typer.Context, incident_id: INCIDENT_ID, fmt: FormatOption = Format.TABLE) -> None:
    """Show one incident: evidence, parts, notifications, and the command that shows its events.

    The context of the events is stored with the most severe incidents and read from the lake for the others, as are the
    event counts. The id of a part shows that part.

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
        notified = [
            {"target": one.target, "kind": one.kind, "state": str(one.state), "attempts": one.attempts}
            for one in notifications
        ]
        more = {"events": events, "parts": [part_record(part) for part in parts], "notified": notified}
        values = record(incident) | more
        emit_object(flat(values) if fmt is Format.CSV else values, fmt)
        return
    colour = COLOURS[incident.severity]
    out.print(
        f"[{colour}]{incident.severity}[/]  [bold]{escape(title_of(incident))}[/]  "
        f"({str(incident.state).replace('_', ' ')}{extent_text(incident)})"
    )
    rows = _facts(incident, events, parts, notifications)
    width = max(map(len, rows))
    for name, value in rows.items():
        if value:
            out.print(f"  [bold]{name:<{width}}[/]  {escape(value)}", soft_wrap=True)
    if incident.context is None:
        out.print("  No context: the lake has none of its events.")
    _print_parts(parts)
    out.print("\nEvents:")
    out.print(f"  {escape(incident.evidence_command)}", soft_wrap=True)


def _facts(
    incident: Incident, events: dict[str, int] | None, parts: Sequence[Incident], notifications: Sequence[Notification]
) -> dict[str, str]:
    kinds = Counter(part.role for part in parts)
    also = ", ".join(f"{count:,} {_WORDS[role][count > 1]}" for role, count in kinds.items())
    return {
        "id": incident.id,
        "rule": f"{incident.rule}, version {incident.rule_version}",
        "who": who_of(incident),
        "contains": also,
        "began": describe_time(incident.first_event_time),
        "detected": f"{describe_time(incident.detected_at_event_time)}, "
        f"{describe_length(incident.detected_at_event_time - incident.first_event_time)} after its first event",
        "last event": f"{describe_time(incident.last_event_time)}"
        + (", ongoing" if incident.ongoing else f", lasted {describe_length(incident.duration)}"),
        "peak": f"{figures_of(incident)}, from {describe_time(incident.peak_start)}",
        "condition": incident.threshold,
        "windows": f"{incident.windows:,} of all its rules",
        **lines_of(incident),
        "events": _composition(events) if events else "",
        "labels": ", ".join(incident.tags),
        "status": f"{str(incident.status).replace('_', ' ')} {describe_time(incident.status_at)}"
        if incident.status_at
        else "",
        "owner": incident.owner,
        "comment": incident.comment,
        "notified": "; ".join(f"{one.target}: {one.kind}, {one.state}" for one in notifications),
    }


def _print_parts(parts: Sequence[Incident]) -> None:
    if not parts:
        return
    out.print("\nParts:")
    for part in parts[:_PARTS]:
        began = describe_time(part.first_event_time)
        line = f"  {part.short_id}  {part.rule}, {who_of(part)}: {figures_of(part)}, from {began}"
        out.print(line, markup=False, soft_wrap=True)
    if len(parts) > _PARTS:
        out.print(f"  … and {len(parts) - _PARTS:,} more: --format json has all")


def events(
    ctx: typer.Context,
    incident_id: INCIDENT_ID,
    *,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of events.")] = 1_000,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Show the events behind an incident, from the lake, in order of time.

    Examples:
      shopstream incidents events 3fa9
      shopstream incidents events 3fa9 --limit 100000 --format csv > events.csv
    """
    settings = settings_of(ctx)
    with closing(adapters_of(settings).open_incidents()) as store:
        incident = store.get(incident_id)
    with adapters_of(settings).open_lake_reader() as lakehouse:
        result = query(
            f"select {'*' if fmt is not Format.TABLE else _EVENT_COLUMNS} from events where {incident.events_sql} "
            f"order by event_time, event_id limit {limit}",
            lakehouse,
            settings.reports_path,
        )
    emit(result.rows, fmt, empty="The lake has none of its events yet; the engine writes to it every few seconds.")


def _events_of(settings: Settings, incident: Incident) -> dict[str, int] | None:
    """Number of its events in the lake, by kind; None without a lake."""
    if not adapters_of(settings).has_lake():
        return None
    with adapters_of(settings).open_lake_reader() as lakehouse:
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
