"""Clocks: code takes the time from a clock that it is given, so tests control it."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock", "from_ms", "to_ms"]


def to_ms(moment: datetime) -> int:
    """Milliseconds since the epoch of an aware datetime.

    Raises:
        ValueError: the datetime has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"expected an aware datetime, got {moment!r} without a time zone; attach one, e.g. UTC")
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)


def from_ms(ms: int) -> datetime:
    """Aware UTC datetime of milliseconds since the epoch."""
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=ms)


class Clock(Protocol):
    """Source of processing time."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        ...

    def sleep(self, duration: timedelta) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def sleep(self, duration: timedelta) -> None:
        """Block this thread."""
        time.sleep(duration.total_seconds())


class ManualClock:
    """A clock for tests: moves only on request, or when somebody sleeps."""

    def __init__(self, start_ms: int = 0) -> None:
        self._now_ms = start_ms

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return self._now_ms

    def sleep(self, duration: timedelta) -> None:
        """Advance without waiting."""
        self.advance(duration)

    def advance(self, duration: timedelta) -> None:
        """Move the clock forward."""
        self._now_ms += duration // timedelta(milliseconds=1)
