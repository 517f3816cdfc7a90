"""The view through which models and queries read the lake."""

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import duckdb

from shopstream.events.schema import LAKE_FIELDS
from shopstream.lakehouse.ports import Lakehouse, LakeTable

__all__ = ["create_source", "local_path"]


def local_path(location: str) -> str:
    """A data file's location as DuckDB opens it: `file:` addresses become absolute paths, others stay."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return url2pathname(parts.path)
    return location if len(parts.scheme) > 1 else str(Path(location).absolute())


def create_source(connection: duckdb.DuckDBPyConnection, lakehouse: Lakehouse) -> list[str]:
    """Create the view `lake.events` over the data files of the current snapshot.

    Returns:
        The files it reads; none when the lake holds no events yet, then the view is empty.
    """
    files = [local_path(file) for file in lakehouse.data_files(LakeTable.EVENTS)]
    columns = ", ".join(f"cast({field.name} as {field.duckdb}) as {field.name}" for field in LAKE_FIELDS)
    empty = ", ".join(f"cast(null as {field.duckdb}) as {field.name}" for field in LAKE_FIELDS)
    listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)  # a view takes no bound parameters
    query = f"select {columns} from read_parquet([{listed}])" if files else f"select {empty} where false"
    connection.execute("create schema if not exists lake")
    connection.execute(f"create or replace view lake.events as {query}")
    return files
