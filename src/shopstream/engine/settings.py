"""Settings of windows, watermarks and checkpoints."""

from pydantic import BaseModel, ConfigDict

__all__ = ["EngineSettings"]


class EngineSettings(BaseModel):
    """Settings of windows, watermarks and checkpoints."""

    model_config = ConfigDict(frozen=True, extra="forbid")
