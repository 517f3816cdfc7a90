"""Chooses the adapters and puts the stages together; nothing else knows which adapter it talks to.

`stores` opens one thing each, by `settings.profile`; `flow` puts the engine's process together; `aws` makes what the
AWS profile needs, and is imported in that profile alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shopstream.bootstrap.archive import open_archive
    from shopstream.bootstrap.flow import open_pipeline, watched
    from shopstream.bootstrap.stores import (
        aws_extra,
        has_lake,
        has_stream,
        incidents_file,
        keep_baselines,
        last_checkpoint,
        notification_targets,
        open_baselines,
        open_channels,
        open_checkpoints,
        open_incidents,
        open_lakehouse,
        open_live,
        open_sender,
        open_stream,
        reports_file,
        retry_notifications,
    )

__all__ = [
    "aws_extra",
    "has_lake",
    "has_stream",
    "incidents_file",
    "keep_baselines",
    "last_checkpoint",
    "notification_targets",
    "open_archive",
    "open_baselines",
    "open_channels",
    "open_checkpoints",
    "open_incidents",
    "open_lakehouse",
    "open_live",
    "open_pipeline",
    "open_sender",
    "open_stream",
    "reports_file",
    "retry_notifications",
    "watched",
]

# Commands that only read incidents must not wait for DuckDB and Iceberg to load.
_HOMES = {name: "flow" if name in {"open_pipeline", "watched"} else "stores" for name in __all__}
_HOMES["open_archive"] = "archive"


def __getattr__(name: str) -> object:
    """Load a public name from its module when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
