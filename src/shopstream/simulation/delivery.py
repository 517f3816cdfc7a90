"""Puts records into a stream so that the order inside each shard is kept, whatever part of a put fails."""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from math import ceil

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from shopstream.clock import Clock
from shopstream.errors import BackpressureError, RetryableError
from shopstream.simulation.rate_limit import ShardPace
from shopstream.stream.ports import MAX_PUT_BYTES, MAX_PUT_RECORDS, NewRecord, StreamWriter

__all__ = ["Delivery", "DeliveryFigures", "Lane"]

_ATTEMPTS = 8  # of calls that fail whole, backpressure apart: some two minutes
_wait = wait_exponential(multiplier=0.1, max=30)


@dataclass(frozen=True, slots=True)
class Lane:
    """Records for one shard.

    Args:
        shard_id: the shard that is expected to take them.
        records: what to send.
        ordered: none may overtake another.
    """

    shard_id: str
    records: Sequence[NewRecord]
    ordered: bool = True


@dataclass(frozen=True, slots=True)
class DeliveryFigures:
    """What was sent so far.

    Args:
        records: acknowledged.
        bytes: payload of those.
        puts: calls that were answered.
        refused: records that a shard refused and that were sent again, once for each time.
        repeated: calls that were repeated whole: throttled, failed, or without an answer.
        waited_ms: time waited because the stream would take no more.
    """

    records: int = 0
    bytes: int = 0
    puts: int = 0
    refused: int = 0
    repeated: int = 0
    waited_ms: int = 0


class _Queue:
    def __init__(self, lane: Lane, pace: ShardPace) -> None:
        self.records = deque(lane.records)
        self.pace = pace
        self.at_once = 1 if lane.ordered else MAX_PUT_RECORDS


class Delivery:
    """Sends lanes of records.

    Of an ordered lane one record is under way at a time, because a put that fails in part keeps no order: what is
    refused goes again before anything behind it. That costs little: records are filled up to their limit, and a shard
    takes one full record a second. A shard that refuses is sent to more slowly (`ShardPace`), while the others go on.
    Backpressure is waited out, for as long as it lasts. A put whose answer was lost is sent again whole.

    Args:
        writer: the stream.
        clock: lets the waiting time pass.
        on_wait: told why and how long, before each wait.
    """

    def __init__(self, writer: StreamWriter, clock: Clock, on_wait: Callable[[str, timedelta], None]) -> None:
        self.figures = DeliveryFigures()
        self._writer = writer
        self._clock = clock
        self._on_wait = on_wait
        self._paces: defaultdict[str, ShardPace] = defaultdict(ShardPace)
        self._retrying = Retrying(
            retry=retry_if_exception_type(RetryableError),
            wait=_pause,
            stop=_other_failures,
            sleep=lambda seconds: clock.sleep(timedelta(seconds=seconds)),
            before_sleep=self._repeating,
            reraise=True,
        )

    def send(self, lanes: Sequence[Lane]) -> set[str]:
        """Send everything; returns once all of it is acknowledged, with the ids of the shards that took it.

        Raises:
            PermanentError: a record is over a limit, or the stream refuses the whole call.
            RetryableError: the stream cannot be reached, again and again.
        """
        waiting = [_Queue(lane, self._paces[lane.shard_id]) for lane in lanes if lane.records]
        shards: set[str] = set()
        while waiting:
            now = self._clock.now_ms()
            due = [queue for queue in waiting if queue.pace.ready_ms <= now]
            if not due:
                self._wait(waiting, now)
                continue
            asked = _next_put(due)
            shards |= self._put(asked)
            # Those that were not in this put come first in the next.
            served = {id(queue) for queue, _ in asked}
            waiting = [queue for queue in waiting if id(queue) not in served] + [
                queue for queue in waiting if id(queue) in served and queue.records
            ]
        return shards

    def _put(self, asked: list[tuple[_Queue, list[NewRecord]]]) -> set[str]:
        """One call; refused records are first in their queues again."""
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
                queue.pace.refused(now)
            else:
                queue.pace.taken(now, taken)
        was = self.figures
        self.figures = replace(
            was, records=was.records + sent, bytes=was.bytes + size, puts=was.puts + 1, refused=was.refused + refusals
        )
        return shards

    def _wait(self, waiting: list[_Queue], now: int) -> None:
        """Until the first shard may be sent to again."""
        wanted = max(1, ceil(min(queue.pace.ready_ms for queue in waiting) - now))
        self._waits(f"{len({id(queue.pace) for queue in waiting})} shards throttle", wanted)
        self._clock.sleep(timedelta(milliseconds=wanted))

    def _waits(self, why: str, wanted_ms: int) -> None:
        self.figures = replace(self.figures, waited_ms=self.figures.waited_ms + wanted_ms)
        self._on_wait(why, timedelta(milliseconds=wanted_ms))

    def _repeating(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self.figures = replace(self.figures, repeated=self.figures.repeated + 1)
        self._waits(str(error), round(state.upcoming_sleep * 1000))


def _next_put(due: list[_Queue]) -> list[tuple[_Queue, list[NewRecord]]]:
    """The first record of each queue, and more of those without order, within the limits of a put."""
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
