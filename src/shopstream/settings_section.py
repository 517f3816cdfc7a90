"""What all settings have in common: their model, and lengths of time."""

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveDuration = Annotated[timedelta, Field(gt=timedelta(0))]
Duration = Annotated[timedelta, Field(ge=timedelta(0))]


class SettingsSection(BaseModel):
    """A branch of the settings: frozen, and unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
