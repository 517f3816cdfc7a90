"""How events are processed: windows as declarations, event time, keyed state, checkpoints."""

from importlib import import_module
from typing import TYPE_CHECKING

from shopstream.engine.settings import EngineSettings

if TYPE_CHECKING:
    from shopstream.engine.checkpoint import CheckpointStore, Manifest
    from shopstream.engine.compile import batch_sql, compile_window
    from shopstream.engine.engine import Counters, Engine, Processed
    from shopstream.engine.operator import WindowOperator, build_operator
    from shopstream.engine.signal import Signal
    from shopstream.engine.watermark import Watermarks
    from shopstream.engine.window import WindowDeclaration, WindowKind

__all__ = [
    "CheckpointStore",
    "Counters",
    "Engine",
    "EngineSettings",
    "Manifest",
    "Processed",
    "Signal",
    "Watermarks",
    "WindowDeclaration",
    "WindowKind",
    "WindowOperator",
    "batch_sql",
    "build_operator",
    "compile_window",
]

# The settings tree, and so every command, imports this package; what is heavy loads when it is asked for.
_HOMES = {
    "CheckpointStore": "checkpoint",
    "Counters": "engine",
    "Engine": "engine",
    "Manifest": "checkpoint",
    "Processed": "engine",
    "Signal": "signal",
    "Watermarks": "watermark",
    "WindowDeclaration": "window",
    "WindowKind": "window",
    "WindowOperator": "operator",
    "batch_sql": "compile",
    "build_operator": "operator",
    "compile_window": "compile",
}


def __getattr__(name: str) -> object:
    """Load a public name from its module when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
