"""Clocks and durations: code takes the time from a clock that it is given, so tests control it.

Durations in YAML files and options are written `500ms`, `10s`, `5m`, `2h` or `1d`.
"""

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

MILLISECOND = timedelta(milliseconds=1)
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000


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


_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_SHAPE = re.compile(r"([1-9][0-9]{0,8})(ms|s|m|h|d)", re.ASCII)

MAX_DURATION_MS = 31 * _UNITS["d"]
"""The longest duration a rule may name; engine state grows with the window."""


def parse_duration(text: object) -> int:
    """Milliseconds of a duration such as `10s`.

    Raises:
        ValueError: not a whole number above zero with a unit, or longer than 31 days.
    """
    match = _SHAPE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"expected a duration such as 500ms, 10s, 5m, 2h or 1d, got {text!r}")
    ms = int(match[1]) * _UNITS[match[2]]
    if ms > MAX_DURATION_MS:
        raise ValueError(f"expected a duration of at most 31d, got {text!r}")
    return ms


def format_duration(ms: int) -> str:
    """The shortest text that `parse_duration` reads back as `ms`."""
    for unit, length in _UNITS.items():
        if ms % length == 0:
            return f"{ms // length}{unit}"
    raise ValueError(f"expected whole milliseconds, got {ms!r}")
