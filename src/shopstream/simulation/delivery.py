"""Puts records into a stream so that the order inside each shard is kept, whatever part of a put fails."""

from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from shopstream.clock import Clock
from shopstream.errors import BackpressureError, RetryableError
from shopstream.stream.ports import MAX_PUT_BYTES, MAX_PUT_RECORDS, NewRecord, StreamWriter

__all__ = ["Delivery"]

_ATTEMPTS = 8  # of failures that are neither backpressure nor partial: some two minutes
_wait = wait_exponential(multiplier=0.1, max=30)


class _PartialPutError(RetryableError):
    """Some records of a put were refused; they stay first in their queues."""


class Delivery:
    """Sends queues of records, one queue a shard.

    A put takes the first record of each queue, so a refused record holds back its own shard only and nothing overtakes
    it. Backpressure is waited out, for as long as it lasts.

    Args:
        writer: the stream.
        clock: lets the waiting time pass.
        on_wait: told why and how long, before each wait.
    """

    def __init__(self, writer: StreamWriter, clock: Clock, on_wait: Callable[[str, timedelta], None]) -> None:
        self._writer = writer
        self._on_wait = on_wait
        self._retrying = Retrying(
            retry=retry_if_exception_type(RetryableError),
            wait=_pause,
            stop=_other_failures,
            sleep=lambda seconds: clock.sleep(timedelta(seconds=seconds)),
            before_sleep=self._told,
            reraise=True,
        )

    def send(self, queues: Sequence[Sequence[NewRecord]]) -> set[str]:
        """Send everything; returns once all of it is acknowledged, with the ids of the shards that took it.

        Raises:
            PermanentError: a record is over a limit.
            RetryableError: the stream cannot be reached, again and again.
        """
        waiting = [deque(queue) for queue in queues if queue]
        shards: set[str] = set()
        while waiting:
            heads: list[deque[NewRecord]] = []
            size = 0
            for queue in waiting[:MAX_PUT_RECORDS]:
                size += len(queue[0].payload) + len(queue[0].partition_key.encode())
                if heads and size > MAX_PUT_BYTES:
                    break
                heads.append(queue)
            self._retrying(self._put, heads.copy(), shards)
            # Those that were not in this put come first in the next.
            waiting = [queue for queue in waiting[len(heads) :] + heads if queue]
        return shards

    def _put(self, heads: list[deque[NewRecord]], shards: set[str]) -> None:
        pending = [queue for queue in heads if queue]
        asked = [queue[0] for queue in pending]
        refused = []
        for queue, outcome in zip(pending, self._writer.put(asked), strict=True):
            if outcome.error_code is None:
                queue.popleft()
                shards.add(outcome.shard_id or "")
            else:
                refused.append(queue)
        heads[:] = refused
        if refused:
            raise _PartialPutError(f"the stream took {len(asked) - len(refused)} of {len(asked)} records of a put")

    def _told(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._on_wait(str(error), timedelta(seconds=state.upcoming_sleep))


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, BackpressureError):
        return error.retry_after.total_seconds()
    return float(_wait(state))


def _other_failures(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    return not isinstance(error, BackpressureError | _PartialPutError) and bool(stop_after_attempt(_ATTEMPTS)(state))
