"""Watermarks: how far event time has advanced.

A shard's watermark is its newest event time minus the allowed out-of-orderness; the engine's is the minimum over all
shards that are not idle. An event is late if it is behind *its shard's* watermark at its place in the shard. That
depends neither on the size of batches nor on the order of shards, so a replay finds the same late events. The only
exception depends on the clock: a shard that resumes after idleness, behind the engine's watermark, has late events.

A shard without events becomes idle only through polls that find nothing; the time from the start of one such poll to
the start of the next counts. An engine that was stopped, busy or starved has polled nothing, and reads the backlog
next.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BEGINNING = -(1 << 62)
LIVE_MS = 300_000
"""An event is live if its time is at most this far from the clock on arrival; older events are history."""
_SEAM_MS = 86_400_000
"""A longer gap in a history means that it was loaded in two parts."""


@dataclass(slots=True)
class ShardProgress:
    """Progress of one shard.

    Args:
        newest_ms: newest event time.
        empty_since_ms, empty_ms: clock at the start of the first and the last of consecutive polls that found nothing;
            None if the last poll found something.
        quiet_ms: the part of the time between them that counts.
        ended: whether it is closed and was read to its end.
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
        idle_timeout_ms: a shard whose polls found nothing for this long is left out of the minimum. The gap between two
            polls counts for at most half of it, so that no single gap makes a shard idle.
    """

    def __init__(self, out_of_orderness_ms: int, idle_timeout_ms: int) -> None:
        self._out_of_orderness_ms = out_of_orderness_ms
        self._idle_timeout_ms = idle_timeout_ms
        self._shards: dict[str, ShardProgress] = {}
        self.current_ms = BEGINNING

    def observe(self, shard_id: str, times_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Process a shard's next events, in order.

        Returns:
            One flag per event: True if it is late.
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
        """Note a shard that will be read: it holds the watermark back until it has events or is idle."""
        self._shards.setdefault(shard_id, ShardProgress())

    def at_tip(self, shard_id: str, polled_ms: int, *, ended: bool = False) -> None:
        """Note that a poll, begun at `polled_ms` (clock), found a shard without new records."""
        shard = self._shards.setdefault(shard_id, ShardProgress())
        if shard.empty_since_ms is None:
            shard.empty_since_ms, shard.quiet_ms = polled_ms, 0
        else:  # a clock set back adds nothing
            shard.quiet_ms += min(max(0, polled_ms - shard.empty_ms), self._idle_timeout_ms // 2)
        shard.empty_ms, shard.ended = polled_ms, ended

    def busy(self, shard_id: str) -> None:
        """Note that a shard may have more records: it holds the watermark back again."""
        self._shards.setdefault(shard_id, ShardProgress()).empty_since_ms = None

    def quiet(self) -> tuple[int, int] | None:
        """Since when (clock, ms) polls have found no records in any shard, and how much of that counts; else None."""
        shards = [shard for shard in self._shards.values() if not shard.ended]
        since = [shard.empty_since_ms for shard in shards if shard.empty_since_ms is not None]
        if not shards or len(since) < len(shards):
            return None
        return max(since), min(shard.quiet_ms for shard in shards)

    def newest_ms(self, shard_id: str) -> int:
        """Newest event time of a shard; BEGINNING if it has none."""
        shard = self._shards.get(shard_id)
        return shard.newest_ms if shard else BEGINNING

    def advance(self, *, all_idle_count: bool = False) -> int:
        """Advance and return the engine's watermark, which never goes back.

        Args:
            all_idle_count: whether all shards are read to their end: shards at the tip are then idle at once.
        """
        times = [
            shard.newest_ms
            for shard in self._shards.values()
            if not (shard.ended or (shard.empty_since_ms is not None and (all_idle_count or self._is_idle(shard))))
        ]
        if not times:  # all shards are idle: nothing newer is on its way
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
        """Restore such values; idleness starts anew."""
        self.current_ms = current_ms
        self._shards = {shard_id: ShardProgress(newest_ms=newest) for shard_id, newest in newest_ms.items()}


class GoingLive:
    """Finds the gap between a loaded history and the first live event, or other history, after it.

    Missing events in that gap mean nothing, because nobody sent any. An event's arrival decides whether it is history,
    so a replay finds the same gap, whatever the batches were. Old events up to a day after live ones begin no history:
    their sender had held them back, and the time before them was watched.
    """

    def __init__(self) -> None:
        self.history_ms = BEGINNING
        """Newest event that was history on arrival; BEGINNING once live events follow."""
        self.watched_ms = BEGINNING
        """Newest event that was live on arrival."""
        self._live_ms: int | None = None
        self._passed_ms = BEGINNING

    def observe(self, times_ms: npt.NDArray[np.int64], arrivals_ms: npt.NDArray[np.int64]) -> None:  # noqa: C901  cases
        """Process events that are not late, in order of arrival."""
        ages = arrivals_ms - times_ms
        history, live = ages > LIVE_MS, np.abs(ages) <= LIVE_MS
        if not history.any() and self.history_ms == BEGINNING:
            self.watched_ms = max(self.watched_ms, int(times_ms[live].max(initial=BEGINNING)))
            return
        if self._live_ms is None and not live.any():
            past = np.sort(times_ms[history])
            if self.history_ms == BEGINNING < self.watched_ms:
                past = past[past > self.watched_ms + _SEAM_MS]
            before = past[:1] if self.history_ms == BEGINNING else [self.history_ms]
            if not (np.diff(past, prepend=before) > _SEAM_MS).any():
                self.history_ms = max(self.history_ms, int(past.max(initial=BEGINNING)))
                return
        for time_ms, old, new in zip(times_ms.tolist(), history.tolist(), live.tolist(), strict=True):
            if new:
                self.watched_ms = max(self.watched_ms, time_ms)
            if self.history_ms == BEGINNING < self.watched_ms and time_ms <= self.watched_ms + _SEAM_MS:
                continue
            if old and self.history_ms > BEGINNING and time_ms - self.history_ms > _SEAM_MS:
                self._live_ms = time_ms if self._live_ms is None else min(self._live_ms, time_ms)
            elif old and (self._live_ms is None or time_ms < self._live_ms):
                self.history_ms = max(self.history_ms, time_ms)
            elif new and time_ms > self.history_ms > BEGINNING:
                self._live_ms = time_ms if self._live_ms is None else min(self._live_ms, time_ms)

    def passed(self, watermark_ms: int) -> tuple[int, int] | None:
        """The part of the gap that the watermark has newly passed; None if there is no significant gap."""
        if self._live_ms is None or watermark_ms <= max(self.history_ms, self._passed_ms):
            return None
        between = self.history_ms, min(self._live_ms, watermark_ms)
        significant = self._live_ms - self.history_ms > LIVE_MS
        self._passed_ms = watermark_ms
        if watermark_ms >= self._live_ms:
            self.history_ms, self._live_ms = BEGINNING, None
        return between if significant else None
