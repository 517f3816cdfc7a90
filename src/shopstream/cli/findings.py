"""What a check of `shopstream doctor` says when something is wrong."""

from collections.abc import Mapping

__all__ = ["TroubleError", "late_signals"]


class TroubleError(Exception):
    """What is wrong, and what to do about it: a finding, no failure of the program."""


def late_signals(counters: Mapping[str, int]) -> str | None:
    """What it means that detectors left out signals; None where they had all."""
    count = counters.get("late_signals", 0)
    if not count:
        return None
    return (
        f"{count} signals came after detectors had judged their time, so incidents may be missing: the log of "
        "`shopstream run` says which and when; a new home that reads the stream from its beginning finds what they hold"
    )
