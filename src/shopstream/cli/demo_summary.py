"""What happened, on one screen: events, incidents with evidence, live shoppers, the four reports."""

import json
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.columns import Columns
from rich.markup import escape
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from shopstream.adapters.ports import adapters_of
from shopstream.cli.incidents import incident_line
from shopstream.cli.output import Format, emit, out
from shopstream.config import Settings
from shopstream.detection.title import describe_length
from shopstream.incidents.explanation import title_of
from shopstream.incidents.incident import Incident
from shopstream.models.names import ReportName
from shopstream.models.reports import report

__all__ = ["print_summary"]

_INCIDENTS = 8
_ROWS = 5
_COLUMNS: Mapping[ReportName, tuple[str, ...]] = {
    ReportName.UNIQUE_VISITORS: ("shop_date", "visitors", "sessions", "buyers", "purchases", "revenue"),
    ReportName.ABANDONED_CARTS: ("product_id", "category", "brand", "value", "last_carted_at"),
    ReportName.TOP_CATEGORIES: ("weekday", "hour", "rank", "category", "views", "purchases"),
    ReportName.BRAND_MARKETING: ("brand", "missed_revenue", "reason"),
}
"""What fits on a screen; `shopstream report` has the rest."""


def print_summary(settings: Settings, *, elapsed: timedelta, truth: Path | None) -> None:
    """Print it. `truth` is the ground-truth file of a synthetic day, to compare incidents with; None without one."""
    manifest = adapters_of(settings).open_checkpoints().current()
    counters = dict(manifest.counters) if manifest else {}
    with closing(adapters_of(settings).open_incidents()) as store:
        incidents = store.list()
    out.print()
    out.print(Columns([_figure(name, value) for name, value in _figures(counters, incidents, elapsed)]))
    _print_incidents(incidents, truth)
    _print_live(adapters_of(settings).open_live().read())
    for name in ReportName:
        found = report(name, settings.reports_path, limit=_ROWS)
        out.print(Rule(f"[bold]{found.title}[/]", align="left"))
        out.print(found.headline, highlight=True, markup=False)
        emit([{column: row[column] for column in _COLUMNS[name]} for row in found.rows], Format.TABLE)
    _print_next(settings)


def _figures(counters: Mapping[str, int], incidents: list[Incident], elapsed: timedelta) -> list[tuple[str, str]]:
    read = counters.get("events_read", 0)
    return [
        ("events in", f"{read:,}"),
        ("kept", f"{counters.get('events_kept', 0):,}"),
        ("duplicates", f"{counters.get('duplicates', 0):,}"),
        ("late", f"{counters.get('late', 0):,}"),
        ("dead letters", f"{counters.get('dead_letters', 0):,}"),
        ("incidents", f"{len(incidents):,}"),
        ("all of it took", f"{elapsed.total_seconds():.1f} s"),
    ]


def _figure(name: str, value: str) -> Panel:
    return Panel(f"[bold]{value}[/]\n[dim]{name}[/]", padding=(0, 2))


def _print_incidents(incidents: list[Incident], truth: Path | None) -> None:
    out.print(Rule("[bold]Incidents[/]", align="left"))
    shown = sorted(incidents, key=lambda incident: (-_rank(incident), incident.first_event_time))[:_INCIDENTS]
    for incident in shown:
        line = {name: v if isinstance(v, Text) else Text(str(v)) for name, v in incident_line(incident).items()}
        out.print(Text.assemble(line["severity"], "  ", (line["who"].plain, "bold"), f": {title_of(incident)}"))
        out.print(
            f"    {incident.first_event_time:%Y-%m-%d %H:%M:%S} UTC, lasted {line['lasted']}, "
            f"peak {escape(line['peak'].plain)} (rule {incident.rule}: {escape(incident.threshold)}), "
            f"{line['state']}, id {incident.id}",
            style="dim",
            highlight=False,
        )
    if not shown:
        out.print("None.")
    if len(incidents) > len(shown):
        out.print(f"… and {len(incidents) - len(shown):,} more: shopstream incidents list")
    if truth and truth.is_file():
        for episode in json.loads(truth.read_text())["episodes"]:
            out.print(_verdict(episode, incidents), markup=False)
    if shown:
        out.print("The events behind the first:", style="dim")
        out.print(f"  {shown[0].evidence_command}", markup=False, highlight=False, soft_wrap=True, style="cyan")


def _rank(incident: Incident) -> int:
    return list(type(incident.severity)).index(incident.severity)


def _verdict(episode: Mapping[str, Any], incidents: list[Incident]) -> str:
    """One planted attack against what was found."""
    began, ended = datetime.fromisoformat(episode["from"]), datetime.fromisoformat(episode["until"])
    actors = {str(actor) for actor in episode["actors"]}
    found = [
        incident
        for incident in incidents
        if began <= incident.last_event_time
        and incident.first_event_time <= ended
        and (not incident.keys or actors.intersection(actor.value for actor in incident.actors))
    ]
    what = f"Planted: {episode['kind']} at {began:%H:%M} UTC, {episode['events']:,} events of {len(actors):,} ids"
    if not found:
        return f"{what} - not found"
    first = min(found, key=lambda incident: incident.detected_at_event_time)
    after = max(first.detected_at_event_time - began, timedelta())
    return f"{what} - found by {first.rule} after {describe_length(after)} of event time"


def _print_live(panels: Mapping[str, Any]) -> None:
    if not panels:
        return
    sessions, carts = panels["sessions"], panels["carts"]
    out.print(Rule("[bold]Shoppers at the end of the stream[/]", align="left"))
    table = Table.grid(padding=(0, 3))
    funnel = panels["funnel"][-1]
    table.add_row(
        f"[bold]{sessions['active']:,}[/] active sessions",
        f"[bold]{carts['lines']:,}[/] products in open carts, worth [bold]{float(carts['value']):,.2f}[/]",
        f"last hour: [bold]{funnel['viewed']:,}[/] looked, [bold]{funnel['carted']:,}[/] put in the cart, "
        f"[bold]{funnel['bought']:,}[/] bought",
    )
    out.print(table)


def _print_next(settings: Settings) -> None:
    home = f"--home {settings.home} " if settings.home != Path(".shopstream") else ""
    out.print(Rule(align="left"))
    for command, meaning in (
        ("dashboard", "the same in the browser, live"),
        ("incidents list", "all incidents; `incidents show ID` tells why"),
        ("journeys", "what shoppers do at the moment"),
        ('query "select event_type, count(*) from events group by all"', "your own question"),
    ):
        out.print(f"  shopstream {home}{command}", markup=False, highlight=False, style="cyan", end="")
        out.print(f"   {meaning}", style="dim", markup=False)
