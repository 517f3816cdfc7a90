"""Settings of rules and detectors."""

from pathlib import Path

from pydantic import Field

from shopstream.settings_section import SettingsSection


class DetectionSettings(SettingsSection):
    """Settings of rules and detectors."""

    rules_path: Path | None = Field(
        default=None,
        description="Folder of your own rules (*.yml); a rule with the id of a shipped one replaces it.",
    )
    allow_lists_path: Path | None = Field(
        default=None,
        description="Folder of allow-lists (*.yml): verified crawlers, staff, partners and planned sales.",
    )
    detectors_off: tuple[str, ...] = Field(
        default=(),
        description="Ids of shipped detectors to turn off, e.g. `burst`; `docs/detection.md` lists them.",
    )
