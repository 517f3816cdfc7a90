"""What windowed SQL gives: small rows, one for each window that met its condition."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["QUIET", "UNWATCHED", "Quiet", "Signal"]

UNWATCHED: Final = "unwatched"
"""The window of a signal that says of a stretch of event time: it lies between loaded history and live events, so what
did not come in it is no news. The bank of detectors reads it."""

QUIET: Final = "quiet"
"""The window of a signal that the bank gives where the clock goes on alone: the newest event is in this bin, and what
else is in it is not known yet."""


@dataclass(frozen=True, slots=True)
class Signal:
    """One window of one key.

    Args:
        window: name of the window declaration; for a rule, the rule's id.
        key: key column → value, in declared order; empty for the whole site.
        start_ms, end_ms: the window, [start, end), epoch milliseconds of event time.
        first_event_ms, last_event_ms: span of the events inside it.
        measures: measure name → value; money is Decimal.
        final: False while the window is still open and the values may grow.
    """

    window: str
    key: Mapping[str, str | int]
    start_ms: int
    end_ms: int
    first_event_ms: int
    last_event_ms: int
    measures: Mapping[str, object]
    final: bool


@dataclass(frozen=True, slots=True)
class Quiet:
    """What the clock adds to a stream in which nothing comes: no promise, since events may be on their way.

    Args:
        newest_ms: the newest event.
        until_ms: event time up to which, by the clock, none came after it.
    """

    newest_ms: int
    until_ms: int
