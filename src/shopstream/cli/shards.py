"""`shopstream shards`: which partition key spreads the events best."""

from typing import Annotated

import typer

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit, err, out, settings_of
from shopstream.errors import ConfigurationError

__all__ = ["shards"]


def shards(
    ctx: typer.Context,
    source: Annotated[
        str | None, typer.Argument(help="A file as `shopstream simulate` takes it; leave it out with --stream.")
    ] = None,
    *,
    stream: Annotated[bool, typer.Option("--stream", help="Measure what the stream holds now.")] = False,
    count: Annotated[
        int | None,
        typer.Option("--shards", min=1, max=1024, help="Shards to spread over.", show_default="as the stream has"),
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Tell how evenly each partition key would spread events over shards, and how many users it would split.

    A shard takes a fixed share of the stream's throughput, so the hottest one sets the pace. A user whose events lie
    in several shards can only be judged by whoever sees all of them.

    Examples:
      shopstream shards 2019-Nov.csv --shards 8
      shopstream shards s3://bucket/day.parquet
      shopstream shards --stream
      shopstream shards --stream --shards 16 --format json
    """
    from shopstream.simulation.skew import (  # noqa: PLC0415  likewise
        even_shards,
        events_of_file,
        events_of_stream,
        measure_skew,
    )

    if (source is None) != stream:
        raise ConfigurationError("expected a file or --stream, got both or none; see `shopstream shards --help`")
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
            out.print(f"[bold]{row.key.value}[/]  {row.advice}", highlight=False)
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
