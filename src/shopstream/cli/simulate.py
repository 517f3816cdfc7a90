"""`shopstream simulate` and `shopstream shards`: replays files into the stream, and compares partition keys."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import PurePath
from types import FrameType
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit, emit_object, err, out, settings_of
from shopstream.clock import from_ms
from shopstream.errors import ConfigurationError
from shopstream.simulation.partitioning import PartitionKey, even_shards, events_of_file, events_of_stream, measure_skew
from shopstream.simulation.replay import ReplayProgress, ReplaySettings, ReplaySummary, replay

_INTERRUPTED = 130


def simulate(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(help="CSV, CSV.gz, JSON lines or Parquet: a path, or an s3:// or other URL.")
    ],
    *,
    speed: Annotated[
        float | None,
        typer.Option(help="Speed-up factor: 60 replays an hour in a minute.", show_default="no limit"),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Events per second.", show_default="no limit")] = None,
    rebase: Annotated[
        str | None,
        typer.Option(
            metavar="now|today|TIME",
            help="Move event times so that the first event is now, or at TIME (ISO, UTC); for today: by whole days.",
        ),
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Start over at the end; event time keeps growing.")] = False,
    partition_key: Annotated[
        PartitionKey, typer.Option(help="Field that chooses the shard of an event; see `shopstream shards`.")
    ] = PartitionKey.CATEGORY_ID,
    restart: Annotated[bool, typer.Option("--restart", help="Start from the beginning instead of resuming.")] = False,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Replay a file of events into the stream: at once, at a rate, or at its own pace.

    The file is streamed, never loaded as a whole. Invalid rows are sent unchanged: the engine stores them as dead
    letters. Run the same command again to resume a replay that was stopped or killed (at another pace, too); events
    sent twice are dropped as duplicates. A complete replay sends nothing more unless you add --restart.

    A replay moved to the present never runs ahead of it: with --rebase now or today, an event is sent when the clock
    reaches its time. `today` keeps the time of day: the day so far is sent at once, the rest as it happens.

    In the AWS profile the target is a Kinesis stream. A throttled shard slows down without slowing the others; refused
    records are retried in order, and the summary counts them.

    Examples:
      shopstream simulate 2019-Nov.csv
      shopstream simulate 2019-Nov.csv.gz --speed 60
      shopstream simulate day.csv --rebase today --loop
      shopstream simulate day.parquet --rate 20000 --loop
      shopstream simulate s3://bucket/2019-Nov.parquet --partition-key user_id
      SHOPSTREAM_PROFILE=aws shopstream simulate s3://bucket/day.csv --speed 60
      shopstream simulate day.csv --restart --format json
    """
    settings = settings_of(ctx)
    how = ReplaySettings(
        speed=speed,
        rate=rate,
        rebase=_moment(rebase),
        loop=loop,
        partition_key=partition_key,
        restart=restart,
    )
    adapters = adapters_of(settings)
    with adapters.open_stream() as stream:
        try:
            run = partial(replay, source, stream, how, bookmarks=settings.home / "replays", stream=adapters.stream_name)
            summary = _with_progress(run, source)
        except KeyboardInterrupt:
            err.print("Stopped. Run the same command again to resume.")
            raise typer.Exit(_INTERRUPTED) from None
    if not summary.events and not summary.rejected and summary.earlier_events:
        err.print("This replay is complete: nothing was sent. Use --restart to send it again.")
    _print(source, summary, fmt)


def _moment(rebase: str | None) -> datetime | str | None:
    if rebase is None or rebase in {"now", "today"}:
        return rebase
    try:
        moment = datetime.fromisoformat(rebase)
    except ValueError:
        raise ConfigurationError(
            f"expected --rebase now, today or a time like 2026-01-31T09:00:00Z, got {rebase!r}"
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _with_progress(run: Callable[..., ReplaySummary], source: str) -> ReplaySummary:
    columns = (
        SpinnerColumn(),
        TextColumn(PurePath(source).name, markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[events]:,} events"),
        TextColumn("{task.fields[pace]:,.0f}/s"),
        TextColumn("{task.fields[volume]:.1f} MB/s"),
        TextColumn("{task.fields[state]}", markup=False),
    )
    with _interruptible() as interrupted, Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("replay", total=1.0, events=0, pace=0.0, volume=0.0, state="")

        def progress(now: ReplayProgress) -> None:
            if interrupted():
                raise KeyboardInterrupt
            state = "" if now.event_time_ms is None else f"{from_ms(now.event_time_ms):%Y-%m-%d %H:%M:%S}"
            if now.round:
                state += f", round {now.round + 1}"
            if now.sent.refused:
                state += f", refused {now.sent.refused:,} records"
            if now.waiting:
                state = f"waiting: {now.waiting}"
            elapsed = bar.tasks[0].elapsed or float("inf")
            pace, volume = now.events / elapsed, now.sent.bytes / elapsed / 1e6
            bar.update(task, completed=now.done, events=now.events, pace=pace, volume=volume, state=state)

        return run(progress=progress)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Remember Ctrl-C: the interpreter may drop the exception inside a library's callback."""
    noted = False

    def note(_signum: int, _frame: FrameType | None) -> None:
        nonlocal noted
        noted = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, before)


def _print(source: str, summary: ReplaySummary, fmt: Format) -> None:
    row = {
        "source": source,
        "events": summary.events,
        "rejected": summary.rejected,
        "earlier_events": summary.earlier_events,
        "first_event_time": None if summary.first_event_ms is None else from_ms(summary.first_event_ms),
        "last_event_time": None if summary.last_event_ms is None else from_ms(summary.last_event_ms),
        "records": summary.sent.records,
        "bytes": summary.sent.bytes,
        "puts": summary.sent.puts,
        "refused_records": summary.sent.refused,
        "repeated_puts": summary.sent.repeated,
        "waited_seconds": round(summary.sent.waited_ms / 1000, 3),
        "seconds": round(summary.seconds, 3),
        "events_per_second": round(summary.events / summary.seconds) if summary.seconds else summary.events,
    }
    emit_object(row, fmt, title="Replay")


def shards(
    ctx: typer.Context,
    source: Annotated[
        str | None, typer.Argument(help="A file, as for `shopstream simulate`; omit it with --stream.")
    ] = None,
    *,
    stream: Annotated[bool, typer.Option("--stream", help="Measure the events that are in the stream.")] = False,
    count: Annotated[
        int | None,
        typer.Option("--shards", min=1, max=1024, help="Number of shards.", show_default="as in the stream"),
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Compare partition keys: how evenly each spreads events, how many users it splits.

    A shard has a fixed share of the stream's throughput, so the hottest shard limits the whole stream. A user whose
    events are in several shards needs a re-key before per-user windows.

    Examples:
      shopstream shards 2019-Nov.csv --shards 8
      shopstream shards s3://bucket/day.parquet
      shopstream shards --stream
      shopstream shards --stream --shards 16 --format json
    """
    if (source is None) != stream:
        raise ConfigurationError("expected a file or --stream, got both or neither; see `shopstream shards --help`")
    settings = settings_of(ctx)
    with err.status("measuring"):
        if source is not None:
            rows = measure_skew(events_of_file(source), even_shards(count or settings.stream.shards))
        else:
            with adapters_of(settings).open_stream() as opened:
                rows = measure_skew(events_of_stream(opened), even_shards(count) if count else opened.shards())
    if fmt is Format.TABLE:
        title = f"{rows[0].events:,} events of {rows[0].users:,} users over {rows[0].shards} shards"
        emit(
            [
                {
                    "partition_key": row.key.value,
                    "keys": row.keys,
                    "hottest_shard": f"{row.hottest_shard_share:.1%}",
                    "hottest_key": f"{row.hottest_key_share:.1%}",
                    "users_split": f"{row.split_users / row.users:.1%}",
                }
                for row in rows
            ],
            fmt,
            title=title,
        )
        for row in rows:
            out.print(f"[bold]{row.key.value}[/]  {row.advice}")
        return
    emit(
        [
            {
                "partition_key": row.key.value,
                "events": row.events,
                "keys": row.keys,
                "shards": row.shards,
                "even_share": row.even_share,
                "hottest_shard_share": row.hottest_shard_share,
                "hottest_key_share": row.hottest_key_share,
                "users": row.users,
                "split_users": row.split_users,
                "advice": row.advice,
            }
            for row in rows
        ],
        fmt,
    )
