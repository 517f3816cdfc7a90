"""Alarms on the pipeline; they notify the operators' topic."""

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_sns as sns
from constructs import Construct

from shopstream_infra.alarms import Alarm
from shopstream_infra.config import StageConfig
from shopstream_infra.metrics import Metrics

__all__ = ["Monitoring"]

_OVER = cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD
_UNDER = cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD
_FINE = cloudwatch.TreatMissingData.NOT_BREACHING
_BAD = cloudwatch.TreatMissingData.BREACHING

_ENGINE = (Alarm.WORKER_DOWN, Alarm.ENGINE_LAG, Alarm.STREAM_BEHIND)
_DETECTION = (
    Alarm.DETECTION_BEHIND,
    Alarm.DETECTION_ERRORS,
    Alarm.DETECTION_THROTTLED,
    Alarm.DETECTION_SLOW,
    Alarm.TICKER_ERRORS,
)
_SLOW_SHARE = 0.8
"""Share of the detection function's time limit."""
_LATE_PERCENT = 5
_HOURS_LEFT_SHARE = 4
"""The alarm fires at a quarter of the stream's retention."""


class Monitoring(Construct):
    """Alarms by name; those that fail together notify once, through a composite alarm."""

    def __init__(
        self, scope: Construct, construct_id: str, *, config: StageConfig, metrics: Metrics, ops: sns.ITopic
    ) -> None:
        super().__init__(scope, construct_id)
        self._config, self._metrics = config, metrics
        self._notify = actions.SnsAction(ops)
        self.alarms: dict[Alarm, cloudwatch.AlarmBase] = {}
        self._engine()
        if config.detection == "lambda":
            self._functions()
            self._incidents()
        self._upkeep()
        if config.flink_code:
            self._flink()

    def _engine(self) -> None:
        config, metrics = self._config, self._metrics
        if not config.flink_code:
            self._alarm(
                Alarm.WORKER_DOWN,
                "No worker has reported for five minutes",
                metrics.worker("EventsRead", "SampleCount"),
                threshold=1,
                comparison=_UNDER,
                minutes=5,
                missing=_BAD,
            )
            self._alarm(
                Alarm.ENGINE_LAG,
                f"The engine is more than {config.lag_alarm_s} s behind the stream's tip",
                metrics.worker("BehindSeconds", "Maximum"),
                threshold=config.lag_alarm_s,
                minutes=5,
            )
        kept_ms = config.events_retention_hours * 3_600_000
        self._alarm(
            Alarm.STREAM_BEHIND,
            f"Events have been unread for a quarter of the stream's retention of {config.events_retention_hours} h",
            metrics.kinesis("events", "GetRecords.IteratorAgeMilliseconds", "Maximum"),
            threshold=kept_ms // _HOURS_LEFT_SHARE,
            minutes=5,
        )
        self._alarm(
            Alarm.DEAD_LETTERS,
            "Records arrived that cannot become events",
            metrics.worker("DeadLetters", "Sum", minutes=5),
            threshold=0,
        )
        self._alarm(
            Alarm.LATE_EVENTS,
            f"More than {_LATE_PERCENT} % of events came after their windows had closed",
            cloudwatch.MathExpression(
                expression="IF(read > 0, 100 * late / read, 0)",
                using_metrics={
                    "late": metrics.worker("LateEvents", "Sum", minutes=5),
                    "read": metrics.worker("EventsRead", "Sum", minutes=5),
                },
                label="late events, %",
                period=Duration.minutes(5),
            ),
            threshold=_LATE_PERCENT,
            minutes=3,
        )
        self._alarm(
            Alarm.SILENCE,
            f"The stream has received no event for {config.silence_alarm_min} minutes",
            metrics.kinesis("events", "IncomingRecords", "Sum", minutes=config.silence_alarm_min),
            threshold=1,
            comparison=_UNDER,
            missing=_BAD,
        )
        self._alarm(
            Alarm.STREAM_THROTTLED,
            "The events stream throttles writes",
            metrics.kinesis("events", "WriteProvisionedThroughputExceeded", "Sum"),
            threshold=0,
            minutes=5,
            of=3,
        )
        self._composite(Alarm.ENGINE_UNHEALTHY, "The engine is down or behind", _ENGINE)

    def _functions(self) -> None:
        config, metrics = self._config, self._metrics
        self._alarm(
            Alarm.DETECTION_BEHIND,
            f"Signals wait for more than {config.lag_alarm_s} s to be processed",
            metrics.function("detection", "IteratorAge", "Maximum"),
            threshold=config.lag_alarm_s * 1000,
            minutes=5,
        )
        self._alarm(
            Alarm.DETECTION_ERRORS,
            "The detection function fails repeatedly",
            metrics.function("detection", "Errors", "Sum"),
            threshold=0,
            minutes=5,
            of=2,
        )
        self._alarm(
            Alarm.DETECTION_THROTTLED,
            "The detection function is throttled",
            metrics.function("detection", "Throttles", "Sum"),
            threshold=0,
            minutes=5,
        )
        self._alarm(
            Alarm.DETECTION_SLOW,
            "The detection function is close to its time limit",
            metrics.function("detection", "Duration", "Maximum"),
            threshold=int(config.detection_timeout_s * 1000 * _SLOW_SHARE),
            minutes=5,
            of=3,
        )
        self._alarm(
            Alarm.TICKER_ERRORS,
            "The function that sends pending notifications and counts open incidents fails",
            metrics.function("ticker", "Errors", "Sum"),
            threshold=0,
            minutes=5,
            of=3,
        )
        self._alarm(
            Alarm.FAILED_SIGNALS,
            "Signals could not be processed and are in the queue of failed signals",
            metrics.failed_signals(),
            threshold=0,
        )
        self._composite(Alarm.DETECTION_UNHEALTHY, "Detection fails or is behind", _DETECTION)

    def _incidents(self) -> None:
        metrics = self._metrics
        self._alarm(
            Alarm.INCIDENT_CRITICAL,
            "A critical incident was opened",
            metrics.detection("IncidentsOpened", "Sum", severity="critical"),
            threshold=0,
        )
        self._alarm(
            Alarm.NOTIFICATIONS_FAILED,
            "Notifications could not be delivered",
            metrics.detection("NotificationsFailed", "Sum"),
            threshold=0,
        )

    def _upkeep(self) -> None:
        metrics = self._metrics
        self._alarm(
            Alarm.TABLE_THROTTLED,
            "A table throttles reads or writes",
            metrics.throttled_tables(),
            threshold=0,
            minutes=5,
            of=3,
        )

        self._alarm(
            Alarm.DELIVERY_STALE,
            "Detections wait in Firehose for more than 15 minutes",
            metrics.delivery_age(),
            threshold=900,
            minutes=5,
            of=3,
        )
        self._alarm(
            Alarm.TASK_FAILED,
            "A scheduled task (reports, upkeep) ended with an error",
            metrics.failed_tasks(),
            threshold=0,
        )
        self._alarm(
            Alarm.SCHEDULE_FAILED,
            "A scheduled task or function could not be started",
            metrics.dropped_schedules(),
            threshold=0,
        )

    def _flink(self) -> None:
        config, metrics = self._config, self._metrics
        self._alarm(
            Alarm.FLINK_DOWN,
            "The Flink job has not run for five minutes",
            metrics.flink("uptime", "Maximum"),
            threshold=1,
            comparison=_UNDER,
            minutes=5,
            missing=_BAD,
        )
        self._alarm(
            Alarm.FLINK_LAG,
            f"Readers of the events stream are more than {config.lag_alarm_s} s behind its tip",
            metrics.kinesis("events", "GetRecords.IteratorAgeMilliseconds", "Maximum"),
            threshold=config.lag_alarm_s * 1000,
            minutes=5,
        )
        self._alarm(
            Alarm.FLINK_CHECKPOINTS,
            "Checkpoints of the Flink job fail",
            metrics.flink("numberOfFailedCheckpoints", "Maximum", rate=True),
            threshold=0,
            minutes=5,
            of=3,
        )

    def _alarm(
        self,
        alarm: Alarm,
        what: str,
        metric: cloudwatch.IMetric,
        *,
        threshold: float,
        comparison: cloudwatch.ComparisonOperator = _OVER,
        minutes: int = 1,
        of: int | None = None,
        missing: cloudwatch.TreatMissingData = _FINE,
    ) -> None:
        """Fire when `of` (default all) of `minutes` periods cross the threshold."""
        made = cloudwatch.Alarm(
            self,
            _identifier(alarm),
            alarm_name=self._config.named(alarm),
            alarm_description=self._text(what, alarm),
            metric=metric,
            threshold=threshold,
            comparison_operator=comparison,
            evaluation_periods=minutes,
            datapoints_to_alarm=of or minutes,
            treat_missing_data=missing,
        )
        if alarm not in _ENGINE + _DETECTION:
            made.add_alarm_action(self._notify)
            made.add_ok_action(self._notify)
        self.alarms[alarm] = made

    def _composite(self, alarm: Alarm, what: str, parts: tuple[Alarm, ...]) -> None:
        made = cloudwatch.CompositeAlarm(
            self,
            _identifier(alarm),
            composite_alarm_name=self._config.named(alarm),
            alarm_description=self._text(what, alarm),
            alarm_rule=cloudwatch.AlarmRule.any_of(
                *(
                    cloudwatch.AlarmRule.from_alarm(self.alarms[part], cloudwatch.AlarmState.ALARM)
                    for part in parts
                    if part in self.alarms
                )
            ),
        )
        made.add_alarm_action(self._notify)
        made.add_ok_action(self._notify)
        self.alarms[alarm] = made

    def _text(self, what: str, alarm: Alarm) -> str:
        return f"{what}. Runbook: {self._config.runbooks}{alarm}.md"


def _identifier(alarm: Alarm) -> str:
    return "".join(word.capitalize() for word in alarm.split("-"))
