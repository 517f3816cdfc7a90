"""The Iceberg tables, derived from the declarations of their fields, and their views in DuckDB.

`events` is partitioned by day of `event_time`; the two others are small and have one partition.
Columns get Iceberg field ids in order of declaration, from 1; a new field goes to the end of its declaration.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import duckdb
import pyarrow as pa
from fsspec import AbstractFileSystem
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.name_mapping import create_mapping_from_schema
from pyiceberg.transforms import DayTransform
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DecimalType,
    IcebergType,
    LongType,
    NestedField,
    StringType,
    TimestamptzType,
)

from shopstream.detection.detection import Detection, detection_row
from shopstream.events.schema import DEAD_LETTER_FIELDS, LAKE_FIELDS, Field, arrow_schema
from shopstream.lakehouse.ports import LakeReader, LakeTable

NAMESPACE = "shop"

_TIME = pa.timestamp("us", "UTC")

DETECTION_FIELDS: tuple[Field, ...] = (
    Field("detection_id", "VARCHAR", True, "Derived from rule, key and window; the latest row counts."),
    Field("rule_id", "VARCHAR", True, "The rule."),
    Field("rule_version", "VARCHAR", True, "Digest of the rule file's content."),
    Field("title", "VARCHAR", True, "What was found, with figures."),
    Field("severity", "VARCHAR", True, "informational, low, medium, high or critical."),
    Field("tags", "VARCHAR", True, "The rule's tags: a JSON array of text."),
    Field("key_kind", "VARCHAR", True, "`site`, or the key columns joined by `+`, e.g. `user_id`."),
    Field("key", "VARCHAR", True, "Key column to value as text: a JSON object, empty for the site."),
    Field("start_time", "TIMESTAMPTZ", True, "Start of the window, UTC."),
    Field("end_time", "TIMESTAMPTZ", True, "End of the window (not part of it), UTC."),
    Field("first_event_time", "TIMESTAMPTZ", True, "First event inside the window, UTC."),
    Field("last_event_time", "TIMESTAMPTZ", True, "Last event inside the window, UTC."),
    Field("measures", "VARCHAR", True, "Measure to observed value: a JSON object."),
    Field("threshold", "VARCHAR", True, "The rule's condition, as text."),
    Field("final", "BOOLEAN", True, "False while the window was open: a later row with the id replaces it."),
    Field("suppress_for_ms", "BIGINT", True, "Event time without detections that closes the incident."),
    Field("allowed_by", "VARCHAR", False, "Allow-list entry that suppressed it."),
    Field("allowed_reason", "VARCHAR", False, "That entry's reason."),
)
"""Columns of the lakehouse table `detections`: `detection.Detection` with times for `_ms` and JSON for collections."""


@dataclass(frozen=True, slots=True)
class TableDeclaration:
    """One table of the lakehouse.

    Args:
        table: its name.
        fields: its columns, in order; field ids count from 1.
        doc: one sentence that ends with the grain.
        day_of: the time column whose UTC day partitions it; None: one partition.
        sort_by: order of rows inside a compacted file.
        bounds: columns whose minimum and maximum are in the manifests, so that readers skip files.
    """

    table: LakeTable
    fields: tuple[Field, ...]
    doc: str
    day_of: str | None
    sort_by: tuple[str, ...]
    bounds: tuple[str, ...]

    def schema(self) -> Schema:
        """The Iceberg schema."""
        return Schema(
            *(
                NestedField(
                    number, field.name, _iceberg_type(field.arrow), required=self.required(field), doc=field.doc
                )
                for number, field in enumerate(self.fields, start=1)
            )
        )

    def arrow(self) -> pa.Schema:
        """The Arrow schema of its Parquet files, with Iceberg field ids."""
        return pa.schema(
            [
                pa.field(
                    field.name,
                    field.arrow,
                    nullable=not self.required(field),
                    metadata={b"PARQUET:field_id": str(number).encode()},
                )
                for number, field in enumerate(self.fields, start=1)
            ]
        )

    def required(self, field: Field) -> bool:
        """Whether a column is never null in the lake: decoding gives every event an id."""
        return field.required or field.name == "event_id"

    def partition_spec(self) -> PartitionSpec:
        """The Iceberg partitioning."""
        if self.day_of is None:
            return UNPARTITIONED_PARTITION_SPEC
        source = self.schema().find_field(self.day_of).field_id
        return PartitionSpec(PartitionField(source, 1000, DayTransform(), f"{self.day_of}_day"))

    def properties(self, target_file_bytes: int) -> dict[str, str]:
        """Table properties: format, metrics, metadata hygiene."""
        return {
            "comment": self.doc,
            "format-version": "2",
            "schema.name-mapping.default": create_mapping_from_schema(self.schema()).model_dump_json(),
            "write.parquet.compression-codec": "zstd",
            "write.target-file-size-bytes": str(target_file_bytes),
            "write.metadata.metrics.default": "none",
            **{f"write.metadata.metrics.column.{name}": "full" for name in self.bounds},
            # One manifest per commit would make planning slow: merge them as Iceberg's own writers do.
            "commit.manifest-merge.enabled": "true",
            "commit.manifest.min-count-to-merge": "32",
            # The catalog retries itself, since every attempt has to carry the positions of the previous snapshot.
            "commit.retry.num-retries": "0",
            "write.metadata.delete-after-commit.enabled": "true",
            "write.metadata.previous-versions-max": "10",
        }


def _iceberg_type(arrow: pa.DataType) -> IcebergType:
    if pa.types.is_decimal(arrow):
        return DecimalType(arrow.precision, arrow.scale)
    plain: dict[pa.DataType, IcebergType] = {
        pa.string(): StringType(),
        pa.int64(): LongType(),
        pa.bool_(): BooleanType(),
        pa.binary(): BinaryType(),
        _TIME: TimestamptzType(),
    }
    return plain[arrow]


TABLES: dict[LakeTable, TableDeclaration] = {
    LakeTable.EVENTS: TableDeclaration(
        LakeTable.EVENTS,
        LAKE_FIELDS,
        "All shopper events, late ones included. One row per event; a bulk load may repeat one (same time and id).",
        day_of="event_time",
        sort_by=("event_time", "event_id"),
        bounds=("event_time", "event_type", "product_id", "category_id", "price", "user_id", "arrival_time"),
    ),
    LakeTable.DEAD_LETTERS: TableDeclaration(
        LakeTable.DEAD_LETTERS,
        DEAD_LETTER_FIELDS,
        "Rejected bytes, with the reason. One row per rejected row of a record.",
        day_of=None,
        sort_by=("arrival_time", "dead_letter_id"),
        bounds=("reason", "arrival_time"),
    ),
    LakeTable.DETECTIONS: TableDeclaration(
        LakeTable.DETECTIONS,
        DETECTION_FIELDS,
        "Verdicts of rules on windows. One row per version of a detection.",
        day_of=None,
        sort_by=("start_time", "detection_id"),
        bounds=("rule_id", "start_time", "end_time"),
    ),
}
"""Declaration of each table."""

_LATEST = "QUALIFY row_number() OVER (PARTITION BY detection_id ORDER BY final DESC, last_event_time DESC) = 1"
"""Delivery from a function is at least once: a repeated id is the same detection."""


def detection_rows(detections: Iterable[Detection]) -> pa.Table:
    """One row per detection, with the columns of DETECTION_FIELDS."""
    return pa.Table.from_pylist(list(map(detection_row, detections)), schema=arrow_schema(DETECTION_FIELDS))


def create_views(
    connection: duckdb.DuckDBPyConnection, lakehouse: LakeReader, tables: Iterable[LakeTable] = tuple(LakeTable)
) -> None:
    """Create or replace a temporary view for each table, over the files of its current snapshot.

    A view shows that snapshot only: call again to see later commits. An empty table gives an empty view with the same
    columns. Each detection is there once. Temporary views also work in a read-only database, and leave nothing in it.
    """
    register_storage(connection, lakehouse.file_system)
    for table in tables:
        rows = view_sql(table, lakehouse.data_files(table))
        if table is LakeTable.DETECTIONS:
            rows = f"SELECT * FROM ({rows}) {_LATEST}"
        connection.execute(f"CREATE OR REPLACE TEMPORARY VIEW {table.value} AS {rows}")


def register_storage(connection: duckdb.DuckDBPyConnection, file_system: AbstractFileSystem | None) -> None:
    """Let a connection read files through a Python file system, such as S3; idempotent."""
    if file_system is None:
        return
    protocols = [file_system.protocol] if isinstance(file_system.protocol, str) else file_system.protocol
    if not set(protocols).intersection(connection.list_filesystems()):
        connection.register_filesystem(file_system)


def view_sql(table: LakeTable, files: Iterable[str]) -> str:
    """`SELECT` over Parquet files of a table; columns match by Iceberg field id, and are null in older files.

    DuckDB allows no bound parameters in a view, so the paths are quoted literals.
    """
    declaration = TABLES[table]
    paths = ", ".join(_literal(path) for path in files)
    if not paths:
        columns = ", ".join(f"NULL::{field.duckdb} AS {field.name}" for field in declaration.fields)
        return f"SELECT {columns} WHERE false"
    return f"SELECT * FROM read_parquet([{paths}], hive_partitioning = false, schema = {_schema(declaration)})"


def _schema(declaration: TableDeclaration) -> str:
    columns = ", ".join(
        f"{number}: {{'name': '{field.name}', 'type': '{field.duckdb}', 'default_value': NULL}}"
        for number, field in enumerate(declaration.fields, start=1)
    )
    return f"MAP {{{columns}}}"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
