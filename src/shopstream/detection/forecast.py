"""Forecasts of a series: its profile over the week times a slowly adapting level, with a measured error."""

import math
from collections.abc import Mapping
from typing import Any, Final

from shopstream.detection.baseline import SLOT_MS, SLOTS, SeriesProfile
from shopstream.detection.detector import BIN_MS

_LEVEL_MS: Final = 75 * 60_000
"""The level adapts so slowly that a ramp of half an hour still shows."""
_FLAT_LEVEL_MS: Final = 10 * 60_000
"""Without a profile, the level must also follow the hours of the day."""
_WARM_UP_MS: Final = 30 * 60_000
_SEEDED_WARM_UP_MS: Final = 2 * 60_000
_LEAST_EXPECTED: Final = 50.0
"""The level adapts once this many events were expected since the last step: a ratio of fewer is noise."""
_CLIP: Final = 0.35
"""One step uses at most this relative deviation from the level."""
_CHECK_MS: Final = 600_000
"""The error is measured over this length of time."""
_CHECKS: Final = 144
"""The error is averaged over about this many measurements: a day."""
_FLAT_ERROR: Final = 0.3
_FLAT_LEAST: Final = 20.0
_FIRST_DAY_ERROR: Final = 0.15
_LEAST_ERROR: Final = 0.05
_LEARN: Final = 0.12
"""Weight of a new day in a slot of the profile: a memory of about a week."""


class SeriesForecast:
    """Forecast of one series.

    Seeded with a profile, it is ready after two minutes. Without one, it is ready after half an hour, knows only the
    level, with a wide error, and learns a profile, which it uses after the first whole day.

    Args:
        profile: from the baselines; None learns one.
    """

    def __init__(self, profile: SeriesProfile | None = None) -> None:
        self._slots: list[float | None] = list(profile.slots) if profile else [None] * SLOTS
        self._weekdays = profile.weekdays if profile else (1.0,) * 7
        self._shape: SeriesProfile | None = profile
        self.error = max(profile.error, _LEAST_ERROR) if profile else _FLAT_ERROR
        self.level = 1.0 if profile else 0.0
        self._seen_ms = 0
        self._due = [0.0, 0.0, 0.0]  # observed, expected by the profile alone, milliseconds since the last step
        self._check = [0.0, 0.0, 0.0]  # observed, expected, milliseconds
        self._slot = [0.0, 0.0]  # observed, milliseconds in the current slot
        self._seeded = profile is not None

    @property
    def warm(self) -> bool:
        """Whether it is ready."""
        return self._seen_ms >= (_SEEDED_WARM_UP_MS if self._seeded else _WARM_UP_MS)

    @property
    def flat(self) -> bool:
        """Whether it knows only the level and no hours of the day yet."""
        return self._shape is None

    def expected(self, end_ms: int, length_ms: int = BIN_MS) -> float:
        """Expected events of the bin that ends there."""
        return self._base(end_ms, length_ms) * self.level

    def _base(self, end_ms: int, length_ms: int) -> float:
        seconds = length_ms / 1_000
        return seconds if self._shape is None else self._shape.rate(end_ms - length_ms // 2) * seconds

    def learn(self, end_ms: int, count: float) -> None:
        """Learn from a normal bin. Call `skip` while an incident is open: a baseline must not learn from attacks."""
        base = self._base(end_ms, BIN_MS)
        self._seen_ms += BIN_MS
        self._measure(count, base * self.level)
        for place, value in enumerate((count, base, BIN_MS)):
            self._due[place] += value
        observed, expected, length_ms = self._due
        least = _LEAST_EXPECTED if self._shape else _FLAT_LEAST
        if expected * max(self.level, 1e-9) >= least or (not self.level and length_ms >= 60_000):  # noqa: PLR2004
            ratio = observed / max(expected, 1e-9)
            if not self.level:
                self.level = ratio
            elif self._seen_ms <= _SEEDED_WARM_UP_MS:  # today's level differs from that of the history's last day
                self.level += (ratio - self.level) * 0.5
            else:
                ratio = min(max(ratio, self.level * (1 - _CLIP)), self.level * (1 + _CLIP))
                memory_ms = _LEVEL_MS if self._shape else _FLAT_LEVEL_MS
                self.level += (ratio - self.level) * -math.expm1(-length_ms / memory_ms)
            self._due = [0.0, 0.0, 0.0]
        self._learn_slot(end_ms, count)

    def skip(self) -> None:
        """Drop what was gathered for the next step: it may be part of an incident."""
        self._due = [0.0, 0.0, 0.0]
        self._check = [0.0, 0.0, 0.0]
        self._slot = [0.0, -float(SLOT_MS)]  # this slot is not whole

    def anchor(self, end_ms: int, observed: float, length_ms: int) -> None:
        """Set the level to that of the events observed in the time before `end_ms`."""
        self.level = observed / max(self._base(end_ms, length_ms), 1e-9)
        self.skip()

    def _measure(self, count: float, expected: float) -> None:
        """Update the error beyond chance, an average over a day."""
        for place, value in enumerate((count, expected, BIN_MS)):
            self._check[place] += value
        observed, due, length_ms = self._check
        if length_ms < _CHECK_MS:
            return
        self._check = [0.0, 0.0, 0.0]
        if self._seen_ms < _WARM_UP_MS or due < _LEAST_EXPECTED:
            return
        beyond = min(max(0.0, ((observed - due) ** 2 - due) / due**2), 0.25)
        least = _LEAST_ERROR if self._shape else _FLAT_ERROR
        self.error = max(least, math.sqrt(self.error**2 + (beyond - self.error**2) / _CHECKS))

    def _learn_slot(self, end_ms: int, count: float) -> None:
        self._slot[0] += count
        self._slot[1] += BIN_MS
        if end_ms % SLOT_MS:
            return
        observed, length_ms = self._slot
        self._slot = [0.0, 0.0]
        if length_ms < SLOT_MS:
            return
        start_ms = end_ms - SLOT_MS
        place = start_ms // SLOT_MS % SLOTS
        factor = self._weekdays[SeriesProfile.weekday(start_ms)]
        rate = observed / (SLOT_MS / 1_000) / factor
        known = self._slots[place]
        self._slots[place] = rate if known is None else known + (rate - known) * _LEARN
        self._draw(end_ms)

    def _draw(self, end_ms: int) -> None:
        """Build a profile once every slot of a day is known."""
        slots = [value for value in self._slots if value is not None]
        if len(slots) < SLOTS or not any(slots):
            return
        first = self._shape is None
        if first:
            self.error = _FIRST_DAY_ERROR
        recent = self.expected(end_ms)
        self._shape = SeriesProfile(tuple(slots), tuple(self._weekdays), self.error, 0.0)
        if first:
            self.level = recent / max(self._base(end_ms, BIN_MS), 1e-9)

    def snapshot(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "slots": list(self._slots),
            "shaped": self._shape is not None,
            "error": self.error,
            "level": self.level,
            "seen_ms": self._seen_ms,
            "due": self._due,
            "check": self._check,
            "slot": self._slot,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a snapshot; weekday factors stay those of the baselines."""
        self._slots = list(state["slots"])
        self.error, self.level, self._seen_ms = state["error"], state["level"], state["seen_ms"]
        self._due, self._check, self._slot = list(state["due"]), list(state["check"]), list(state["slot"])
        if state["shaped"]:
            known = tuple(value or 0.0 for value in self._slots)
            self._shape = SeriesProfile(known, tuple(self._weekdays), self.error, 0.0)
