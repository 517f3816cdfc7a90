"""Sends records into a stream; keeps the order inside each shard, whatever part of a put fails.

Each shard has an adaptive rate limit: additive increase, multiplicative decrease (AIMD).
"""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from math import ceil

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from shopstream.clock import Clock
from shopstream.errors import BackpressureError, RetryableError
from shopstream.stream.ports import MAX_PUT_BYTES, MAX_PUT_RECORDS, NewRecord, StreamWriter

_FIRST_RATE = 1 << 20  # bytes a second: the limit of a Kinesis shard
_LOWEST_RATE = 16 << 10
_DECREASE = 0.8
_INCREASE_EACH_SECOND = 0.03  # of the rate
_MOST_INCREASE = 0.02  # for one record, so that a shard at its limit refuses one record in ten at most
_FIRST_PAUSE_MS = 100.0
_LONGEST_PAUSE_MS = 10_000.0


class RateLimit:
    """Adaptive rate limit of one shard; there is none until the shard refuses a record.

    Attributes:
        ready_ms: when the next record may be sent, processing time.
    """

    def __init__(self) -> None:
        self.ready_ms = 0.0
        self._rate: float | None = None
        self._grown_ms = 0.0
        self._pause_ms = _FIRST_PAUSE_MS

    @property
    def rate(self) -> float | None:
        """Bytes a second; None without a limit."""
        return self._rate

    def taken(self, now_ms: float, size: int) -> None:
        """The shard took so many bytes: increase the rate a little."""
        self._pause_ms = _FIRST_PAUSE_MS
        if self._rate is None:
            return
        self._rate *= 1 + min(_MOST_INCREASE, _INCREASE_EACH_SECOND * max(0.0, now_ms - self._grown_ms) / 1000)
        self._grown_ms = now_ms
        self.ready_ms = max(self.ready_ms, now_ms) + size / self._rate * 1000

    def refused(self, now_ms: float) -> None:
        """The shard refused a record: decrease the rate, and pause."""
        self._rate = _FIRST_RATE if self._rate is None else max(_LOWEST_RATE, self._rate * _DECREASE)
        self._grown_ms = now_ms
        self.ready_ms = now_ms + self._pause_ms
        self._pause_ms = min(_LONGEST_PAUSE_MS, self._pause_ms * 2)


_ATTEMPTS = 8  # of calls that fail, except for backpressure: about two minutes
_wait = wait_exponential(multiplier=0.1, max=30)


@dataclass(frozen=True, slots=True)
class Lane:
    """Records for one shard.

    Args:
        shard_id: the shard that takes them.
        records: what to send.
        ordered: keep their order.
    """

    shard_id: str
    records: Sequence[NewRecord]
    ordered: bool = True


@dataclass(frozen=True, slots=True)
class SendStatistics:
    """What was sent so far.

    Args:
        records: acknowledged records.
        bytes: payload of those.
        puts: successful calls.
        refused: records that a shard refused, counted each time.
        repeated: calls that were repeated: throttled, failed, or without an answer.
        waited_ms: time waited for the stream.
    """

    records: int = 0
    bytes: int = 0
    puts: int = 0
    refused: int = 0
    repeated: int = 0
    waited_ms: int = 0


class _Queue:
    def __init__(self, lane: Lane, limit: RateLimit) -> None:
        self.records = deque(lane.records)
        self.limit = limit
        self.at_once = 1 if lane.ordered else MAX_PUT_RECORDS


class StreamSender:
    """Sends lanes of records.

    A put that fails in part keeps no order, so an ordered lane has one record in flight, and sends a refused record
    again before the next one. That costs little: records are full, and a shard takes one full record a second. A shard
    that refuses records gets fewer (`RateLimit`), the others are not affected. Backpressure is waited out. A put
    without an answer is repeated.

    Args:
        writer: the stream.
        clock: for waiting.
        on_wait: called with reason and duration before each wait.
    """

    def __init__(self, writer: StreamWriter, clock: Clock, on_wait: Callable[[str, timedelta], None]) -> None:
        self.statistics = SendStatistics()
        self._writer = writer
        self._clock = clock
        self._on_wait = on_wait
        self._limits: defaultdict[str, RateLimit] = defaultdict(RateLimit)
        self._retrying = Retrying(
            retry=retry_if_exception_type(RetryableError),
            wait=_pause,
            stop=_other_failures,
            sleep=lambda seconds: clock.sleep(timedelta(seconds=seconds)),
            before_sleep=self._repeating,
            reraise=True,
        )

    def send(self, lanes: Sequence[Lane]) -> set[str]:
        """Send all records; returns the ids of the shards that took them, once all are acknowledged.

        Raises:
            PermanentError: a record is over a limit, or the stream refuses the whole call.
            RetryableError: the stream cannot be reached, again and again.
        """
        waiting = [_Queue(lane, self._limits[lane.shard_id]) for lane in lanes if lane.records]
        shards: set[str] = set()
        while waiting:
            now = self._clock.now_ms()
            due = [queue for queue in waiting if queue.limit.ready_ms <= now]
            if not due:
                self._wait(waiting, now)
                continue
            asked = _next_put(due)
            shards |= self._put(asked)
            # Lanes that were not in this put come first in the next one.
            served = {id(queue) for queue, _ in asked}
            waiting = [queue for queue in waiting if id(queue) not in served] + [
                queue for queue in waiting if id(queue) in served and queue.records
            ]
        return shards

    def _put(self, asked: list[tuple[_Queue, list[NewRecord]]]) -> set[str]:
        """One call; refused records go back to the front of their queues."""
        outcomes = iter(self._retrying(self._writer.put, [record for _, records in asked for record in records]))
        now, shards = self._clock.now_ms(), set()
        sent = size = refusals = 0
        for queue, records in asked:
            refused, taken = [], 0
            for record in records:
                outcome = next(outcomes)
                if outcome.error_code is None:
                    shards.add(outcome.shard_id or "")
                    sent += 1
                    size += len(record.payload)
                    taken += len(record.payload)
                else:
                    refused.append(record)
            for _ in records:
                queue.records.popleft()
            queue.records.extendleft(reversed(refused))
            refusals += len(refused)
            if refused:
                queue.limit.refused(now)
            else:
                queue.limit.taken(now, taken)
        was = self.statistics
        self.statistics = replace(
            was, records=was.records + sent, bytes=was.bytes + size, puts=was.puts + 1, refused=was.refused + refusals
        )
        return shards

    def _wait(self, waiting: list[_Queue], now: int) -> None:
        """Wait until the first shard is ready again."""
        wanted = max(1, ceil(min(queue.limit.ready_ms for queue in waiting) - now))
        self._waits(f"{len({id(queue.limit) for queue in waiting})} shards throttle", wanted)
        self._clock.sleep(timedelta(milliseconds=wanted))

    def _waits(self, why: str, wanted_ms: int) -> None:
        self.statistics = replace(self.statistics, waited_ms=self.statistics.waited_ms + wanted_ms)
        self._on_wait(why, timedelta(milliseconds=wanted_ms))

    def _repeating(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self.statistics = replace(self.statistics, repeated=self.statistics.repeated + 1)
        self._waits(str(error), round(state.upcoming_sleep * 1000))


def _next_put(due: list[_Queue]) -> list[tuple[_Queue, list[NewRecord]]]:
    """The first record of each queue, and more of unordered ones, within the limits of a put."""
    asked: list[tuple[_Queue, list[NewRecord]]] = []
    count = size = 0
    for queue in due:
        records: list[NewRecord] = []
        for record in islice(queue.records, min(queue.at_once, MAX_PUT_RECORDS - count)):
            size += len(record.payload) + len(record.partition_key.encode())
            if count and size > MAX_PUT_BYTES:
                break
            records.append(record)
            count += 1
        if records:
            asked.append((queue, records))
        if count == MAX_PUT_RECORDS or size > MAX_PUT_BYTES:
            break
    return asked


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, BackpressureError):
        return error.retry_after.total_seconds()
    return float(_wait(state))


def _other_failures(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    return not isinstance(error, BackpressureError) and bool(stop_after_attempt(_ATTEMPTS)(state))
