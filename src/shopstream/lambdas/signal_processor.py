"""Turns records of signals into incidents.

Records come in order, any number of times, in any portions. A portion is done in this order:

1. Undecodable records go to the queue of failed signals.
2. Detection runs; incidents and notifications are written. The same again changes nothing.
3. Final detections go to the lake, at least once.
4. The state of detectors and incidents is saved with the sequence number of the portion's last record, if nobody saved
   meanwhile. **This decides**: from here on these records are done.
5. Notifications are sent.

Whatever fails before step 4, the records come again, and detectors and incidents begin from what was saved (see
`incidents.recorder`). What fails in step 5 is tried again by the ticker.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from traceback import format_tb
from typing import Any, Final, NamedTuple, Self

from aws_lambda_powertools import Logger

from shopstream.detection.detection import Severity
from shopstream.detection.runner import LocalDetectionRunner
from shopstream.engine.signals import SignalAssembler, SignalBatch, decode_signals
from shopstream.errors import DecodeError, ShopstreamError, StateError
from shopstream.incidents.aws import ItemTooLargeError
from shopstream.incidents.incident import Change
from shopstream.incidents.recorder import IncidentRecorder
from shopstream.lambdas.ports import DetectionSink, FailedSignals, SignalRecord
from shopstream.lambdas.state import DetectionState
from shopstream.stream.ports import TRIM_HORIZON

_FORMAT: Final = 1
_PORTION_BYTES: Final = 2 << 20
"""So many bytes of signals are processed before a commit: seconds of work, so that a deadline costs little."""
_RESERVE_MS: Final = 10_000
"""A portion is begun only while more than this is left: it takes seconds at most."""


class PoisonedRecordError(ShopstreamError):
    """An undecodable record, with no queue for failed signals configured."""


@dataclass(slots=True)
class BatchResult:
    """What one call did.

    Args:
        failed: sequence number from which on records have to come again; None: all are done.
        error: why.
        signals: processed.
        detections: final ones that no allow-list covers.
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


class SignalProcessor:
    """One consumer of the signals stream; warm between calls, and never trusted without a look at what was saved.

    Args:
        runner: makes one whose detectors have seen nothing.
        recorder: makes one that has recorded nothing.
        known: windows whose signals somebody reads.
        states: where the state is saved.
        sink: where final detections go; None: nowhere.
        failed: where records go of which nothing can be made; None: they are given back to Lambda.
        logger: gets no user ids.
    """

    def __init__(
        self,
        *,
        runner: Callable[[], LocalDetectionRunner],
        recorder: Callable[[], IncidentRecorder],
        known: frozenset[str],
        states: DetectionState,
        sink: DetectionSink | None,
        failed: FailedSignals | None,
        logger: Logger,
    ) -> None:
        self._make_runner, self._make_recorder = runner, recorder
        self._known = known
        self._states = states
        self._sink = sink
        self._failed = failed
        self._logger = logger
        self._warm: tuple[LocalDetectionRunner, IncidentRecorder] | None = None
        self._assembly = SignalAssembler()
        self._generation = 0
        self._positions: dict[str, int] = {}
        self._until_ms: int | None = None

    def process(self, records: Sequence[SignalRecord], remaining_ms: Callable[[], int]) -> BatchResult:
        """Process records, in order.

        Args:
            records: of one shard, in order.
            remaining_ms: how long this call may still last.
        """
        done = BatchResult()
        try:
            self._recall()
            waiting = [record for record in records if not self._had(record)]
            done.repeated = len(records) - len(waiting)
            # Lambda takes a poisoned record away only if those before it are done.
            for portion in _portions(waiting, 0 if self._failed is None else _PORTION_BYTES):
                if remaining_ms() < _RESERVE_MS:
                    done.failed = portion[0].sequence_number
                    self._logger.warning("time is up; the rest comes again", extra={"records": len(portion)})
                    break
                self._process_portion(portion, done)
        except ShopstreamError as error:
            self._warm = None
            done.error = error
            undone = [record for record in records if not self._had(record)] or records
            done.failed = undone[0].sequence_number
        return done

    def _recall(self) -> None:
        """Make sure that this process has what was saved last."""
        if self._warm is not None and self._states.generation() == self._generation:
            return
        self._warm = None
        runner, recorder, assembly = self._make_runner(), self._make_recorder(), SignalAssembler()
        saved = self._states.load()
        generation = saved.generation if saved else self._states.generation()
        state = _State.of(saved.state) if saved else _State({}, None, None)
        recorder.restore(state.incidents, generation)
        if state.detectors is not None:
            assembly.restore(state.waiting)
            if fresh := runner.restore(state.detectors):
                self._logger.warning("detectors start afresh: new, or of another version", extra={"detectors": fresh})
        self._generation = generation
        self._positions = dict(saved.positions) if saved else {}
        self._until_ms = saved.until_ms if saved else None
        self._assembly, self._warm = assembly, (runner, recorder)

    def _had(self, record: SignalRecord) -> bool:
        return record.sequence_number <= self._positions.get(record.shard_id, TRIM_HORIZON)

    def _process_portion(self, portion: Sequence[SignalRecord], done: BatchResult) -> None:
        """One portion; where processing it breaks, each of its records alone, to find the one that breaks it."""
        try:
            self._commit(portion, done)
        except ItemTooLargeError as error:
            reason = str(error)
            self._logger.warning("an incident is too large", extra={"records": len(portion), "reason": reason})
        except (ShopstreamError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  whatever a record breaks
            reason = f"processing it broke ({type(error).__name__}); see the log of the function"
            # Where, and not the error's own words: they may name a user.
            facts = {"records": len(portion), "what": type(error).__name__, "at": format_tb(error.__traceback__)}
            self._logger.error("processing broke", extra=facts)  # noqa: TRY400  likewise
        else:
            return
        self._warm = None
        self._recall()
        if len(portion) == 1:
            self._commit(portion, done, broken=reason)
            return
        for record in portion:
            self._process_portion([record], done)

    def _commit(self, portion: Sequence[SignalRecord], done: BatchResult, broken: str | None = None) -> None:
        """The steps at the top of this module.

        Args:
            portion: records after those that are done.
            done: what was done is added, once it is.
            broken: why the records are set aside, unprocessed.
        """
        if self._warm is None:
            raise StateError("expected detectors that were restored, got none; call `process`")
        runner, recorder = self._warm
        moments, poisoned = self._read(portion, broken)
        signals = [signal for moment in moments for signal in moment.signals]
        until = [moment.until_ms for moment in moments]
        until_ms = max(until if self._until_ms is None else [*until, self._until_ms], default=None)
        detections, opened, late = 0, Counter[Severity](), 0
        if moments and until_ms is not None:
            quiet = moments[-1].quiet
            result = runner.run(signals, until_ms, quiet)
            late = result.late_signals
            changes = recorder.apply(result.detections, until_ms, quiet.until_ms if quiet else None)
            opened.update(change.severity for change in changes if change.change is Change.OPENED)
            if self._sink is not None and result.final:
                self._sink.deliver(result.final)
            detections = sum(detection.suppression is None for detection in result.final)
        state = {
            "format": _FORMAT,
            "waiting": self._assembly.snapshot(),
            "detectors": runner.snapshot(),
            "incidents": recorder.snapshot(),
        }
        positions = self._positions | {record.shard_id: record.sequence_number for record in portion}
        self._generation = self._states.save(state, positions, until_ms=until_ms, expected_generation=self._generation)
        recorder.begin(self._generation + 1)
        self._positions, self._until_ms = positions, until_ms
        done.signals += len(signals)
        done.detections += detections
        done.poisoned += poisoned
        done.late_signals += late
        done.opened += opened
        done.unknown.update(signal.window for signal in signals if signal.window not in self._known)

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
                self._set_aside(record, reason)
                poisoned += 1 + lost
        return moments, poisoned

    def _set_aside(self, record: SignalRecord, reason: str) -> None:
        place = {"shard_id": record.shard_id, "sequence_number": str(record.sequence_number)}
        if self._failed is None:
            raise PoisonedRecordError(f"{reason}; name a queue in aws.failed_signals, and processing goes on by itself")
        self._failed.add(record, reason)
        self._logger.error("a record was set aside", extra={**place, "reason": reason})


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


class _State(NamedTuple):
    """What is saved: parts of signals that wait for the others, detectors, incidents; None before the first."""

    waiting: Mapping[str, object]
    detectors: Mapping[str, object] | None
    incidents: Mapping[str, object] | None

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        match state:
            case {"format": 1, "waiting": dict(waiting), "detectors": dict(detectors), "incidents": dict(incidents)}:
                return cls(waiting, detectors, incidents)
            case _:
                raise StateError(
                    "expected the state of detection in format 1; upgrade the function, or delete the item "
                    "DETECTION/HEAD: detectors then start afresh"
                )
