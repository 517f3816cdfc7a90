"""Settings of incidents and notifications."""

from pydantic import BaseModel, ConfigDict

__all__ = ["AlertingSettings"]


class AlertingSettings(BaseModel):
    """Settings of incidents and notifications."""

    model_config = ConfigDict(frozen=True, extra="forbid")
