"""`shopstream demo`: the whole flow on one shop day."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import err, settings_of
from shopstream.clock import SystemClock
from shopstream.config import Settings
from shopstream.errors import ConfigurationError

if TYPE_CHECKING:
    from shopstream.simulation.synthesis import Synthesis

__all__ = ["demo"]

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
    fresh: Annotated[bool, typer.Option("--fresh", help="Empty a home that was used beyond a demo.")] = False,
) -> None:
    """Take one shop day through the whole flow and show what comes out.

    Synthesises about 500,000 events with a flood and a scraper among them, and the week before, from which detectors
    learn what is normal (or takes your file, from which they learn as it goes). Replays the day through the stream,
    processes it, builds lake and reports, prints a summary and serves the dashboard. A home that an earlier demo made
    is emptied first; one that was used for more is not touched.

    Examples:
      shopstream demo
      shopstream demo --events 2019-Oct.csv --no-serve
      shopstream --home /tmp/try demo
    """
    from shopstream.cli.demo_summary import print_summary  # noqa: PLC0415  start-up time

    settings = settings_of(ctx)
    if not adapters_of(settings).self_contained:
        raise ConfigurationError(
            f"the demo runs in one process and empties its home, got profile {settings.profile}; "
            "set SHOPSTREAM_PROFILE=embedded, "
            "or send a file of your own with `shopstream simulate`"
        )
    _prepare_home(settings, fresh=fresh)
    started = perf_counter()
    truth = None
    with _stages() as stage:
        if events is None:
            with stage("Learning what is normal from a week") as show:
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
        from shopstream.cli.dashboard import dashboard  # noqa: PLC0415  start-up time

        ctx.invoke(dashboard, ctx=ctx)


def _prepare_home(settings: Settings, *, fresh: bool) -> None:
    """Start from nothing, but never throw away what is not a demo's."""
    home = settings.home
    if home.exists() and any(home.iterdir()) and not fresh:
        mark = home / _MARK
        current = adapters_of(settings).last_checkpoint()
        processed = dict(current.counters) if current else None
        if not mark.is_file() or json.loads(mark.read_text()) not in ({"counters": processed}, {"counters": None}):
            raise ConfigurationError(
                f"{home} holds more than a demo's data; give the demo another --home, or --fresh to empty this one"
            )
    if home.exists():
        for path in home.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    _mark(settings, None)


def _mark(settings: Settings, counters: dict[str, int] | None) -> None:
    """Note that this home is a demo's, and how far the demo took it (None: it is under way)."""
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


def _synthesis(seed: int, first_day: int, days: int) -> "Synthesis":
    """Days of one shop, which begins a week before the day that is shown; the attacks are in that day."""
    from shopstream.simulation.bots import Scraper  # noqa: PLC0415
    from shopstream.simulation.flood import Flood  # noqa: PLC0415
    from shopstream.simulation.synthesis import (  # noqa: PLC0415  likewise
        DEFAULT_START,
        Synthesis,
        SynthesisSettings,
    )

    flood = Flood(DEFAULT_START + timedelta(hours=14), timedelta(minutes=5), 10, 2_000)
    scraper = Scraper(DEFAULT_START + timedelta(hours=9), timedelta(minutes=20), 1, 0.5)
    start, whole = DEFAULT_START - timedelta(days=_HISTORY_DAYS), _HISTORY_DAYS + 1
    shop = SynthesisSettings(start=start, days=whole, events=_EVENTS * whole, seed=seed, scenarios=(flood, scraper))
    since = start + timedelta(days=first_day)
    return Synthesis(shop, between=(since, since + timedelta(days=days)))


def _learn(settings: Settings, seed: int, show: Show) -> None:
    import duckdb  # noqa: PLC0415  start-up time

    from shopstream.detection.baseline_builder import build_baselines  # noqa: PLC0415  likewise
    from shopstream.events.schema import REES46_COLUMNS  # noqa: PLC0415  likewise

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
    from shopstream.simulation.replay import Replay  # noqa: PLC0415
    from shopstream.simulation.replay_settings import ReplaySettings  # noqa: PLC0415

    with adapters_of(settings).open_stream() as stream:
        replay = Replay(source, stream, ReplaySettings(), bookmarks=settings.home / "replays")
        replay.run(lambda now: show(now.done, f"{now.events:,} events"))


def _process(settings: Settings, show: Show) -> dict[str, int]:
    from shopstream.adapters.flow import open_pipeline  # noqa: PLC0415
    from shopstream.pipeline import Progress as Where  # noqa: PLC0415  likewise
    from shopstream.stream.embedded import EmbeddedStream  # noqa: PLC0415  likewise

    with EmbeddedStream.open(settings.stream_path, settings.stream, SystemClock()) as stream:
        records = stream.describe().records

    def progress(where: Where) -> None:
        show(min(where.records / max(records, 1), 1.0), f"{where.counters['events_read']:,} events")

    with open_pipeline(settings) as pipeline:
        return dict(pipeline.run(until_caught_up=True, progress=progress).counters)


def _build(settings: Settings, show: Show) -> None:
    adapters_of(settings).build_reports(progress=lambda name, done, total: show(done / max(total, 1), name))
