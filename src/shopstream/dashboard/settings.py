"""Settings of the web page."""

from pydantic import BaseModel, ConfigDict

__all__ = ["DashboardSettings"]


class DashboardSettings(BaseModel):
    """Settings of the web page."""

    model_config = ConfigDict(frozen=True, extra="forbid")
