"""Puts the engine's process together."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from filelock import FileLock, Timeout

from shopstream.adapters.stores import (
    aws_extra,
    notification_targets,
    open_baselines,
    open_checkpoints,
    open_incidents,
    open_lakehouse,
    open_live,
    open_sender,
    open_stream,
)
from shopstream.clock import Clock, SystemClock
from shopstream.config import Settings
from shopstream.detection.allowlist import AllowList, load_allow_list
from shopstream.detection.detector_runner import DetectorRunner
from shopstream.detection.detectors.shipped import shipped_runner
from shopstream.detection.rule import Rule, load_rules
from shopstream.detection.runner import DetectionRunner, LocalDetectionRunner
from shopstream.engine.engine import Engine
from shopstream.engine.source import SourceReader
from shopstream.errors import RetryableError, RuleError
from shopstream.incidents.recorder import IncidentRecorder
from shopstream.journeys.live import LiveJourneys
from shopstream.notify.sender import BackgroundSender
from shopstream.pipeline import Pipeline, Progress

__all__ = ["open_pipeline", "watched"]

_READERS = 8
"""Shards read at once over a network, where each read is a wait."""


@dataclass(frozen=True, slots=True)
class _Detection:
    """What is looked for."""

    rules: dict[str, Rule]
    bank: DetectorRunner
    allow_list: AllowList


@contextmanager
def open_pipeline(
    settings: Settings,
    *,
    clock: Clock | None = None,
    with_lake: bool = True,
    with_journeys: bool = True,
    stop: Callable[[], bool] = lambda: False,
    standing_by: Callable[[str], None] = lambda _owner: None,
) -> Iterator[Pipeline]:
    """The whole flow over one data home, recovered to where it stopped.

    In the AWS profile one process at a time is the engine of a stream, wherever it runs: this waits until it is.

    Args:
        settings: the profile, and everything else.
        clock: processing time.
        with_lake: keep events in the lake.
        with_journeys: keep the live journeys.
        stop: asked while another engine is waited for; gives that up.
        standing_by: told the name of each engine that is waited for.

    Raises:
        RetryableError: another process runs this home's pipeline; or `stop` said so.
        StateError: checkpoint and lake do not belong together.
        RuleError: a rule file or an allow-list is wrong, or a rule has the name of a detector's window.
    """
    clock = clock or SystemClock()
    settings.home.mkdir(parents=True, exist_ok=True)
    detection = _detection(settings)
    with ExitStack() as stack:
        try:
            # The dashboard, too, takes the lock for a moment to see whether an engine runs.
            stack.enter_context(FileLock(settings.home / "engine.lock", timeout=0.3))
        except Timeout as error:
            raise RetryableError(
                f"another process runs the engine of {settings.home}; stop it first, or give this one another --home"
            ) from error
        guard = _only_engine(settings, clock, stop, standing_by, stack)
        stream = stack.enter_context(open_stream(settings, clock))
        runner, incidents = _runner(settings, clock, detection, stack)
        windows = [detection.allow_list.watch(rule.window_declaration(), rule.id) for rule in detection.rules.values()]
        windows += detection.bank.declarations
        engine = Engine(settings.engine, windows, clock, spill_path=settings.home / "spill")
        stack.enter_context(closing(engine.connection))
        detection.bank.attach(engine)
        readers = _READERS if settings.profile == "aws" else 1
        intake = stack.enter_context(
            closing(SourceReader(stream, engine.watermarks, settings.engine, clock, readers=readers))
        )
        live = stack.enter_context(closing(open_live(settings))) if with_journeys else None
        pipeline = Pipeline(
            intake=intake,
            consumers=stream,
            engine=engine,
            runner=runner,
            incidents=incidents,
            checkpoints=open_checkpoints(settings),
            lakehouse=stack.enter_context(closing(open_lakehouse(settings))) if with_lake else None,
            journeys=LiveJourneys(engine, live) if live else None,
            settings=settings.engine,
            clock=clock,
            guard=guard,
        )
        stack.callback(pipeline.close)
        yield pipeline


@contextmanager
def watched(settings: Settings, clock: Clock | None = None) -> Iterator[Callable[[Progress], None]]:
    """What to tell the engine's progress to, as long as the block lasts: in the AWS profile it becomes metrics."""
    if settings.profile != "aws" or not settings.aws.metrics:
        yield lambda _: None
        return
    with aws_extra():
        from shopstream.metrics import CloudWatchSink  # noqa: PLC0415  the embedded profile has no boto3
    from shopstream.metrics import WorkerMetrics  # noqa: PLC0415  only this profile needs it

    metrics = WorkerMetrics(CloudWatchSink(settings.aws.metrics, "worker"), clock or SystemClock())
    with closing(metrics):
        yield lambda where: metrics.observe(where.counters, where.behind_ms, where.watermark_ms)


def _detection(settings: Settings) -> _Detection:
    rules = {rule_id: rule for rule_id, rule in load_rules(settings.detection.rules_path).items() if rule.enabled}
    bank = shipped_runner(settings.detection, open_baselines(settings))
    if clash := rules.keys() & {declaration.name for declaration in bank.declarations}:
        raise RuleError(f"a detector's window has the name of a rule, {', '.join(sorted(clash))}; rename the rule")
    return _Detection(rules, bank, load_allow_list(settings.detection.allow_lists_path))


def _only_engine(
    settings: Settings,
    clock: Clock,
    stop: Callable[[], bool],
    standing_by: Callable[[str], None],
    stack: ExitStack,
) -> Callable[[], None]:
    """Wait until this process is the engine of the stream; returns what tells, before a commit, whether it still is."""
    if settings.profile != "aws":
        return lambda: None
    with aws_extra():
        from shopstream.adapters.aws import engine_lease  # noqa: PLC0415  the embedded profile has no boto3

    return stack.enter_context(engine_lease(settings, clock, stop, standing_by))


def _runner(
    settings: Settings, clock: Clock, detection: _Detection, stack: ExitStack
) -> tuple[DetectionRunner, IncidentRecorder | None]:
    """What takes the signals, and what records incidents where that is done here."""
    if settings.profile == "aws" and settings.aws.detection == "lambda":
        with aws_extra():
            from shopstream.adapters.aws import open_signals  # noqa: PLC0415  the embedded profile has no boto3
        from shopstream.detection.signal_publisher import SignalPublisher  # noqa: PLC0415  only this profile needs it

        return SignalPublisher(stack.enter_context(open_signals(settings, clock)), clock), None
    targets = notification_targets(settings)
    store = stack.enter_context(closing(open_incidents(settings, clock)))
    if targets:
        sender = BackgroundSender(lambda: open_sender(settings, clock))
        stack.callback(sender.stop)
        sender.start()
    runner = LocalDetectionRunner(detection.rules, detection.bank, detection.allow_list)
    return runner, IncidentRecorder(store, settings.alerting, clock, targets)
