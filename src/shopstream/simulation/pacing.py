"""Paces events: at once, at a rate, or by event time."""

from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from shopstream.clock import Clock

__all__ = ["Pacer"]

_TICK = timedelta(milliseconds=50)  # what is due within a tick is sent together
_LONGEST_NAP = timedelta(milliseconds=500)  # so that progress is reported and an interrupt is noticed
_MOST_DEBT_MS = 1000  # a delayed replay catches up by at most this, or two events
_US = 1_000_000


class Pacer:
    """Cuts rows into slices, and yields each slice when it is due.

    Args:
        clock: processing time.
        speed: speed-up factor; rows out of order go with the latest row before them.
        rate: rows per second.
        live: a row is due when the clock reaches its event time.
    """

    def __init__(
        self, clock: Clock, *, speed: float | None = None, rate: float | None = None, live: bool = False
    ) -> None:
        self._clock = clock
        self._speed = 1.0 if live else speed
        self._rate = rate
        self._start_ms: int | None = 0 if live else None
        self._start_us = 0
        self._latest_us = 0
        self._sent = 0

    def slices(self, times_us: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Ranges [low, high) of the rows with these event times, in order, each when it is due.

        Event time goes on from one call to the next.
        """
        if not len(times_us):
            return
        if self._start_ms is None:
            self._start_ms, self._start_us, self._latest_us = self._clock.now_ms(), int(times_us[0]), int(times_us[0])
        if self._rate is not None:
            yield from self._by_rate(len(times_us), self._rate)
        elif self._speed is not None:
            yield from self._by_speed(times_us, self._speed)
        else:
            yield 0, len(times_us)

    def _elapsed_ms(self) -> int:
        return self._clock.now_ms() - (self._start_ms or 0)

    def _by_rate(self, count: int, rate: float) -> Iterator[tuple[int, int]]:
        low = 0
        most_debt_ms = max(_MOST_DEBT_MS, 2000 / rate)
        while low < count:
            debt_ms = self._elapsed_ms() - self._sent * 1000 / rate
            if debt_ms > most_debt_ms:
                self._start_ms = (self._start_ms or 0) + int(debt_ms - most_debt_ms)
            due = int(self._elapsed_ms() * rate / 1000) - self._sent
            if due < 1:
                wanted = timedelta(milliseconds=(self._sent + 1) * 1000 / rate - self._elapsed_ms())
                self._clock.sleep(min(max(wanted, _TICK), _LONGEST_NAP))
                continue
            high = min(low + due, count)
            self._sent += high - low
            yield low, high
            low = high

    def _by_speed(self, times_us: npt.NDArray[np.int64], speed: float) -> Iterator[tuple[int, int]]:
        reached = np.maximum(np.maximum.accumulate(times_us), self._latest_us)
        self._latest_us = int(reached[-1])
        low = 0
        while low < len(reached):
            now_us = self._start_us + int(self._elapsed_ms() * 1000 * speed)
            high = int(np.searchsorted(reached, now_us, side="right"))
            if high <= low:
                wanted = timedelta(microseconds=min((int(reached[low]) - now_us) / speed, _US))
                self._clock.sleep(min(max(wanted, _TICK), _LONGEST_NAP))
                continue
            yield low, high
            low = high
