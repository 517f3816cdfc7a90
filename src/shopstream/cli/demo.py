"""`shopstream demo`: runs the whole pipeline on one shop day, and prints a summary on one screen."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import duckdb
import typer
from rich.columns import Columns
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from shopstream.adapters.flow import open_pipeline
from shopstream.adapters.ports import adapters_of
from shopstream.cli.dashboard import dashboard
from shopstream.cli.incidents import incident_line
from shopstream.cli.output import Format, emit, err, out, settings_of
from shopstream.clock import SystemClock
from shopstream.config import Settings
from shopstream.detection.baseline_builder import build_baselines
from shopstream.detection.wording import describe_length
from shopstream.errors import ConfigurationError
from shopstream.events.columns import REES46_COLUMNS
from shopstream.events.sources import identify
from shopstream.incidents.explanation import title_of
from shopstream.incidents.incident import Incident
from shopstream.models.names import ReportName
from shopstream.models.reports import report
from shopstream.pipeline import Progress as Where
from shopstream.simulation.attacks import Flood, Scraper
from shopstream.simulation.replay import replay
from shopstream.simulation.synthesis import DEFAULT_START, Synthesis, SynthesisSettings
from shopstream.stream.embedded import EmbeddedStream

_MARK = "demo.json"
_EVENTS = 500_000
_HISTORY_DAYS = 7

Show = Callable[[float, str], None]


def demo(
    ctx: typer.Context,
    events: Annotated[
        str | None, typer.Option(help="A CSV, CSV.gz or Parquet file (or s3:// address) instead of a synthetic day.")
    ] = None,
    serve: Annotated[bool, typer.Option(help="Serve the dashboard at the end.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic day.")] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="Empty the home, whatever it contains.")] = False,
) -> None:
    """Run one shop day through the whole pipeline, and show the results.

    Synthesises about 500,000 events with a flood and a scraper, and the week before as history for the baselines; with
    --events it uses your file, and detectors learn as they go. It replays the day into the stream, processes it, builds
    lake and reports, prints a summary, and serves the dashboard. It first empties the home of an earlier demo, but
    never a home that was used for more.

    Examples:
      shopstream demo
      shopstream demo --events 2019-Oct.csv --no-serve
      shopstream --home /tmp/try demo
    """
    settings = settings_of(ctx)
    if not adapters_of(settings).self_contained:
        raise ConfigurationError(
            f"the demo runs in one process and empties its home, got profile {settings.profile}; "
            "set SHOPSTREAM_PROFILE=embedded, "
            "or send a file of your own with `shopstream simulate`"
        )
    if events is not None:
        identify(events)  # a file that cannot be read must not cost the last demo's home
    _prepare_home(settings, fresh=fresh)
    started = perf_counter()
    truth = None
    with _stages() as stage:
        if events is None:
            with stage("Learning baselines from a week") as show:
                _learn(settings, seed, show)
            with stage("Synthesising one shop day") as show:
                events, truth = _synthesise(settings, seed, show)
        with stage("Replaying it into the stream") as show:
            _replay(settings, events, show)
        with stage("Processing: windows, incidents, journeys, lake") as show:
            counters = _process(settings, show)
        with stage("Building the reports") as show:
            _build(settings, show)
    _mark(settings, counters)
    print_summary(settings, elapsed=timedelta(seconds=perf_counter() - started), truth=truth)
    if serve:
        ctx.invoke(dashboard, ctx=ctx)


def _prepare_home(settings: Settings, *, fresh: bool) -> None:
    """Empty the home, but only if it contains nothing but a demo."""
    home = settings.home
    if home.exists() and any(home.iterdir()) and not fresh:
        mark = home / _MARK
        current = adapters_of(settings).last_checkpoint()
        processed = dict(current.counters) if current else None
        if not mark.is_file() or json.loads(mark.read_text()) not in ({"counters": processed}, {"counters": None}):
            raise ConfigurationError(
                f"{home} contains more than a demo's data; use another --home, or --fresh to empty this one"
            )
    if home.exists():
        for path in home.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    _mark(settings, None)


def _mark(settings: Settings, counters: dict[str, int] | None) -> None:
    """Mark the home as a demo's, with the engine's counters at its end; None while the demo runs."""
    settings.home.mkdir(parents=True, exist_ok=True)
    (settings.home / _MARK).write_text(json.dumps({"counters": counters}))


@contextmanager
def _stages() -> Iterator[Callable[[str], "_Stage"]]:
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err) as bar:
        yield lambda title: _Stage(bar, title)


class _Stage:
    """One line of progress."""

    def __init__(self, bar: Progress, title: str) -> None:
        self._bar = bar
        self._task = bar.add_task(f"{title:<47}", total=1.0, note="")

    def __enter__(self) -> Show:
        return lambda done, note: self._bar.update(self._task, completed=done, note=note)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._bar.update(self._task, completed=1.0)


def _synthesis(seed: int, first_day: int, days: int) -> Synthesis:
    """Days of one shop: a week of history, then the day of the demo with its attacks."""
    flood = Flood(DEFAULT_START + timedelta(hours=14), timedelta(minutes=5), 10, 2_000)
    scraper = Scraper(DEFAULT_START + timedelta(hours=9), timedelta(minutes=20), 1, 0.5)
    start, whole = DEFAULT_START - timedelta(days=_HISTORY_DAYS), _HISTORY_DAYS + 1
    shop = SynthesisSettings(start=start, days=whole, events=_EVENTS * whole, seed=seed, scenarios=(flood, scraper))
    since = start + timedelta(days=first_day)
    return Synthesis(shop, between=(since, since + timedelta(days=days)))


def _learn(settings: Settings, seed: int, show: Show) -> None:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        read = 0
        for table in _synthesis(seed, 0, _HISTORY_DAYS).batches():
            connection.register("incoming", table.select(list(REES46_COLUMNS)))
            connection.execute("INSERT INTO events FROM incoming" if read else "CREATE TABLE events AS FROM incoming")
            read += table.num_rows
            show(min(0.8 * read / (_EVENTS * _HISTORY_DAYS), 0.8), f"{read:,} events")
        build_baselines(connection, "events").save(settings.baselines_path)


def _synthesise(settings: Settings, seed: int, show: Show) -> tuple[str, Path]:
    synthesis = _synthesis(seed, _HISTORY_DAYS, 1)

    def progress(events: int, _: float) -> None:
        show(min(events / _EVENTS, 1.0), f"{events:,} events")

    folder = settings.home / "demo"
    folder.mkdir(exist_ok=True)
    summary = synthesis.write(folder / "day.csv", progress)
    return str(summary.path), summary.truth_path


def _replay(settings: Settings, source: str, show: Show) -> None:
    with adapters_of(settings).open_stream() as stream:
        replay(
            source,
            stream,
            bookmarks=settings.home / "replays",
            progress=lambda now: show(now.done, f"{now.events:,} events"),
        )


def _process(settings: Settings, show: Show) -> dict[str, int]:
    with EmbeddedStream.open(settings.stream_path, settings.stream, SystemClock()) as stream:
        records = stream.describe().records

    def progress(where: Where) -> None:
        show(min(where.records / max(records, 1), 1.0), f"{where.counters['events_read']:,} events")

    with open_pipeline(settings) as pipeline:
        return dict(pipeline.run(until_caught_up=True, progress=progress).counters)


def _build(settings: Settings, show: Show) -> None:
    adapters_of(settings).build_reports(progress=lambda name, done, total: show(done / max(total, 1), name))


_INCIDENTS = 8
_ROWS = 5
_COLUMNS: Mapping[ReportName, tuple[str, ...]] = {
    ReportName.UNIQUE_VISITORS: ("shop_date", "visitors", "sessions", "buyers", "purchases", "revenue"),
    ReportName.ABANDONED_CARTS: ("product_id", "category", "brand", "value", "last_carted_at"),
    ReportName.TOP_CATEGORIES: ("weekday", "hour", "rank", "category", "views", "purchases"),
    ReportName.BRAND_MARKETING: ("brand", "missed_revenue", "reason"),
}
"""Columns that fit on a screen; `shopstream report` has the others."""


def print_summary(settings: Settings, *, elapsed: timedelta, truth: Path | None) -> None:
    """Print events, incidents, live shoppers and reports; `truth` is the ground truth of a synthetic day."""
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
        ("stored", f"{counters.get('events_kept', 0):,}"),
        ("duplicates", f"{counters.get('duplicates', 0):,}"),
        ("late", f"{counters.get('late', 0):,}"),
        ("dead letters", f"{counters.get('dead_letters', 0):,}"),
        ("incidents", f"{len(incidents):,}"),
        ("total time", f"{elapsed.total_seconds():.1f} s"),
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
        )
    if not shown:
        out.print("None.")
    if len(incidents) > len(shown):
        out.print(f"… and {len(incidents) - len(shown):,} more: shopstream incidents list")
    if truth and truth.is_file():
        for episode in json.loads(truth.read_text())["injections"]:
            out.print(_verdict(episode, incidents), markup=False)
    if shown:
        out.print("Events behind the first incident:", style="dim")
        out.print(f"  {shown[0].evidence_command}", markup=False, soft_wrap=True, style="cyan")


def _rank(incident: Incident) -> int:
    return list(type(incident.severity)).index(incident.severity)


def _verdict(episode: Mapping[str, Any], incidents: list[Incident]) -> str:
    """One injected attack, and the incident that found it."""
    began, ended = datetime.fromisoformat(episode["from"]), datetime.fromisoformat(episode["until"])
    actors = {str(actor) for actor in episode["actors"]}
    found = [
        incident
        for incident in incidents
        if began <= incident.last_event_time
        and incident.first_event_time <= ended
        and (not incident.keys or actors.intersection(actor.value for actor in incident.actors))
    ]
    size = f"{episode['events']:,} events of {len(actors):,} ids"
    what = f"Injected: {episode['kind']} at {began:%Y-%m-%d %H:%M} UTC, {size}"
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
        f"last hour: [bold]{funnel['viewed']:,}[/] viewed, [bold]{funnel['carted']:,}[/] added to the cart, "
        f"[bold]{funnel['bought']:,}[/] bought",
    )
    out.print(table)


def _print_next(settings: Settings) -> None:
    home = f"--home {settings.home} " if settings.home != Path(".shopstream") else ""
    out.print(Rule(align="left"))
    for command, meaning in (
        ("dashboard", "the same in the browser, live"),
        ("incidents list", "all incidents; `incidents show ID` explains one"),
        ("journeys", "what shoppers do now"),
        ('query "select event_type, count(*) from events group by all"', "your own SQL"),
    ):
        out.print(f"  shopstream {home}{command}", markup=False, style="cyan", end="")
        out.print(f"   {meaning}", style="dim", markup=False)
