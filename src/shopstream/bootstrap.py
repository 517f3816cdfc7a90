"""Chooses the adapters and puts the stages together; nothing else knows which adapter it talks to."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from shopstream.alerting.embedded import EmbeddedIncidentStore
from shopstream.alerting.judging import Judging
from shopstream.alerting.notify import BackgroundSender, Sender, targets_of
from shopstream.alerting.ports import IncidentStore
from shopstream.clock import Clock, SystemClock
from shopstream.config import Settings
from shopstream.detection import load_allow_list, load_rules
from shopstream.detection.baseline import Baselines
from shopstream.detection.detectors import shipped_bank
from shopstream.engine.checkpoint import CheckpointStore
from shopstream.engine.engine import Engine
from shopstream.engine.intake import Intake
from shopstream.errors import RetryableError, RuleError
from shopstream.journeys.embedded import EmbeddedLiveStore
from shopstream.journeys.live import LiveJourneys
from shopstream.journeys.ports import LiveStore
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.pipeline import Pipeline
from shopstream.stream.embedded import EmbeddedStream

__all__ = [
    "has_lake",
    "incidents_file",
    "open_checkpoints",
    "open_incidents",
    "open_lakehouse",
    "open_live",
    "open_pipeline",
    "open_sender",
    "open_stream",
]


def open_stream(settings: Settings, clock: Clock | None = None) -> EmbeddedStream:
    """The stream; made where there is none. Close it."""
    settings.home.mkdir(parents=True, exist_ok=True)
    return EmbeddedStream.open(settings.stream_path, settings.stream, clock or SystemClock())


def open_lakehouse(settings: Settings) -> EmbeddedLakehouse:
    """The lakehouse; made where there is none. Close it."""
    return EmbeddedLakehouse(settings.lake_path, settings.lakehouse)


def has_lake(settings: Settings) -> bool:
    """Whether there is a lake to read; opening it would make one."""
    return settings.lake_path.exists()


def open_incidents(settings: Settings, clock: Clock | None = None) -> IncidentStore:
    """The incidents, to add to them; made where there are none. Close it."""
    settings.home.mkdir(parents=True, exist_ok=True)
    return EmbeddedIncidentStore(
        settings.incidents_path, settings.alerting, clock or SystemClock(), targets_of(settings.alerting)
    )


def incidents_file(settings: Settings) -> Path:
    """The SQLite file that readers of incidents, verdicts and notifications take, as of now; may not exist yet."""
    return settings.incidents_path


def open_live(settings: Settings) -> LiveStore:
    """The live journeys."""
    return EmbeddedLiveStore(settings.live_path)


def open_checkpoints(settings: Settings) -> CheckpointStore:
    """The engine's checkpoints."""
    return CheckpointStore(settings.checkpoint_path)


def open_sender(settings: Settings, clock: Clock) -> Sender:
    """Delivers notifications to the addresses of the settings.

    Raises:
        ConfigurationError: an address is none that can be sent to.
    """
    from shopstream.alerting.channel import open_channels  # noqa: PLC0415  Apprise takes seconds to load

    channels = open_channels(settings.alerting.notify_urls, targets_of(settings.alerting))
    return Sender(settings.incidents_path, channels, settings.alerting, clock)


@contextmanager
def open_pipeline(
    settings: Settings, *, clock: Clock | None = None, with_lake: bool = True, with_journeys: bool = True
) -> Iterator[Pipeline]:
    """The whole flow over one data home, recovered to where it stopped.

    Raises:
        RetryableError: another process runs this home's pipeline.
        StateError: checkpoint and lake do not belong together.
        RuleError: a rule file or an allow-list is wrong, or a rule has the name of a detector's window.
    """
    clock = clock or SystemClock()
    settings.home.mkdir(parents=True, exist_ok=True)
    rules = {rule_id: rule for rule_id, rule in load_rules(settings.detection.rules_path).items() if rule.enabled}
    allow_list = load_allow_list(settings.detection.allow_lists_path)
    with ExitStack() as stack:
        try:
            # The dashboard, too, takes the lock for a moment to see whether an engine runs.
            stack.enter_context(FileLock(settings.home / "engine.lock", timeout=0.3))
        except Timeout as error:
            raise RetryableError(
                f"another process runs the engine of {settings.home}; stop it first, or give this one another --home"
            ) from error
        stream = stack.enter_context(open_stream(settings, clock))
        targets = targets_of(settings.alerting)
        incidents = stack.enter_context(
            closing(EmbeddedIncidentStore(settings.incidents_path, settings.alerting, clock, targets))
        )
        if targets:
            sender = BackgroundSender(lambda: open_sender(settings, clock))
            stack.callback(sender.stop)
            sender.start()
        windows = [allow_list.watch(rule.window_declaration(), rule.id) for rule in rules.values()]
        bank = shipped_bank(settings.detection, Baselines.load(settings.baselines_path))
        if clash := rules.keys() & {declaration.name for declaration in bank.declarations}:
            raise RuleError(f"a detector's window has the name of a rule, {', '.join(sorted(clash))}; rename the rule")
        windows += bank.declarations
        engine = Engine(settings.engine, windows, clock, spill_path=settings.home / "spill")
        stack.enter_context(closing(engine.connection))
        bank.attach(engine)
        intake = stack.enter_context(closing(Intake(stream, engine.watermarks, settings.engine, clock)))
        pipeline = Pipeline(
            intake=intake,
            consumers=stream,
            engine=engine,
            judges=Judging(rules, bank, allow_list, incidents),
            incidents=incidents,
            checkpoints=CheckpointStore(settings.checkpoint_path),
            lakehouse=stack.enter_context(closing(open_lakehouse(settings))) if with_lake else None,
            journeys=LiveJourneys(engine, EmbeddedLiveStore(settings.live_path)) if with_journeys else None,
            settings=settings.engine,
            clock=clock,
        )
        stack.callback(pipeline.close)
        yield pipeline
