"""The marts that Athena built, brought into the reports file that every reader of reports knows.

The marts are small, and their Iceberg tables are read as they are, so that a report costs no query of Athena and reads
the same as one of DuckDB's marts.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import duckdb
from pyiceberg.table import Table

from shopstream.errors import RetryableError
from shopstream.models.dbt import PROJECT

if TYPE_CHECKING:
    from shopstream.lakehouse.aws import AwsLakehouse

__all__ = ["MARTS", "fetch_marts"]

MARTS = tuple(sorted(path.stem for path in (PROJECT / "marts").glob("*.sql")))
"""Names of the marts."""

_READERS = 4


def fetch_marts(lakehouse: "AwsLakehouse", reports_path: Path, *, over_own: bool = False) -> bool:
    """Bring the marts of the Glue database into the reports file, unless it has them; whoever has it open keeps his.

    Where the database has no marts, the file stays as it is, or is not made.

    Args:
        lakehouse: whose database.
        reports_path: the DuckDB file to replace.
        over_own: also where DuckDB built the file here: then somebody wanted it so.

    Returns:
        Whether the file was replaced.

    Raises:
        RetryableError: a build replaced a mart while it was read.
    """
    held = _held(reports_path)
    if held and None in held.values() and not over_own:
        return False
    with ThreadPoolExecutor(_READERS) as readers:
        tables = dict(zip(MARTS, readers.map(lakehouse.catalog.find, MARTS), strict=True))
        found = {name: table for name, table in tables.items() if table is not None}
        versions = {name: table.metadata_location for name, table in found.items()}
        if not found or versions == held:
            return False
        reports_path.parent.mkdir(parents=True, exist_ok=True)
        scratch = reports_path.with_name(f"{reports_path.name}.{uuid4().hex}")
        try:
            _write(scratch, found, versions, readers)
            scratch.replace(reports_path)
        except FileNotFoundError as error:
            raise RetryableError(f"a build replaced a mart while it was read ({error}); try again") from error
        finally:
            scratch.unlink(missing_ok=True)
    return True


def _write(path: Path, tables: dict[str, Table], versions: dict[str, str], readers: ThreadPoolExecutor) -> None:
    with duckdb.connect(path) as connection:
        for name, rows in zip(tables, readers.map(lambda table: table.scan().to_arrow(), tables.values()), strict=True):
            connection.register("mart_rows", rows)
            connection.execute(f"create table {name} as select * from mart_rows")
            connection.unregister("mart_rows")
            version = versions[name].replace("'", "''")  # COMMENT takes no bound parameters
            connection.execute(f"comment on table {name} is '{version}'")


def _held(reports_path: Path) -> dict[str, str | None] | None:
    """Mart → version that a file has, None where DuckDB's own build made it; None where there is no file of marts."""
    if not reports_path.exists():
        return None
    literal = str(reports_path.resolve()).replace("'", "''")  # ATTACH takes no bound parameters
    try:
        with duckdb.connect() as connection:
            connection.execute(f"attach '{literal}' as reports (read_only)")
            held = "select table_name, comment from duckdb_tables() where database_name = 'reports'"
            return dict(connection.execute(held).fetchall())
    except duckdb.Error:
        return None  # of another kind: it is replaced
