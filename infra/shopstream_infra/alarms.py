"""The names of all alarms; each has a page in docs/runbooks."""

from enum import StrEnum

__all__ = ["Alarm"]


class Alarm(StrEnum):
    """An alarm's name is also that of its runbook: docs/runbooks/NAME.md."""

    # The engine
    ENGINE_UNHEALTHY = "engine-unhealthy"  # composite: one message for the three below
    ENGINE_LAG = "engine-lag"
    WORKER_DOWN = "worker-down"
    STREAM_BEHIND = "stream-behind"
    DEAD_LETTERS = "dead-letters"
    LATE_EVENTS = "late-events"
    SILENCE = "silence"
    STREAM_THROTTLED = "stream-throttled"

    # Detection
    DETECTION_UNHEALTHY = "detection-unhealthy"  # composite: one message for the five below
    DETECTION_BEHIND = "detection-behind"
    DETECTION_ERRORS = "detection-errors"
    DETECTION_THROTTLED = "detection-throttled"
    DETECTION_SLOW = "detection-slow"
    TICKER_ERRORS = "ticker-errors"
    FAILED_SIGNALS = "failed-signals"
    NOTIFICATIONS_FAILED = "notifications-failed"
    INCIDENT_CRITICAL = "incident-critical"
    TABLE_THROTTLED = "table-throttled"

    # Lake and reports
    DELIVERY_STALE = "delivery-stale"
    TASK_FAILED = "task-failed"
    SCHEDULE_FAILED = "schedule-failed"

    # Flink, where it runs
    FLINK_DOWN = "flink-down"
    FLINK_LAG = "flink-lag"
    FLINK_CHECKPOINTS = "flink-checkpoints"

    @property
    def runbook(self) -> str:
        """Path of its page in the repository."""
        return f"docs/runbooks/{self.value}.md"
