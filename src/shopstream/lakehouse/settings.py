"""Settings of the Iceberg tables."""

from datetime import timedelta
from typing import Literal

from pydantic import Field

from shopstream.settings_section import SettingsSection


class LakehouseSettings(SettingsSection):
    """Settings of the Iceberg tables."""

    compression: Literal["zstd", "snappy", "none"] = Field(
        default="zstd",
        description="Codec of Parquet columns; event ids are random and stay uncompressed until compaction.",
    )
    target_file_bytes: int = Field(
        default=256 << 20, ge=1 << 20, description="Compaction merges smaller files of one day up to this size."
    )
    compaction_memory: int = Field(
        default=1 << 30, ge=128 << 20, description="Memory for sorting, in bytes; beyond it, temporary files are used."
    )
    keep_snapshots: int = Field(
        default=20, ge=1, description="Snapshots kept per table; commits expire older ones automatically."
    )
    orphan_age: timedelta = Field(
        default=timedelta(days=1),
        description="Files that no snapshot names are deleted only when older than this: a commit may be running.",
    )
    durable: bool = Field(
        default=True,
        description="Force each file to the disk before its commit, to survive a power cut, not only a crash.",
    )


class GlueSettings(SettingsSection):
    """Settings of the Iceberg tables in the Glue Data Catalog, and of Athena over them."""

    database: str = Field(
        default="shopstream", pattern=r"^[a-z0-9_]{1,255}$", description="Glue database of the tables and marts."
    )
    warehouse: str | None = Field(
        default=None, pattern=r"^s3://[^/]+(/.*)?$", description="Location of the tables, as s3://bucket/prefix."
    )
    workgroup: str = Field(
        default="shopstream", min_length=1, description="Athena workgroup; it limits what a query scans."
    )
