"""The lakehouse's tables as DuckDB views, for dbt, queries and the dashboard."""

from collections.abc import Iterable

import duckdb
from fsspec import AbstractFileSystem

from shopstream.lakehouse.ports import Lakehouse, LakeTable
from shopstream.lakehouse.tables import TABLES, TableDeclaration

__all__ = ["create_views", "register_storage", "view_sql"]

_LATEST = "QUALIFY row_number() OVER (PARTITION BY detection_id ORDER BY final DESC, last_event_time DESC) = 1"
"""A function delivers detections at least once: the same id again is the same detection."""


def create_views(
    connection: duckdb.DuckDBPyConnection, lakehouse: Lakehouse, tables: Iterable[LakeTable] = tuple(LakeTable)
) -> None:
    """Create or replace a temporary view for each table, over the files of its current snapshot.

    A view sees that snapshot only: call again to see later commits. An empty table gives an empty view with the same
    columns. Each detection is there once. Temporary, so that nothing of them stays in a database file, and a read-only
    database will do.
    """
    register_storage(connection, lakehouse.file_system)
    for table in tables:
        rows = view_sql(table, lakehouse.data_files(table))
        if table is LakeTable.DETECTIONS:
            rows = f"SELECT * FROM ({rows}) {_LATEST}"
        connection.execute(f"CREATE OR REPLACE TEMPORARY VIEW {table.value} AS {rows}")


def register_storage(connection: duckdb.DuckDBPyConnection, file_system: AbstractFileSystem | None) -> None:
    """Let a connection read files of a file system of Python's, such as S3; again is no harm."""
    if file_system is None:
        return
    protocols = [file_system.protocol] if isinstance(file_system.protocol, str) else file_system.protocol
    if not set(protocols).intersection(connection.list_filesystems()):
        connection.register_filesystem(file_system)


def view_sql(table: LakeTable, files: Iterable[str]) -> str:
    """`SELECT` over Parquet files of a table; columns are found by Iceberg field id, and null in files older than they.

    DuckDB takes no bound parameters in a view: the paths are literals, quoted here.
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
