"""How fast a shard may be sent to, learned from what it refuses: slow increase, quick decrease."""

__all__ = ["ShardPace"]

_FIRST_RATE = 1 << 20  # bytes a second: what Kinesis lets a shard take, and so the first guess once one refuses
_LOWEST_RATE = 16 << 10
_DECREASE = 0.8
_INCREASE_EACH_SECOND = 0.03  # of the rate
_MOST_INCREASE = 0.02  # for one record: a shard at its limit refuses one of ten at most
_FIRST_PAUSE_MS = 100.0
_LONGEST_PAUSE_MS = 10_000.0


class ShardPace:
    """One shard. There is no limit until it refuses a record: a stream that takes everything is never held back.

    Attributes:
        ready_ms: when the next record may go, processing time.
    """

    def __init__(self) -> None:
        self.ready_ms = 0.0
        self._rate: float | None = None
        self._grown_ms = 0.0
        self._pause_ms = _FIRST_PAUSE_MS

    @property
    def rate(self) -> float | None:
        """Bytes a second that it is thought to take; None: no limit is known."""
        return self._rate

    def taken(self, now_ms: float, size: int) -> None:
        """The shard took so many bytes."""
        self._pause_ms = _FIRST_PAUSE_MS
        if self._rate is None:
            return
        self._rate *= 1 + min(_MOST_INCREASE, _INCREASE_EACH_SECOND * max(0.0, now_ms - self._grown_ms) / 1000)
        self._grown_ms = now_ms
        self.ready_ms = max(self.ready_ms, now_ms) + size / self._rate * 1000

    def refused(self, now_ms: float) -> None:
        """The shard refused a record: others send to it, too, or this was too fast."""
        self._rate = _FIRST_RATE if self._rate is None else max(_LOWEST_RATE, self._rate * _DECREASE)
        self._grown_ms = now_ms
        self.ready_ms = now_ms + self._pause_ms
        self._pause_ms = min(_LONGEST_PAUSE_MS, self._pause_ms * 2)
