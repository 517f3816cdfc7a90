"""How programs that go on for ever are told to end."""

import signal
from collections.abc import Callable
from types import FrameType

__all__ = ["told_to_stop"]


def told_to_stop() -> Callable[[], bool]:
    """Whether Ctrl-C or SIGTERM has come; from now on neither ends the process by itself."""
    stopped = False

    def stop(_signum: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, stop)
    return lambda: stopped
