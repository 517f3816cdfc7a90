"""`shopstream config`."""

from collections.abc import Iterator
from typing import Any

import typer
from pydantic import BaseModel

from shopstream.cli.output import Format, FormatOption, emit, settings_of

__all__ = ["config"]


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
    """Print every setting: its value, the variable that sets it, and what it means. Secrets are not shown.

    Later wins: defaults, shopstream.toml (or --config FILE), SHOPSTREAM_* variables, flags.

    Examples:
      shopstream config
      SHOPSTREAM_ENGINE__OUT_OF_ORDERNESS=PT30S shopstream config --format json
    """
    emit(list(_leaves(settings_of(ctx))), fmt)
