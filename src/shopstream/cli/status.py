"""`shopstream status`."""

import typer

from shopstream.cli.output import Format, FormatOption, emit_object, settings_of
from shopstream.clock import from_ms

__all__ = ["status"]


def status(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    """Tell how much was read and kept, how far the stream is, and what is wrong.

    Figures are those of the last commit.

    Examples:
      shopstream status
      shopstream status --format json
    """
    from shopstream.alerting import count_incidents  # noqa: PLC0415  start-up time
    from shopstream.bootstrap import open_stream  # noqa: PLC0415  start-up time
    from shopstream.engine.checkpoint import CheckpointStore  # noqa: PLC0415  start-up time
    from shopstream.engine.engine import Counters  # noqa: PLC0415  start-up time
    from shopstream.pipeline import CONSUMER  # noqa: PLC0415  start-up time

    settings = settings_of(ctx)
    manifest = CheckpointStore(settings.checkpoint_path).current() if settings.checkpoint_path.exists() else None
    lag: dict[str, int] = {}
    if settings.stream_path.exists():
        with open_stream(settings) as stream:
            lag = stream.lag(CONSUMER)
    incidents = count_incidents(settings.incidents_path)
    emit_object(
        {
            **(manifest.counters if manifest else Counters().as_dict()),
            "incidents": sum(incidents.values()),
            **{f"incidents_{state}": count for state, count in incidents.items()},
            "watermark": from_ms(manifest.watermark_ms) if manifest and manifest.watermark_ms > 0 else None,
            "behind_ms": max(lag.values(), default=0),
            "checkpoint": manifest.generation if manifest else 0,
            "home": str(settings.home.resolve()),
        },
        fmt,
        title="shopstream",
    )
