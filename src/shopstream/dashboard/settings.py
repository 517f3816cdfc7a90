"""Settings of the web page."""

from datetime import timedelta

from pydantic import Field

from shopstream.settings_section import PositiveDuration, SettingsSection


class DashboardSettings(SettingsSection):
    """Settings of the web page."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; beyond loopback with --allow-remote.")
    port: int = Field(default=8787, ge=0, le=65535, description="Port to listen on; 0 takes a free port.")
    names: tuple[str, ...] = Field(default=(), description="Further host names of the page, e.g. behind a proxy.")
    refresh: PositiveDuration = Field(
        default=timedelta(seconds=1), description="Interval of checking the data home for changes."
    )
    heartbeat: PositiveDuration = Field(default=timedelta(seconds=15), description="Longest silence on the live feed.")
