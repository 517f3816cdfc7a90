"""`shopstream run` and `shopstream archive`: processes that run until they are stopped."""

import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from shopstream.adapters.flow import open_pipeline
from shopstream.adapters.ports import adapters_of
from shopstream.archive import Archived
from shopstream.cli.output import err, settings_of
from shopstream.pipeline import Progress as Where


def run(
    ctx: typer.Context,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="Exit at the end of the stream instead of waiting.")
    ] = False,
    lake: Annotated[bool, typer.Option(help="Store events in the lake; switch off only for measurements.")] = True,
    journeys: Annotated[bool, typer.Option(help="Update the live journeys.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Process the stream: windows, incidents, live journeys, lake.

    Runs until Ctrl-C or SIGTERM, then commits and exits. The next start resumes there. If the process is killed,
    no event is lost or duplicated.

    Examples:
      shopstream run                      process until stopped
      shopstream run --until-caught-up    process what is there, then exit
    """
    settings = settings_of(ctx)
    ended = with_heartbeat(adapters_of(settings).heartbeat_file, stop_on_signal())
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[read]:>13,} events"),
        TextColumn("{task.fields[rate]:>9,.0f}/s"),
        TextColumn("event time {task.fields[watermark]}"),
        BarColumn(bar_width=None),
        TextColumn("behind {task.fields[behind]:,.1f} s"),
        TimeElapsedColumn(),
    )
    with (
        open_pipeline(
            settings, with_lake=lake, with_journeys=journeys, stop=ended, standing_by=_standing_by
        ) as pipeline,
        adapters_of(settings).metrics() as watch,
        Progress(*columns, console=err, disable=quiet, transient=True) as bar,
    ):
        watch(pipeline.progress())
        first = pipeline.progress().counters["events_read"]
        task = bar.add_task("run", total=None, read=first, rate=0.0, watermark="-", behind=0.0)

        def show(where: Where) -> None:
            watch(where)
            read = where.counters["events_read"]
            elapsed = bar.tasks[task].elapsed or 1e-9
            moment = where.watermark_ms
            bar.update(
                task,
                read=read,
                rate=(read - first) / elapsed,
                watermark=f"{datetime.fromtimestamp(moment / 1000, UTC):%Y-%m-%d %H:%M:%S}" if moment else "-",
                behind=where.behind_ms / 1000,
            )

        last = pipeline.run(until_caught_up=until_caught_up, stop=ended, progress=show)
        watch(last)
    if not quiet:
        counters = last.counters
        err.print(
            f"{counters['events_read']:,} events read: {counters['events_kept']:,} stored ({counters['late']:,} late), "
            f"{counters['duplicates']:,} duplicates, {counters['dead_letters']:,} dead letters"
        )


def _standing_by(owner: str) -> None:
    err.print(f"Standing by: {owner} is the engine of this stream.")


def archive(
    ctx: typer.Context,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="Exit at the end of all shards instead of waiting.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Store the events of a Kinesis stream in the lake, while Flink runs the windows.

    Start any number of workers: they share the shards by leases in DynamoDB, and take over those of a stopped worker.
    If the process is killed, no event is lost or duplicated. Do not use it with a lake that `shopstream run` writes to.

    Examples:
      shopstream archive                      archive until Ctrl-C or SIGTERM
      shopstream archive --until-caught-up    archive what is there, then exit
    """
    settings = settings_of(ctx)
    ended = with_heartbeat(adapters_of(settings).heartbeat_file, stop_on_signal())
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[shards]} shards"),
        TextColumn("{task.fields[events]:>13,} events"),
        TextColumn("{task.fields[dead]:,} dead letters"),
        TextColumn("behind {task.fields[behind]:,.1f} s"),
        TimeElapsedColumn(),
    )
    with (
        adapters_of(settings).open_archive() as worker,
        Progress(*columns, console=err, disable=quiet, transient=True) as bar,
    ):
        task = bar.add_task("archive", total=None, shards=0, events=0, dead=0, behind=0.0)

        def show(where: Archived) -> None:
            bar.update(
                task,
                shards=where.shards,
                events=where.events,
                dead=where.dead_letters,
                behind=where.behind_ms / 1000,
            )

        last = worker.run(until_caught_up=until_caught_up, stop=ended, progress=show)
    if not quiet:
        err.print(f"{last.events:,} events and {last.dead_letters:,} dead letters stored")


_EVERY_S = 10


def with_heartbeat(path: Path | None, stopped: Callable[[], bool]) -> Callable[[], bool]:
    """`stopped`, which also touches the file when it is called, at most every ten seconds; None touches no file.

    A container's health check reads the age of the file: an engine that hangs calls `stopped` no more.
    """
    if path is None:
        return stopped
    due = 0.0

    def check() -> bool:
        nonlocal due
        if time.monotonic() >= due:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            due = time.monotonic() + _EVERY_S
        return stopped()

    return check


def stop_on_signal() -> Callable[[], bool]:
    """Install handlers of SIGINT and SIGTERM; the callable returns whether one has arrived."""
    stopped = False

    def stop(_signum: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, stop)
    return lambda: stopped
