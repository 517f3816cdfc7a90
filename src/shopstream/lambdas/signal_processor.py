"""The line on which records of signals become incidents.

Records come in order, any number of times, in any portions. A portion is done in this order:

1. Records of which nothing can be made go to the queue of failed signals.
2. Signals are judged; incidents are written. The same detections again change nothing.
3. Final detections go to the lake, at least once.
4. The detectors' state is saved with the sequence number of the portion's last record, if nobody saved meanwhile.
   **This decides**: from here on these records are done.
5. People are told.

Whatever fails before step 4, the records come again, and the detectors begin from what was saved. What fails in step 5
is tried again by the ticker.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from traceback import format_tb
from typing import Any, Final

from aws_lambda_powertools import Logger

from shopstream.detection.detection import Severity
from shopstream.engine.signals import SignalAssembler, SignalBatch, decode_signals
from shopstream.errors import DecodeError, ShopstreamError, StateError
from shopstream.incidents.detection_runner import Judging
from shopstream.incidents.incident import Change
from shopstream.incidents.item import ItemTooLargeError
from shopstream.lambdas.ports import Delivery, DetectorStates, FailedSignals, SignalRecord
from shopstream.stream.ports import TRIM_HORIZON

__all__ = ["Line", "PoisonedRecordError", "Taken"]

_FORMAT: Final = 1
_PORTION_BYTES: Final = 2 << 20
"""So many bytes of signals are judged before a commit: seconds of work, so that a deadline costs little."""
_RESERVE_MS: Final = 10_000
"""A portion is begun only while more than this is left: it takes seconds at most."""


class PoisonedRecordError(ShopstreamError):
    """A record that nothing can be made of, and no queue to put it into."""


@dataclass(slots=True)
class Taken:
    """What one call did.

    Args:
        failed: sequence number from which on records have to come again; None: all are done.
        error: why.
        signals, detections: judged; final detections that no allow-list covers.
        repeated: records that were done before.
        poisoned: records of which nothing could be made.
        unknown: window → signals that no rule and no detector reads: the engine has other rules than this function.
        late_signals: those of bins that the detectors had before.
        opened: incidents, by severity.
    """

    failed: int | None = None
    error: Exception | None = None
    signals: int = 0
    detections: int = 0
    repeated: int = 0
    poisoned: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    late_signals: int = 0
    opened: Counter[Severity] = field(default_factory=Counter)


class Line:
    """One consumer of the signals stream; warm between calls, and never trusted without a look at what was saved.

    Args:
        build: a judge with detectors that have seen nothing.
        known: windows whose signals somebody reads.
        states: where the detectors' state is saved.
        delivery: where final detections go; None: nowhere.
        failed: where records go of which nothing can be made; None: they are given back to Lambda.
        logger: gets no user ids.
    """

    def __init__(
        self,
        *,
        build: Callable[[], Judging],
        known: frozenset[str],
        states: DetectorStates,
        delivery: Delivery | None,
        failed: FailedSignals | None,
        logger: Logger,
    ) -> None:
        self._build = build
        self._known = known
        self._states = states
        self._delivery = delivery
        self._failed = failed
        self._logger = logger
        self._judging: Judging | None = None
        self._assembly = SignalAssembler()
        self._generation = 0
        self._positions: dict[str, int] = {}
        self._until_ms: int | None = None

    def take(self, records: Sequence[SignalRecord], remaining_ms: Callable[[], int]) -> Taken:
        """Judge records, in order.

        Args:
            records: of one shard, in order.
            remaining_ms: how long this call may still last.
        """
        taken = Taken()
        try:
            self._recall()
            waiting = [record for record in records if not self._had(record)]
            taken.repeated = len(records) - len(waiting)
            # Lambda takes a poisoned record away only if those before it are done.
            for portion in _portions(waiting, 0 if self._failed is None else _PORTION_BYTES):
                if remaining_ms() < _RESERVE_MS:
                    taken.failed = portion[0].sequence_number
                    self._logger.warning("time is up; the rest comes again", extra={"records": len(portion)})
                    break
                self._take(portion, taken)
        except ShopstreamError as error:
            self._judging = None
            taken.error = error
            undone = [record for record in records if not self._had(record)] or records
            taken.failed = undone[0].sequence_number
        return taken

    def _recall(self) -> None:
        """Make sure that this process has what was saved last."""
        if self._judging is not None and self._states.generation() == self._generation:
            return
        self._judging = None
        judging, assembly = self._build(), SignalAssembler()
        saved = self._states.load()
        if saved is not None:
            detectors, waiting = _parts_of(saved.state)
            assembly.restore(waiting)
            if fresh := judging.restore(detectors):
                self._logger.warning("detectors begin afresh: new, or of another version", extra={"detectors": fresh})
        self._generation = saved.generation if saved else self._states.generation()
        self._positions = dict(saved.positions) if saved else {}
        self._until_ms = saved.until_ms if saved else None
        self._assembly, self._judging = assembly, judging

    def _had(self, record: SignalRecord) -> bool:
        return record.sequence_number <= self._positions.get(record.shard_id, TRIM_HORIZON)

    def _take(self, portion: Sequence[SignalRecord], taken: Taken) -> None:
        """One portion; where judging it breaks, each of its records alone, to find the one that breaks it."""
        try:
            self._commit(portion, taken)
        except ItemTooLargeError as error:
            reason = str(error)
            self._logger.warning("an incident is too large", extra={"records": len(portion), "reason": reason})
        except (ShopstreamError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  whatever a record breaks
            reason = f"judging it broke ({type(error).__name__}); see the log of the function"
            # Where, and not the error's own words: they may name a user.
            told = {"records": len(portion), "what": type(error).__name__, "at": format_tb(error.__traceback__)}
            self._logger.error("judging broke", extra=told)  # noqa: TRY400  likewise
        else:
            return
        self._judging = None
        self._recall()
        if len(portion) == 1:
            self._commit(portion, taken, broken=reason)
            return
        for record in portion:
            self._take([record], taken)

    def _commit(self, portion: Sequence[SignalRecord], taken: Taken, broken: str | None = None) -> None:
        """The steps at the top of this module.

        Args:
            portion: records after those that are done.
            taken: what was done is added, once it is.
            broken: why the records are put aside, unjudged.
        """
        if self._judging is None:
            raise StateError("expected detectors that were restored, got none; call `take`")
        moments, poisoned = self._read(portion, broken)
        signals = [signal for moment in moments for signal in moment.signals]
        told = [moment.until_ms for moment in moments]
        until_ms = max(told if self._until_ms is None else [*told, self._until_ms], default=None)
        detections, opened, late = 0, Counter[Severity](), 0
        if moments and until_ms is not None:
            judged = self._judging.judge(signals, until_ms, moments[-1].quiet)
            late = judged.late_signals
            opened.update(change.severity for change in judged.changes if change.change is Change.OPENED)
            if self._delivery is not None and judged.final:
                self._delivery.deliver(judged.final)
            detections = sum(detection.suppression is None for detection in judged.final)
        state = {"format": _FORMAT, "waiting": self._assembly.snapshot(), "detectors": self._judging.snapshot()}
        positions = self._positions | {record.shard_id: record.sequence_number for record in portion}
        self._generation = self._states.save(state, positions, until_ms=until_ms, expected_generation=self._generation)
        self._positions, self._until_ms = positions, until_ms
        taken.signals += len(signals)
        taken.detections += detections
        taken.poisoned += poisoned
        taken.late_signals += late
        taken.opened += opened
        taken.unknown.update(signal.window for signal in signals if signal.window not in self._known)

    def _read(self, portion: Sequence[SignalRecord], broken: str | None) -> tuple[list[SignalBatch], int]:
        """Step 1, and the moments that are whole; of how many records nothing could be made."""
        moments: list[SignalBatch] = []
        poisoned = 0
        for record in portion:
            reason, lost = broken, 0
            try:
                if broken:
                    lost = self._assembly.discard()
                elif moment := self._assembly.add(decode_signals(record.payload)):
                    moments.append(moment)
            except StateError as error:
                reason, lost = str(error), self._assembly.discard()
            except (DecodeError, RecursionError) as error:
                reason = str(error)
                if waiting := self._assembly.waiting:  # it may be none of theirs
                    reason += f"; if it was a part of signals, the {waiting} before it are lost with it"
            if lost:
                reason = f"{reason}; the {lost} parts of the same moment before it are lost with it"
            if reason is not None:
                self._put_aside(record, reason)
                poisoned += 1 + lost
        return moments, poisoned

    def _put_aside(self, record: SignalRecord, reason: str) -> None:
        place = {"shard_id": record.shard_id, "sequence_number": str(record.sequence_number)}
        if self._failed is None:
            raise PoisonedRecordError(f"{reason}; name a queue in aws.failed_signals, and the line goes on by itself")
        self._failed.add(record, reason)
        self._logger.error("a record was put aside", extra={**place, "reason": reason})


def _portions(records: Sequence[SignalRecord], max_bytes: int) -> Iterator[list[SignalRecord]]:
    portion: list[SignalRecord] = []
    size = 0
    for record in records:
        if portion and size + len(record.payload) > max_bytes:
            yield portion
            portion, size = [], 0
        portion.append(record)
        size += len(record.payload)
    if portion:
        yield portion


def _parts_of(state: Mapping[str, Any]) -> tuple[Mapping[str, object], Mapping[str, object]]:
    match state:
        case {"format": 1, "waiting": dict(waiting), "detectors": dict(detectors)}:
            return detectors, waiting
        case _:
            raise StateError(
                "expected the state of detection in format 1; upgrade the function, or delete the item DETECTORS/HEAD: "
                "detectors then begin afresh"
            )
