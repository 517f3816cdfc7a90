"""Watermarks: how far event time has come.

Each shard has its own: newest event time seen minus the allowed out-of-orderness. The engine's is the least of those
of all shards that are not idle. An event is late when it is behind *its shard's* watermark at its own place in the
shard: that does not depend on how the shard was cut into batches, nor on how shards were interleaved, so a replay
calls the same events late. (One exception needs a clock: a shard that wakes from idleness behind the engine's
watermark finds its windows closed, and its events late.)
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BEGINNING", "ShardProgress", "Watermarks"]

BEGINNING = -(1 << 62)


@dataclass(slots=True)
class ShardProgress:
    """One shard: newest event time, and since when (clock, ms) it has been at its tip without news."""

    newest_ms: int = BEGINNING
    quiet_since_ms: int | None = None
    ended: bool = False


class Watermarks:
    """Event-time progress over shards.

    Args:
        out_of_orderness_ms: allowed lag behind a shard's newest event.
        idle_timeout_ms: a shard at its tip for this long is left out of the minimum.
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
        shard.quiet_since_ms = None
        if not len(times_ms):
            return np.zeros(0, dtype=np.bool_)
        newest = np.maximum(np.maximum.accumulate(times_ms), shard.newest_ms)
        shard.newest_ms = int(newest[-1])
        limit = np.maximum(newest - self._out_of_orderness_ms, self.current_ms)
        return np.asarray(times_ms < limit)

    def expect(self, shard_id: str) -> None:
        """Note that a shard is there and will be read: it holds the watermark back until it gives events or is idle."""
        self._shards.setdefault(shard_id, ShardProgress())

    def at_tip(self, shard_id: str, now_ms: int, *, ended: bool = False) -> None:
        """Note that a shard had nothing new to read."""
        shard = self._shards.setdefault(shard_id, ShardProgress())
        if shard.quiet_since_ms is None:
            shard.quiet_since_ms = now_ms
        shard.ended = ended

    def newest_ms(self, shard_id: str) -> int:
        """Newest event time of a shard; far in the past when it has none."""
        shard = self._shards.get(shard_id)
        return shard.newest_ms if shard else BEGINNING

    def advance(self, now_ms: int, *, all_idle_count: bool = False) -> int:
        """Move and return the engine's watermark; it never goes back.

        Args:
            now_ms: the clock.
            all_idle_count: every shard is known to be read to its end: those at the tip count as idle at once.
        """
        times = [
            shard.newest_ms
            for shard in self._shards.values()
            if not (
                shard.ended or (all_idle_count and shard.quiet_since_ms is not None) or self._is_idle(shard, now_ms)
            )
        ]
        if not times:  # all shards are quiet: nothing newer is on its way
            times = [max((shard.newest_ms for shard in self._shards.values()), default=BEGINNING)]
        slowest = min(times)
        if slowest > BEGINNING:
            self.current_ms = max(self.current_ms, slowest - self._out_of_orderness_ms)
        return self.current_ms

    def _is_idle(self, shard: ShardProgress, now_ms: int) -> bool:
        return shard.quiet_since_ms is not None and now_ms - shard.quiet_since_ms >= self._idle_timeout_ms

    def newest(self) -> dict[str, int]:
        """Shard id → newest event time, for a checkpoint."""
        return {shard_id: shard.newest_ms for shard_id, shard in self._shards.items()}

    def restore(self, current_ms: int, newest_ms: Mapping[str, int]) -> None:
        """Take such values back; idleness starts anew."""
        self.current_ms = current_ms
        self._shards = {shard_id: ShardProgress(newest_ms=newest) for shard_id, newest in newest_ms.items()}
