"""Puts a function together from its settings: once in a process, when it starts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aws_lambda_powertools import Logger

from shopstream.clock import Clock
from shopstream.config import Settings
from shopstream.detection.allowlist import AllowList, load_allow_list
from shopstream.detection.baseline import Baselines
from shopstream.detection.detectors.shipped import shipped_runner
from shopstream.detection.rule_matcher import RuleInfo, read_rule_bundle
from shopstream.errors import ConfigurationError
from shopstream.incidents.aws import DetectorState, DynamoIncidentStore, SnsChannel
from shopstream.incidents.detection_runner import Judging
from shopstream.lambdas.aws import FirehoseDelivery, SqsFailedSignals, read_baselines
from shopstream.lambdas.signal_processor import Line
from shopstream.notify.sender import Sender, targets_of

__all__ = ["Incidents", "open_incidents", "open_line", "packed_rules"]

_HERE = Path(__file__).parent
"""Where a package has its rules and allow-lists; see `infra/package_lambda.py`."""


@dataclass(frozen=True, slots=True)
class Incidents:
    """The incidents, and who delivers what is to be told about them."""

    store: DynamoIncidentStore
    sender: Sender


def open_incidents(settings: Settings, clock: Clock) -> Incidents:
    """The incidents of the table; notifications go to the topic.

    Raises:
        ConfigurationError: addresses are set that a function cannot send to.
        RetryableError: the table cannot be read.
    """
    if settings.alerting.notify_urls:
        raise ConfigurationError(
            "expected no alerting.notify_urls in a function, got some; subscribe them to the SNS topic "
            "(aws.dynamodb.topic_arn)"
        )
    dynamo = settings.aws.dynamodb
    settings.home.mkdir(parents=True, exist_ok=True)
    targets = targets_of(settings.alerting, dynamo.topic_arn)
    store = DynamoIncidentStore(settings.alerting, dynamo, clock, targets, working_copy=settings.incidents_path)
    channels = [SnsChannel(dynamo.topic_arn)] if dynamo.topic_arn else []
    return Incidents(store, store.sender(channels))


def packed_rules() -> dict[str, RuleInfo]:
    """The rules of the package; without one, those that are shipped.

    Raises:
        RuleError: the package is damaged.
    """
    packed = _HERE / "rules.json"
    if packed.is_file():
        return dict(read_rule_bundle(packed.read_bytes(), packed.name))
    from shopstream.detection.rule import load_rules  # noqa: PLC0415  a package has no SQL parser

    return {rule_id: rule for rule_id, rule in load_rules().items() if rule.enabled}


def open_line(settings: Settings, clock: Clock, logger: Logger, incidents: Incidents) -> Line:
    """The line from signals to incidents.

    Raises:
        ConfigurationError: a setting does not fit.
        StateError: baselines are damaged.
    """
    rules, allow_list = packed_rules(), _allow_list()
    baselines = read_baselines(settings.aws.baselines) if settings.aws.baselines else None
    if settings.aws.baselines and baselines is None:
        logger.warning("no baselines yet: detectors learn as they go")
    build = _judge(rules, settings, baselines, allow_list, incidents)
    known = frozenset([*rules, *shipped_runner(settings.detection, baselines).reads])
    return Line(
        build=build,
        known=known,
        states=DetectorState(settings.aws.dynamodb, clock),
        delivery=FirehoseDelivery(settings.aws.delivery) if settings.aws.delivery else None,
        failed=SqsFailedSignals(settings.aws.failed_signals) if settings.aws.failed_signals else None,
        logger=logger,
    )


def _judge(
    rules: dict[str, RuleInfo],
    settings: Settings,
    baselines: Baselines | None,
    allow_list: AllowList,
    incidents: Incidents,
) -> Callable[[], Judging]:
    def build() -> Judging:
        return Judging(rules, shipped_runner(settings.detection, baselines), allow_list, incidents.store)

    return build


def _allow_list() -> AllowList:
    """That of the package."""
    folder = _HERE / "allow_lists"
    return load_allow_list(folder) if folder.is_dir() else AllowList()
