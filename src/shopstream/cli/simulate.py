"""`shopstream simulate`: a file of events becomes a stream."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import PurePath
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit_object, err, settings_of
from shopstream.clock import from_ms
from shopstream.errors import ConfigurationError

if TYPE_CHECKING:
    from shopstream.simulation.replay import Replay
    from shopstream.simulation.replay_settings import ReplayProgress, ReplaySummary

__all__ = ["KeyName", "simulate"]

_INTERRUPTED = 130


class KeyName(StrEnum):
    """The partition keys by name: `simulation.PartitionKey` without the time it takes to import."""

    CATEGORY_ID = "category_id"
    PRODUCT_ID = "product_id"
    USER_ID = "user_id"
    USER_SESSION = "user_session"
    RANDOM = "random"


def simulate(
    ctx: typer.Context,
    source: Annotated[
        str, typer.Argument(help="CSV, CSV.gz, JSON lines or Parquet: a path, or an s3:// or other URL.")
    ],
    *,
    speed: Annotated[
        float | None,
        typer.Option(help="So many times real time: 60 plays an hour in a minute.", show_default="no limit"),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Events a second.", show_default="no limit")] = None,
    rebase: Annotated[
        str | None,
        typer.Option(
            metavar="now|TIME", help="Move event times so that the first event is now, or at TIME (ISO, UTC)."
        ),
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end; event time goes on growing.")] = False,
    partition_key: Annotated[
        KeyName, typer.Option(help="What decides on an event's shard; see `shopstream shards`.")
    ] = KeyName.CATEGORY_ID,
    restart: Annotated[bool, typer.Option("--restart", help="Begin at the start, wherever it stopped before.")] = False,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Replay a file of events into the stream: at once, at a rate, or as fast as it happened.

    The file is read as it is sent, never as a whole. Rows that are no events are sent too, as they came: the engine
    keeps them as dead letters. A replay that was stopped or killed goes on where it stopped when the same command is
    given again (another pace is allowed); what it sends twice then is taken out as duplicates. A replay that is
    complete sends nothing more: use --restart.

    In the AWS profile the stream is one of Kinesis. A shard that refuses records is sent to more slowly while others
    go on; what was refused goes again before anything behind it, and the summary tells how often.

    Examples:
      shopstream simulate 2019-Nov.csv
      shopstream simulate 2019-Nov.csv.gz --speed 60 --rebase now
      shopstream simulate day.parquet --rate 20000 --loop
      shopstream simulate s3://bucket/2019-Nov.parquet --partition-key user_id
      SHOPSTREAM_PROFILE=aws shopstream simulate s3://bucket/day.csv --speed 60
      shopstream simulate day.csv --restart --format json
    """
    from shopstream.simulation.partitioning import PartitionKey  # noqa: PLC0415
    from shopstream.simulation.replay import Replay  # noqa: PLC0415
    from shopstream.simulation.replay_settings import ReplaySettings  # noqa: PLC0415

    settings = settings_of(ctx)
    how = ReplaySettings(
        speed=speed,
        rate=rate,
        rebase=_moment(rebase),
        loop=loop,
        partition_key=PartitionKey(partition_key),
        restart=restart,
    )
    adapters = adapters_of(settings)
    with adapters.open_stream() as stream:
        try:
            replay = Replay(source, stream, how, bookmarks=settings.home / "replays", stream=adapters.stream_name)
            summary = _run(replay, source)
        except KeyboardInterrupt:
            err.print("Stopped. The same command goes on from here.")
            raise typer.Exit(_INTERRUPTED) from None
    if not summary.events and not summary.rejected and summary.earlier_events:
        err.print("This replay is complete: nothing was sent. Use --restart to send it again.")
    _print(source, summary, fmt)


def _moment(rebase: str | None) -> datetime | str | None:
    if rebase is None or rebase == "now":
        return rebase
    try:
        moment = datetime.fromisoformat(rebase)
    except ValueError:
        raise ConfigurationError(f"expected --rebase now or a time like 2026-01-31T09:00:00Z, got {rebase!r}") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _run(replay: "Replay", source: str) -> "ReplaySummary":
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

        def progress(now: "ReplayProgress") -> None:
            if interrupted():
                raise KeyboardInterrupt
            state = "" if now.event_time_ms is None else f"{from_ms(now.event_time_ms):%Y-%m-%d %H:%M:%S}"
            if now.round:
                state += f", round {now.round + 1}"
            if now.delivery.refused:
                state += f", refused {now.delivery.refused:,} records"
            if now.waiting:
                state = f"waiting: {now.waiting}"
            elapsed = bar.tasks[0].elapsed or float("inf")
            pace, volume = now.events / elapsed, now.delivery.bytes / elapsed / 1e6
            bar.update(task, completed=now.done, events=now.events, pace=pace, volume=volume, state=state)

        return replay.run(progress)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Remembers Ctrl-C: raised inside a callback of a library, the interpreter may drop it."""
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


def _print(source: str, summary: "ReplaySummary", fmt: Format) -> None:
    row = {
        "source": source,
        "events": summary.events,
        "rejected": summary.rejected,
        "earlier_events": summary.earlier_events,
        "first_event_time": None if summary.first_event_ms is None else from_ms(summary.first_event_ms),
        "last_event_time": None if summary.last_event_ms is None else from_ms(summary.last_event_ms),
        "records": summary.delivery.records,
        "bytes": summary.delivery.bytes,
        "puts": summary.delivery.puts,
        "refused_records": summary.delivery.refused,
        "repeated_puts": summary.delivery.repeated,
        "waited_seconds": round(summary.delivery.waited_ms / 1000, 3),
        "seconds": round(summary.seconds, 3),
        "events_per_second": round(summary.events / summary.seconds) if summary.seconds else summary.events,
    }
    emit_object(row, fmt, title="Replay")
