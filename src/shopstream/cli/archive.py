"""`shopstream archive`."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from shopstream.adapters.ports import adapters_of
from shopstream.cli.heartbeat import with_heartbeat
from shopstream.cli.output import err, settings_of
from shopstream.cli.shutdown import told_to_stop

if TYPE_CHECKING:
    from shopstream.archive import Archived

__all__ = ["archive"]


def archive(
    ctx: typer.Context,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="End when each shard is at its tip, instead of waiting.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Keep the events of a Kinesis stream in the lake, and nothing else: the windows run on Flink.

    Start as many workers as you like: they share the shards by leases in DynamoDB, and take over those of a worker that
    ended. Killed at any moment, they lose and double nothing. Not for a lake that `shopstream run` writes to, which
    keeps the events there by itself.

    Examples:
      shopstream archive                      keep on until Ctrl-C or SIGTERM
      shopstream archive --until-caught-up    archive what is there, then end
    """
    settings = settings_of(ctx)
    ended = with_heartbeat(adapters_of(settings).heartbeat_file, told_to_stop())
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

        def show(where: "Archived") -> None:
            bar.update(
                task,
                shards=where.shards,
                events=where.events,
                dead=where.dead_letters,
                behind=where.behind_ms / 1000,
            )

        last = worker.run(until_caught_up=until_caught_up, stop=ended, progress=show)
    if not quiet:
        err.print(f"{last.events:,} events and {last.dead_letters:,} dead letters kept")
