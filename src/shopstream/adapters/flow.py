"""Assembles the engine's process from the adapters of the profile."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from filelock import FileLock, Timeout

from shopstream.adapters.ports import Adapters, adapters_of
from shopstream.clock import Clock, SystemClock
from shopstream.config import Settings
from shopstream.detection.allowlist import AllowList, load_allow_list
from shopstream.detection.detector_runner import DetectorRunner
from shopstream.detection.detectors.shipped import shipped_runner
from shopstream.detection.rule import Rule, load_rules
from shopstream.detection.runner import DetectionRunner, LocalDetectionRunner, SignalPublisher
from shopstream.engine.engine import Engine
from shopstream.engine.source import SourceReader
from shopstream.errors import RetryableError, RuleError
from shopstream.incidents.recorder import IncidentRecorder
from shopstream.journeys.live import LiveJourneys
from shopstream.notify.sender import BackgroundSender
from shopstream.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class _Detection:
    """Rules, detectors and what they ignore."""

    rules: dict[str, Rule]
    detectors: DetectorRunner
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
    """The whole pipeline over one data home, resumed from its last checkpoint.

    In the AWS profile only one process at a time is the engine of a stream; this waits to become it.

    Args:
        settings: the profile, and everything else.
        clock: processing time.
        with_lake: store events in the lake.
        with_journeys: update the live journeys.
        stop: checked while waiting for another engine; true gives up.
        standing_by: gets the name of each engine that is waited for.

    Raises:
        RetryableError: another process runs this home's pipeline; or `stop` returned true.
        StateError: checkpoint and lake do not belong together.
        RuleError: a rule file or an allow-list is invalid, or a rule has the name of a detector's window.
    """
    clock = clock or SystemClock()
    settings.home.mkdir(parents=True, exist_ok=True)
    adapters = adapters_of(settings, clock)
    detection = _detection(adapters)
    with ExitStack() as stack:
        try:
            # The dashboard, too, takes the lock for a moment to see whether an engine runs.
            stack.enter_context(FileLock(settings.home / "engine.lock", timeout=0.3))
        except Timeout as error:
            raise RetryableError(
                f"another process runs the engine of {settings.home}; stop it first, or give this one another --home"
            ) from error
        guard = stack.enter_context(adapters.leadership(stop, standing_by))
        stream = stack.enter_context(adapters.open_stream())
        runner, incidents = _runner(adapters, detection, stack)
        windows = [detection.allow_list.watch(rule.window_declaration(), rule.id) for rule in detection.rules.values()]
        windows += detection.detectors.declarations
        engine = Engine(settings.engine, windows, spill_path=settings.home / "spill")
        stack.enter_context(closing(engine.connection))
        detection.detectors.attach(engine)
        source = stack.enter_context(
            closing(SourceReader(stream, engine.watermarks, settings.engine, clock, readers=adapters.readers))
        )
        live = stack.enter_context(closing(adapters.open_live())) if with_journeys else None
        pipeline = Pipeline(
            source=source,
            consumers=stream,
            engine=engine,
            runner=runner,
            incidents=incidents,
            checkpoints=adapters.open_checkpoints(),
            lakehouse=stack.enter_context(closing(adapters.open_lakehouse())) if with_lake else None,
            journeys=LiveJourneys(engine, live) if live else None,
            settings=settings.engine,
            clock=clock,
            guard=guard,
        )
        stack.callback(pipeline.close)
        yield pipeline


def _detection(adapters: Adapters) -> _Detection:
    settings = adapters.settings
    rules = {rule_id: rule for rule_id, rule in load_rules(settings.detection.rules_path).items() if rule.enabled}
    detectors = shipped_runner(settings.detection, adapters.load_baselines())
    if clash := rules.keys() & {declaration.name for declaration in detectors.declarations}:
        raise RuleError(f"a detector's window has the name of a rule, {', '.join(sorted(clash))}; rename the rule")
    return _Detection(rules, detectors, load_allow_list(settings.detection.allow_lists_path))


def _runner(
    adapters: Adapters, detection: _Detection, stack: ExitStack
) -> tuple[DetectionRunner, IncidentRecorder | None]:
    """What consumes the signals, and what records incidents if this process does."""
    signals = adapters.open_signals()
    if signals is not None:
        return SignalPublisher(stack.enter_context(signals), adapters.clock), None
    store = stack.enter_context(closing(adapters.open_incidents()))
    targets = adapters.notification_targets()
    if targets:
        sender = BackgroundSender(adapters.open_sender)
        stack.callback(sender.stop)
        sender.start()
    runner = LocalDetectionRunner(detection.rules, detection.detectors, detection.allow_list)
    return runner, IncidentRecorder(
        store, adapters.settings.incidents, adapters.settings.notify, adapters.clock, targets
    )
