"""`shopstream status`."""

from contextlib import closing

import typer

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit_object, settings_of
from shopstream.clock import SystemClock, from_ms

__all__ = ["status"]


def status(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    """Tell how much was read and kept, how far the stream is, and what is wrong.

    Figures are those of the last commit.

    Examples:
      shopstream status
      shopstream status --format json
    """
    from shopstream.engine.engine import Counters  # noqa: PLC0415  start-up time
    from shopstream.stream.ports import lag  # noqa: PLC0415  start-up time

    settings = settings_of(ctx)
    manifest = adapters_of(settings).last_checkpoint()
    behind: dict[str, int] = {}
    if adapters_of(settings).has_stream():
        with adapters_of(settings).open_stream() as stream:
            behind = lag(stream, manifest.positions if manifest else {}, SystemClock())
    with closing(adapters_of(settings).open_incidents()) as store:
        incidents = store.count()
    emit_object(
        {
            **(manifest.counters if manifest else Counters().as_dict()),
            "incidents": sum(incidents.values()),
            **{f"incidents_{state}": count for state, count in incidents.items()},
            "watermark": from_ms(manifest.watermark_ms) if manifest and manifest.watermark_ms > 0 else None,
            "behind_ms": max(behind.values(), default=0),
            "checkpoint": manifest.generation if manifest else 0,
            "profile": settings.profile,
            "home": str(settings.home.resolve()),
        },
        fmt,
        title="shopstream",
    )
