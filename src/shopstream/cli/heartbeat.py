"""Touches a file regularly, so that a container's health check can tell whether the process hangs."""

import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["with_heartbeat"]

_EVERY_S = 10


def with_heartbeat(path: Path | None, stopped: Callable[[], bool]) -> Callable[[], bool]:
    """`stopped`, which also touches the file every ten seconds when it is called; None touches no file.

    The engine calls it between batches, and while it waits for its lease: one that hangs does neither.
    """
    if path is None:
        return stopped
    due = 0.0

    def check() -> bool:
        nonlocal due
        if time.monotonic() >= due:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            due = time.monotonic() + _EVERY_S
        return stopped()

    return check
