"""`shopstream status`, `config` and `doctor`: shows progress and settings, and checks the installation."""

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import typer
from pydantic import BaseModel

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit, emit_object, err, settings_of
from shopstream.clock import SystemClock, from_ms
from shopstream.config import Settings
from shopstream.engine.engine import Counters
from shopstream.errors import ShopstreamError
from shopstream.stream.ports import lag

if TYPE_CHECKING:
    from shopstream.adapters.checks import Check


def status(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    """Show events read and stored, consumer lag, and problems.

    Figures are as of the last checkpoint.

    Examples:
      shopstream status
      shopstream status --format json
    """
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
    if finding := adapters_of(settings).late_signals():
        err.print(finding)


def _leaves(model: BaseModel, path: str = "") -> Iterator[dict[str, Any]]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        here = f"{path}{name}"
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{here}.")
        else:
            yield {
                "setting": here,
                "value": _shown(value),
                "variable": f"SHOPSTREAM_{here.replace('.', '__').upper()}",
                "meaning": field.description or "",
            }


def _shown(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value)  # secrets show as stars
    return str(value)


def config(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    """Print every setting: value, environment variable, and meaning. Secrets are hidden.

    Later sources override earlier ones: defaults, shopstream.toml (or --config FILE), SHOPSTREAM_* variables, flags.

    Examples:
      shopstream config
      SHOPSTREAM_ENGINE__OUT_OF_ORDERNESS=PT30S shopstream config --format json
    """
    emit(list(_leaves(settings_of(ctx))), fmt)


def doctor(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    """Check the installation and suggest fixes. Exits 1 if any check fails.

    In the AWS profile it checks credentials, the clock, and each stream, table, bucket, database, workgroup and topic.
    It tests permissions, too: it writes a small object to each bucket and deletes it again.

    Examples:
      shopstream doctor
      SHOPSTREAM_PROFILE=aws shopstream doctor
      shopstream --home /srv/shop doctor --format json
    """
    settings = settings_of(ctx)
    rows = [_run(name, check, settings) for name, check in adapters_of(settings).checks().items()]
    emit(rows, fmt)
    if any(not row["ok"] for row in rows):
        raise typer.Exit(1)


def _run(name: str, check: "Check", settings: Settings) -> dict[str, object]:
    try:
        return {"check": name, "ok": True, "finding": check(settings)}
    except ShopstreamError as error:
        return {"check": name, "ok": False, "finding": str(error)}
    except Exception as error:  # noqa: BLE001  a check that breaks is a finding too, and the others go on
        return {"check": name, "ok": False, "finding": f"the check failed with {type(error).__name__}: {error}"}
