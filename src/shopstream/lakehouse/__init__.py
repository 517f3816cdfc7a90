"""What is kept: Iceberg tables of events, dead letters and detections."""

from importlib import import_module
from typing import TYPE_CHECKING

from shopstream.lakehouse.ports import Lakehouse, LakeTable, TableStatus
from shopstream.lakehouse.settings import LakehouseSettings

if TYPE_CHECKING:
    from shopstream.lakehouse.deadletters import DeadLetters
    from shopstream.lakehouse.embedded import EmbeddedLakehouse
    from shopstream.lakehouse.ingest import IngestResult
    from shopstream.lakehouse.views import create_views

__all__ = [
    "DeadLetters",
    "EmbeddedLakehouse",
    "IngestResult",
    "LakeTable",
    "Lakehouse",
    "LakehouseSettings",
    "TableStatus",
    "create_views",
]

# The settings tree, and so every command, imports this package; what is heavy loads when it is asked for.
_HOMES = {
    "DeadLetters": "deadletters",
    "EmbeddedLakehouse": "embedded",
    "IngestResult": "ingest",
    "create_views": "views",
}


def __getattr__(name: str) -> object:
    """Load a public name from its module when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
