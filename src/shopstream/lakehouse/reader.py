"""Reads the local lakehouse without its catalog's libraries, which take longer to import than a query takes to run."""

import sqlite3
from contextlib import closing
from pathlib import Path

from pyiceberg.table import StaticTable

from shopstream.errors import StateError
from shopstream.lakehouse.ports import LakeTable

CATALOG_FILE = "catalog.db"
"""The SQLite catalog, inside the lakehouse's folder."""

_BUSY_PATIENCE_S = 60.0


class LocalLakeReader:
    """See `ports.LakeReader`; a lakehouse that is missing has no files, and stays missing.

    Args:
        path: folder of catalog and tables.
    """

    file_system: None = None
    """DuckDB reads local files itself."""

    def __init__(self, path: Path) -> None:
        self._catalog = path.resolve() / CATALOG_FILE

    def data_files(self, table: LakeTable) -> list[str]:
        """Parquet files of the current snapshot; oldest partition first.

        Raises:
            StateError: the folder was moved.
        """
        if not self._catalog.exists():
            return []
        tried = ""
        while True:
            location = self._metadata_location(table)
            try:
                return sorted(task.file.file_path for task in StaticTable.from_metadata(location).scan().plan_files())
            except FileNotFoundError as error:
                if location == tried:
                    raise moved_error(table, error) from error
                tried = location  # a writer may just have expired this snapshot: then the catalog names a newer one

    def _metadata_location(self, table: LakeTable) -> str:
        with closing(sqlite3.connect(self._catalog, timeout=_BUSY_PATIENCE_S)) as catalog:
            sql = "SELECT metadata_location FROM iceberg_tables WHERE table_name = ?"
            (location,) = catalog.execute(sql, (table.value,)).fetchone()
            return str(location)


def moved_error(table: str, error: FileNotFoundError) -> StateError:
    """What to say where the files are not in the place that the catalog names."""
    return StateError(
        f"expected the metadata of {table} where the catalog says, found none ({error}); Iceberg stores "
        "absolute paths: move the folder back to where it was made, or start a new home"
    )
