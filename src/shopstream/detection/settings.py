"""Settings of rules."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["DetectionSettings"]


class DetectionSettings(BaseModel):
    """Settings of rules."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules_path: Path | None = Field(
        default=None,
        description="Folder of your own rules (*.yml); one with the id of a shipped rule replaces it.",
    )
