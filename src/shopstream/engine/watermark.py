"""Watermarks: how far event time has come.

Each shard has its own: newest event time seen minus the allowed out-of-orderness. The engine's is the least of those
of all shards that are not idle. An event is late when it is behind *its shard's* watermark at its own place in the
shard: that does not depend on how the shard was cut into batches, nor on how shards were interleaved, so a replay
calls the same events late. (One exception needs a clock: a shard that wakes from idleness behind the engine's
watermark finds its windows closed, and its events late.)

Time passes for a shard without events only as polls find nothing in it, from the start of one such poll to the start of
the next: an engine that was stopped, busy or starved has seen nothing, and what arrived meanwhile is read next.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BEGINNING", "LIVE_MS", "GoingLive", "ShardProgress", "Watermarks"]

BEGINNING = -(1 << 62)
LIVE_MS = 300_000
"""An event is live where its time is at most so far from the clock's when it arrived; one that is older is history."""
_SEAM_MS = 86_400_000
"""History in which nothing happens for longer than this was loaded in two parts."""


@dataclass(slots=True)
class ShardProgress:
    """One shard.

    Args:
        newest_ms: newest event time.
        empty_since_ms, empty_ms: clock at the start of the first and of the last poll in a row that found nothing; None
            where the last one found something.
        quiet_ms: how much of the time between them counts.
        ended: closed, and read to its end.
    """

    newest_ms: int = BEGINNING
    empty_since_ms: int | None = None
    empty_ms: int = 0
    quiet_ms: int = 0
    ended: bool = False


class Watermarks:
    """Event-time progress over shards.

    Args:
        out_of_orderness_ms: allowed lag behind a shard's newest event.
        idle_timeout_ms: a shard in which polls found nothing for this long is left out of the minimum. A gap between
            two polls counts up to half of it, so that no single gap makes a shard idle.
    """

    def __init__(self, out_of_orderness_ms: int, idle_timeout_ms: int) -> None:
        self._out_of_orderness_ms = out_of_orderness_ms
        self._idle_timeout_ms = idle_timeout_ms
        self._shards: dict[str, ShardProgress] = {}
        self.current_ms = BEGINNING

    def observe(self, shard_id: str, times_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Take a shard's next events, in order.

        Returns:
            One flag an event: True where it is late.
        """
        shard = self._shards.setdefault(shard_id, ShardProgress())
        shard.empty_since_ms = None
        if not len(times_ms):
            return np.zeros(0, dtype=np.bool_)
        newest = np.maximum(np.maximum.accumulate(times_ms), shard.newest_ms)
        shard.newest_ms = int(newest[-1])
        limit = np.maximum(newest - self._out_of_orderness_ms, self.current_ms)
        return np.asarray(times_ms < limit)

    def expect(self, shard_id: str) -> None:
        """Note that a shard is there and will be read: it holds the watermark back until it gives events or is idle."""
        self._shards.setdefault(shard_id, ShardProgress())

    def at_tip(self, shard_id: str, polled_ms: int, *, ended: bool = False) -> None:
        """Note that a poll which began at `polled_ms` (clock) found nothing new in a shard, and nothing on its way."""
        shard = self._shards.setdefault(shard_id, ShardProgress())
        if shard.empty_since_ms is None:
            shard.empty_since_ms, shard.quiet_ms = polled_ms, 0
        else:  # a clock set back adds nothing
            shard.quiet_ms += min(max(0, polled_ms - shard.empty_ms), self._idle_timeout_ms // 2)
        shard.empty_ms, shard.ended = polled_ms, ended

    def busy(self, shard_id: str) -> None:
        """Note that a shard may have more to read: it holds the watermark back again."""
        self._shards.setdefault(shard_id, ShardProgress()).empty_since_ms = None

    def quiet(self) -> tuple[int, int] | None:
        """Since when (clock, ms) polls have found nothing in any shard, and how much of that counts; None where not."""
        shards = [shard for shard in self._shards.values() if not shard.ended]
        since = [shard.empty_since_ms for shard in shards if shard.empty_since_ms is not None]
        if not shards or len(since) < len(shards):
            return None
        return max(since), min(shard.quiet_ms for shard in shards)

    def newest_ms(self, shard_id: str) -> int:
        """Newest event time of a shard; far in the past when it has none."""
        shard = self._shards.get(shard_id)
        return shard.newest_ms if shard else BEGINNING

    def advance(self, *, all_idle_count: bool = False) -> int:
        """Move and return the engine's watermark; it never goes back.

        Args:
            all_idle_count: every shard is known to be read to its end: those at the tip count as idle at once.
        """
        times = [
            shard.newest_ms
            for shard in self._shards.values()
            if not (shard.ended or (shard.empty_since_ms is not None and (all_idle_count or self._is_idle(shard))))
        ]
        if not times:  # all shards are quiet: nothing newer is on its way
            times = [max((shard.newest_ms for shard in self._shards.values()), default=BEGINNING)]
        slowest = min(times)
        if slowest > BEGINNING:
            self.current_ms = max(self.current_ms, slowest - self._out_of_orderness_ms)
        return self.current_ms

    def _is_idle(self, shard: ShardProgress) -> bool:
        return shard.quiet_ms >= self._idle_timeout_ms

    def newest(self) -> dict[str, int]:
        """Shard id → newest event time, for a checkpoint."""
        return {shard_id: shard.newest_ms for shard_id, shard in self._shards.items()}

    def restore(self, current_ms: int, newest_ms: Mapping[str, int]) -> None:
        """Take such values back; idleness starts anew."""
        self.current_ms = current_ms
        self._shards = {shard_id: ShardProgress(newest_ms=newest) for shard_id, newest in newest_ms.items()}


class GoingLive:
    """Finds the time between the end of a history that was loaded and the first live event, or other history, after it.

    Nobody sent then what could be missed. What is history is decided by an event's arrival, so a replay of the stream
    finds the same time, whatever the batches were.
    """

    def __init__(self) -> None:
        self.history_ms = BEGINNING
        """Newest event that was history when it arrived; BEGINNING once live events are told of."""
        self._live_ms: int | None = None
        self._passed_ms = BEGINNING

    def observe(self, times_ms: npt.NDArray[np.int64], arrivals_ms: npt.NDArray[np.int64]) -> None:
        """Take events that are not late, as they came."""
        ages = arrivals_ms - times_ms
        history, live = ages > LIVE_MS, np.abs(ages) <= LIVE_MS
        if not history.any() and self.history_ms == BEGINNING:
            return
        if self._live_ms is None and not live.any():
            past = np.sort(times_ms[history])
            before = past[:1] if self.history_ms == BEGINNING else [self.history_ms]
            if not (np.diff(past, prepend=before) > _SEAM_MS).any():
                self.history_ms = max(self.history_ms, int(past.max(initial=BEGINNING)))
                return
        for time_ms, old, new in zip(times_ms.tolist(), history.tolist(), live.tolist(), strict=True):
            if old and self.history_ms > BEGINNING and time_ms - self.history_ms > _SEAM_MS:
                self._live_ms = time_ms if self._live_ms is None else min(self._live_ms, time_ms)
            elif old and (self._live_ms is None or time_ms < self._live_ms):
                self.history_ms = max(self.history_ms, time_ms)
            elif new and time_ms > self.history_ms > BEGINNING:
                self._live_ms = time_ms if self._live_ms is None else min(self._live_ms, time_ms)

    def passed(self, watermark_ms: int) -> tuple[int, int] | None:
        """The time between, as far as the watermark has newly come; None where there is none worth a word."""
        if self._live_ms is None or watermark_ms <= max(self.history_ms, self._passed_ms):
            return None
        between = self.history_ms, min(self._live_ms, watermark_ms)
        worth = self._live_ms - self.history_ms > LIVE_MS
        self._passed_ms = watermark_ms
        if watermark_ms >= self._live_ms:
            self.history_ms, self._live_ms = BEGINNING, None
        return between if worth else None
