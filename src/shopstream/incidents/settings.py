"""Settings of incidents, of notifications, and of their table on AWS."""

from datetime import timedelta

from pydantic import ConfigDict, Field, SecretStr, field_validator

from shopstream.detection.detection import Severity
from shopstream.settings_section import Duration, PositiveDuration, SettingsSection


class IncidentSettings(SettingsSection):
    """Settings of incidents."""

    retention: timedelta = Field(
        default=timedelta(days=90),
        ge=timedelta(hours=1),
        description="Closed incidents are deleted this long (event time) after their last window.",
    )
    campaign_actors: int = Field(
        default=5, ge=2, description="Minimum number of actors with one signature (rule or label) that form a campaign."
    )
    campaign_within: Duration = Field(
        default=timedelta(minutes=10),
        description="Each actor of a campaign is detected at most this long (event time) after the one before.",
    )
    recovery: Duration = Field(
        default=timedelta(minutes=30),
        description="For this long (event time) after a silence, traffic above normal is recovery, not a flood.",
    )
    blocklist_genuine_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Blocklists leave out actors of whose events more than this share is estimated to be genuine.",
    )


class NotifySettings(SettingsSection):
    """Settings of notifications."""

    model_config = ConfigDict(hide_input_in_errors=True)

    urls: tuple[SecretStr, ...] = Field(
        default=(),
        description="Where notifications go, as Apprise addresses (json://…, slack://…, mailto://…). Secret.",
    )
    severity: Severity = Field(
        default=Severity.HIGH, description="The lowest severity of an incident that sends a notification."
    )
    closed: bool = Field(default=False, description="Notify also when an incident closes, with its summary.")
    keys: bool = Field(
        default=False,
        description="Put the user, address or session into notifications; they are personal data.",
    )
    hold: Duration = Field(
        default=timedelta(minutes=1),
        description="Notifications below critical wait this long after the detection, so that a campaign sends one.",
    )
    interval: Duration = Field(
        default=timedelta(seconds=10),
        description="At most one message per address in this time; what gathers meanwhile goes out as one digest.",
    )
    attempts: int = Field(
        default=20, ge=1, description="Attempts to deliver a notification before it is given up as failed."
    )
    backoff_max: PositiveDuration = Field(
        default=timedelta(minutes=15), description="The longest wait between two attempts."
    )

    @field_validator("urls", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class DynamoSettings(SettingsSection):
    """Settings of incidents on DynamoDB and notifications through SNS."""

    table: str = Field(
        default="shopstream", min_length=1, description="The table of incidents, verdicts and detection state."
    )
    topic_arn: str | None = Field(default=None, description="SNS topic that notifications go to, beside `notify.urls`.")
