"""From signals to detections: rules, detectors and allow-lists, in the engine's process or in a function.

`LocalDetectionRunner` detects in this process; `SignalPublisher` puts signals into a stream of one shard, for detection
elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from shopstream.clock import Clock
from shopstream.detection.allowlist import AllowList
from shopstream.detection.detection import Detection
from shopstream.detection.detector import BIN_MS
from shopstream.detection.detector_runner import DetectorRunner
from shopstream.detection.rule_matcher import Rules, detect
from shopstream.engine.signals import Quiet, Signal, encode_signals
from shopstream.errors import BackpressureError, RetryableError
from shopstream.stream.ports import NewRecord, StreamWriter


@dataclass(frozen=True, slots=True)
class DetectionResult:
    """What came of signals.

    Args:
        detections: final and provisional ones; those that an allow-list covers are marked as such.
        late_signals: those that came after their bin had been handed to the detectors.
    """

    detections: Sequence[Detection] = ()
    late_signals: int = 0

    @property
    def final(self) -> list[Detection]:
        """Detections on windows that are whole."""
        return [detection for detection in self.detections if detection.final]


class DetectionRunner(Protocol):
    """Takes an engine's signals."""

    def run(self, signals: Sequence[Signal], until_ms: int, quiet: Quiet | None = None) -> DetectionResult:
        """Signals of one moment, in the engine's order.

        Args:
            signals: all since the call before.
            until_ms: event time up to which all signals have come; never goes back.
            quiet: how far the clock has gone on without events; None where some come.
        """
        ...

    def snapshot(self) -> Mapping[str, object] | None:
        """State that belongs into the engine's checkpoint, JSON-ready; None where it is kept elsewhere."""
        ...

    def restore(self, state: Mapping[str, object]) -> list[str]:
        """Go on from a snapshot; returns what starts afresh."""
        ...


class LocalDetectionRunner:
    """A DetectionRunner here and now. The same signals again, after a crash, give the same detections.

    Args:
        rules: rule id → rule, those that are switched on.
        detectors: all detectors, run per bin.
        allow_list: marks what it covers.
    """

    def __init__(self, rules: Rules, detectors: DetectorRunner, allow_list: AllowList) -> None:
        self._rules = rules
        self._detectors = detectors
        self._allow_list = allow_list

    def run(self, signals: Sequence[Signal], until_ms: int, quiet: Quiet | None = None) -> DetectionResult:
        """See `DetectionRunner.run`."""
        late = self._detectors.late_signals
        found = [*detect(signals, self._rules), *self._detectors.advance(signals, until_ms, quiet)]
        return DetectionResult(self._allow_list.mark(found), self._detectors.late_signals - late)

    def snapshot(self) -> dict[str, object]:
        """The detectors' state."""
        return self._detectors.snapshot()

    def restore(self, state: Mapping[str, object]) -> list[str]:
        """Ids of detectors that start afresh.

        Raises:
            StateError: it is no such state.
        """
        return self._detectors.restore(state)


_PARTITION_KEY: Final = "signals"
_PATIENCE: Final = timedelta(minutes=2)
_wait = wait_exponential(multiplier=0.1, max=10)


class SignalPublisher:
    """See `runner.DetectionRunner`: signals are in the stream when `run` returns, at least once and in order.

    After a crash the engine publishes all signals since its checkpoint again; the detectors ignore what they had.

    Args:
        writer: a stream whose records all reach one shard.
        clock: lets the waiting time pass.
    """

    def __init__(self, writer: StreamWriter, clock: Clock) -> None:
        self._writer = writer
        self._sent: tuple[int, int] | None = None
        self._retrying = Retrying(
            retry=retry_if_exception_type(RetryableError),
            wait=_pause,
            stop=stop_after_delay(_PATIENCE.total_seconds()),
            sleep=lambda seconds: clock.sleep(timedelta(seconds=seconds)),
            reraise=True,
        )

    def run(self, signals: Sequence[Signal], until_ms: int, quiet: Quiet | None = None) -> DetectionResult:
        """Put them into the stream. Without signals, only each whole bin of event time is worth a record.

        Raises:
            RetryableError: the stream did not take them for two minutes.
        """
        bins = until_ms // BIN_MS, quiet.until_ms // BIN_MS if quiet else 0
        if not signals and bins == self._sent:
            return DetectionResult()
        for payload in encode_signals(signals, until_ms, quiet):
            # One at a time: a put of several keeps no order when a part of it is refused.
            self._retrying(self._put, NewRecord(payload, _PARTITION_KEY))
        self._sent = bins
        return DetectionResult()

    def _put(self, record: NewRecord) -> None:
        (outcome,) = self._writer.put([record])
        if outcome.error_code is not None:
            raise RetryableError(f"the stream of signals refused a record: {outcome.error_code}")

    def snapshot(self) -> None:
        """Nothing: what it published last is published again."""
        return

    def restore(self, state: Mapping[str, object]) -> list[str]:  # noqa: ARG002  a checkpoint of a worker that ran detection itself
        """The state of detectors stays in the checkpoint: they start afresh where detection runs now."""
        return []


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return error.retry_after.total_seconds() if isinstance(error, BackpressureError) else float(_wait(state))
