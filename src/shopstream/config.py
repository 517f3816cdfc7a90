"""All settings, in one frozen tree.

Later sources override earlier ones: defaults, `shopstream.toml` (in the working directory, or the file named by
SHOPSTREAM_CONFIG or `--config`), environment variables (`SHOPSTREAM_STREAM__SHARDS=8` sets `stream.shards`), flags.
`shopstream config` prints the result.
"""

import os
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from shopstream.dashboard.settings import DashboardSettings
from shopstream.detection.settings import DetectionSettings
from shopstream.engine.settings import EngineSettings
from shopstream.errors import ConfigurationError
from shopstream.incidents.settings import DynamoSettings, IncidentSettings, NotifySettings
from shopstream.lakehouse.settings import GlueSettings, LakehouseSettings
from shopstream.settings_section import SettingsSection
from shopstream.stream.settings import KinesisSettings, StreamSettings

_SECRETS = frozenset({"urls"})
"""Settings whose values messages never contain."""

_toml_file: ContextVar[Path | None] = ContextVar("toml_file", default=None)


class AwsSettings(SettingsSection):
    """AWS resources; account and region come from the usual AWS configuration."""

    kinesis: KinesisSettings = Field(default_factory=KinesisSettings, description="Kinesis Data Streams.")
    dynamodb: DynamoSettings = Field(default_factory=DynamoSettings, description="DynamoDB and SNS.")
    glue: GlueSettings = Field(default_factory=GlueSettings, description="S3, Glue Data Catalog and Athena.")
    checkpoints: str | None = Field(
        default=None,
        pattern=r"^s3://[^/]+(/.*)?$",
        description="Where the worker keeps its checkpoints, as s3://bucket/prefix; without it, in `home`.",
    )
    detection: Literal["lambda", "worker"] = Field(
        default="lambda",
        description="lambda: signals go to Kinesis and a function turns them into incidents; worker: the worker does.",
    )
    delivery: str | None = Field(
        default=None, description="Firehose delivery stream that final detections go to; without it, none."
    )
    failed_signals: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="URL of the SQS queue that takes records that are no signals; without it, Lambda does.",
    )
    baselines: str | None = Field(
        default=None,
        pattern=r"^s3://[^/]+/.+$",
        description="Where baselines lie, as s3://bucket/key of baselines.json; `shopstream baselines build` fills it.",
    )
    metrics: str | None = Field(
        default="shopstream", description="CloudWatch namespace of metrics; empty values switch them off."
    )


class Settings(BaseSettings):
    """The settings tree, one branch per stage."""

    model_config = SettingsConfigDict(
        env_prefix="SHOPSTREAM_", env_nested_delimiter="__", frozen=True, extra="forbid", validate_default=True
    )

    profile: Literal["embedded", "aws"] = Field(
        default="embedded", description="embedded: all in `home`, no server; aws: Kinesis, DynamoDB, S3, see `aws`."
    )
    home: Path = Field(default=Path(".shopstream"), description="Folder that holds all data of this installation.")
    timezone: str = Field(default="UTC", description="The shop's time zone (IANA name); reports use it.")
    stream: StreamSettings = Field(default_factory=StreamSettings, description="The embedded stream.")
    engine: EngineSettings = Field(default_factory=EngineSettings, description="Windows, watermarks and checkpoints.")
    lakehouse: LakehouseSettings = Field(default_factory=LakehouseSettings, description="The Iceberg tables.")
    detection: DetectionSettings = Field(default_factory=DetectionSettings, description="Rules.")
    incidents: IncidentSettings = Field(default_factory=IncidentSettings, description="Incidents.")
    notify: NotifySettings = Field(default_factory=NotifySettings, description="Notifications.")
    dashboard: DashboardSettings = Field(default_factory=DashboardSettings, description="The web page.")
    aws: AwsSettings = Field(default_factory=AwsSettings, description="Names and places of the AWS profile.")

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"expected an IANA time zone such as Europe/Berlin, got {name!r}") from error
        return name

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  the base class fixes the signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags over environment over file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=_toml_file.get())

    @property
    def stream_path(self) -> Path:
        """The embedded stream's file."""
        return self.home / "stream.db"

    @property
    def baselines_path(self) -> Path:
        """Baselines, written by `shopstream baselines build`."""
        return self.home / "baselines.json"

    @property
    def checkpoint_path(self) -> Path:
        """Positions and keyed state of the engine."""
        return self.home / "checkpoint"

    @property
    def lake_path(self) -> Path:
        """Iceberg warehouse and catalog."""
        return self.home / "lake"

    @property
    def incidents_path(self) -> Path:
        """Incidents, detections and notifications to send."""
        return self.home / "incidents.db"

    @property
    def live_path(self) -> Path:
        """Live journeys, as the dashboard reads them."""
        return self.home / "live.json"

    @property
    def reports_path(self) -> Path:
        """The marts, built by dbt."""
        return self.home / "reports.duckdb"


def load_settings(config: Path | None = None, flags: Mapping[str, object] | None = None) -> Settings:
    """Settings from all sources.

    Args:
        config: TOML file; None takes SHOPSTREAM_CONFIG, else `shopstream.toml` where there is one.
        flags: values given on the command line, as a nested mapping.

    Raises:
        ConfigurationError: the file is missing, or a value is invalid (the message names setting, value and remedy).
    """
    named = config or (Path(os.environ["SHOPSTREAM_CONFIG"]) if os.environ.get("SHOPSTREAM_CONFIG") else None)
    if named is not None and not named.is_file():
        raise ConfigurationError(f"expected a settings file at {named}, found none; create it or drop --config")
    sections = {f"SHOPSTREAM_{name.upper()}" for name in Settings.model_fields}
    unknown = sorted(
        name
        for name in os.environ
        if name.upper().startswith("SHOPSTREAM_") and "__" in name and name.upper().partition("__")[0] not in sections
    )
    if unknown:
        raise ConfigurationError(f"no such settings: {', '.join(unknown)}; see `shopstream config` for all variables")
    token = _toml_file.set(named or Path("shopstream.toml"))
    try:
        return Settings(**dict(flags or {}))  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, item['loc']))} = {_shown(item)}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        ]
        raise ConfigurationError(
            "settings do not fit: " + "; ".join(lines) + "; see `shopstream config --help`"
        ) from error
    except ValueError as error:  # a TOML syntax error
        raise ConfigurationError(f"{named or 'shopstream.toml'} cannot be read as TOML: {error}") from error
    finally:
        _toml_file.reset(token)


def _shown(item: Mapping[str, Any]) -> str:
    """The invalid value, unless it may contain a token."""
    return "(secret)" if _SECRETS.intersection(item["loc"]) else repr(item.get("input"))
