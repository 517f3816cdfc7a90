"""Durations in YAML files and options: `500ms`, `10s`, `5m`, `2h`, `1d`."""

import re

__all__ = ["MAX_DURATION_MS", "format_duration", "parse_duration"]

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
