"""Builds the parts of a function from its settings, once in a process, and publishes its metrics.

Metrics are log lines in the embedded metric format. Dimensions are `Service` and, of opened incidents, `Severity`:
their number does not grow with traffic.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

from shopstream.clock import Clock
from shopstream.config import Settings
from shopstream.detection.allowlist import AllowList, load_allow_list
from shopstream.detection.detectors.shipped import shipped_runner
from shopstream.detection.rule_matcher import Rules, read_rule_bundle
from shopstream.detection.runner import LocalDetectionRunner
from shopstream.errors import ConfigurationError
from shopstream.incidents.aws import DynamoIncidentStore
from shopstream.incidents.recorder import IncidentRecorder
from shopstream.lambdas.aws import FirehoseSink, SqsFailedSignals, read_baselines
from shopstream.lambdas.signal_processor import SignalProcessor
from shopstream.lambdas.state import DetectionState
from shopstream.notify.aws import SnsChannel
from shopstream.notify.sender import Sender, targets_of

_HERE = Path(__file__).parent
"""Where a package has its rules and allow-lists; see `infra/package_lambda.py`."""


def open_store(settings: Settings, clock: Clock) -> DynamoIncidentStore:
    """The incidents of the table."""
    return DynamoIncidentStore(settings.aws.dynamodb, settings.incidents.retention, clock)


def open_sender(settings: Settings, clock: Clock, store: DynamoIncidentStore) -> Sender:
    """Sends notifications to the topic.

    Raises:
        ConfigurationError: addresses are set that a function cannot send to.
    """
    if settings.notify.urls:
        raise ConfigurationError(
            "expected no notify.urls in a function, got some; subscribe them to the SNS topic (aws.dynamodb.topic_arn)"
        )
    topic = settings.aws.dynamodb.topic_arn
    return Sender(store, [SnsChannel(topic)] if topic else [], settings.notify, clock)


def packed_rules() -> Rules:
    """The rules of the package; without one, those that are shipped.

    Raises:
        RuleError: the package is damaged.
    """
    packed = _HERE / "rules.json"
    if packed.is_file():
        return read_rule_bundle(packed.read_bytes(), packed.name)
    from shopstream.detection.rule import load_rules  # noqa: PLC0415  a package has no SQL parser

    return {rule_id: rule for rule_id, rule in load_rules().items() if rule.enabled}


def open_processor(settings: Settings, clock: Clock, logger: Logger, store: DynamoIncidentStore) -> SignalProcessor:
    """What turns signals into incidents.

    Raises:
        ConfigurationError: a setting does not fit.
        StateError: baselines are damaged.
    """
    rules, allow_list = packed_rules(), _allow_list()
    baselines = read_baselines(settings.aws.baselines) if settings.aws.baselines else None
    if settings.aws.baselines and baselines is None:
        logger.warning("no baselines yet: detectors learn as they go")
    targets = targets_of(settings.notify, settings.aws.dynamodb.topic_arn)
    return SignalProcessor(
        runner=lambda: LocalDetectionRunner(rules, shipped_runner(settings.detection, baselines), allow_list),
        recorder=lambda: IncidentRecorder(store, settings.incidents, settings.notify, clock, targets),
        known=frozenset([*rules, *shipped_runner(settings.detection, baselines).reads]),
        states=DetectionState(settings.aws.dynamodb, clock),
        sink=FirehoseSink(settings.aws.delivery) if settings.aws.delivery else None,
        failed=SqsFailedSignals(settings.aws.failed_signals) if settings.aws.failed_signals else None,
        logger=logger,
    )


def _allow_list() -> AllowList:
    """That of the package."""
    folder = _HERE / "allow_lists"
    return load_allow_list(folder) if folder.is_dir() else AllowList()


_SERVICE: Final = "detection"


class Metrics:
    """Metrics of both functions, which are one service.

    Args:
        namespace: of CloudWatch; None publishes no metrics.
    """

    def __init__(self, namespace: str | None) -> None:
        self._namespace = namespace
        self._cold = True

    def cold_start(self) -> int:
        """1 in the first call of this process, then 0."""
        cold, self._cold = self._cold, False
        return int(cold)

    def publish(self, figures: Mapping[str, float], dimensions: Mapping[str, str] | None = None) -> None:
        """Print figures; names that end in Seconds are seconds, all others counts.

        Args:
            figures: metric → value of this call.
            dimensions: beside `Service`.
        """
        if not self._namespace:
            return
        # An empty service: the library would add a dimension of its own.
        provider = AmazonCloudWatchEMFProvider(namespace=self._namespace, service="")
        for dimension, word in {"Service": _SERVICE, **(dimensions or {})}.items():
            provider.add_dimension(dimension, word)
        for name, value in figures.items():
            provider.add_metric(name, "Seconds" if name.endswith("Seconds") else "Count", value)
        provider.flush_metrics()
