"""`shopstream run`."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from shopstream.adapters.ports import adapters_of
from shopstream.cli.heartbeat import with_heartbeat
from shopstream.cli.output import err, settings_of
from shopstream.cli.shutdown import told_to_stop

__all__ = ["run"]


def run(
    ctx: typer.Context,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="End when the stream is read to its tip, instead of waiting.")
    ] = False,
    lake: Annotated[bool, typer.Option(help="Keep events in the lake; off only to measure.")] = True,
    journeys: Annotated[bool, typer.Option(help="Keep the live journeys.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Process the stream: windows, incidents, live journeys, lake.

    Runs until Ctrl-C or SIGTERM, then commits and ends; started again, it goes on where it stopped. Killed at any
    moment, it still loses and doubles nothing.

    Examples:
      shopstream run                      process for ever
      shopstream run --until-caught-up    process what is there, then end
    """
    from shopstream.adapters.flow import open_pipeline  # noqa: PLC0415
    from shopstream.pipeline import Progress as Where  # noqa: PLC0415  start-up time

    settings = settings_of(ctx)
    ended = with_heartbeat(adapters_of(settings).heartbeat_file, told_to_stop())
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
            f"{counters['events_read']:,} events read: {counters['events_kept']:,} kept ({counters['late']:,} late), "
            f"{counters['duplicates']:,} duplicates, {counters['dead_letters']:,} dead letters"
        )


def _standing_by(owner: str) -> None:
    err.print(f"Standing by: {owner} is the engine of this stream.", highlight=False)
