"""What windowed SQL gives: small rows, one for each window that met its condition."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Signal"]


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
