"""A file whose age tells whether a process still goes round: what the health check of a container looks at."""

import time
from collections.abc import Callable
from pathlib import Path

from shopstream.config import Settings

__all__ = ["ALIVE", "alive"]

ALIVE = "alive"
"""Its name in the home."""

_EVERY_S = 10


def alive(settings: Settings, stopped: Callable[[], bool]) -> Callable[[], bool]:
    """`stopped`, which also touches the file every ten seconds when it is asked, in the AWS profile.

    The engine asks between batches, and while it waits for its lease: one that hangs does neither.
    """
    if settings.profile != "aws":
        return stopped
    path, due = settings.home / ALIVE, 0.0

    def asked() -> bool:
        nonlocal due
        if time.monotonic() >= due:
            _touch(path)
            due = time.monotonic() + _EVERY_S
        return stopped()

    return asked


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
