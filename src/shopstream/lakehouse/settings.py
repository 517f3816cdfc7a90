"""Settings of the Iceberg tables."""

from pydantic import BaseModel, ConfigDict

__all__ = ["LakehouseSettings"]


class LakehouseSettings(BaseModel):
    """Settings of the Iceberg tables."""

    model_config = ConfigDict(frozen=True, extra="forbid")
