"""Builds the marts on Athena, over the lake in the Glue Data Catalog, and copies them into the reports file.

1. take the lock of this machine (a second build on it at the same time is refused);
2. replace the table `verdicts` of the database with the current verdicts on actors, so that bots are excluded;
3. let dbt build and test all models there: each mart becomes a new Iceberg table that replaces the old one;
4. copy the marts into the reports file, which `shopstream report` and the dashboard read.

Readers of a mart see the old or the new one, whole; unlike in DuckDB's reports file, marts change one after the other,
and a test fails only after its mart has changed.

The marts are small, so their Iceberg tables are read directly: a report costs no Athena query.
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING
from uuid import uuid4

import duckdb
import pyarrow as pa
from pyiceberg.table import Table

from shopstream.errors import RetryableError, StateError
from shopstream.incidents.verdicts import VERDICT_SCHEMA
from shopstream.models.dbt import (
    PROJECT,
    BuildResult,
    Progress,
    check_names,
    check_timezone,
    only_one,
    run_dbt,
    summarise,
    variables_of,
    write_profile,
)
from shopstream.models.reports import open_reports

if TYPE_CHECKING:
    from shopstream.lakehouse.aws import AwsLakehouse

MARTS = tuple(sorted(path.stem for path in (PROJECT / "marts").glob("*.sql")))
"""Names of the marts."""

_READERS = 4


def fetch_marts(lakehouse: "AwsLakehouse", reports_path: Path, *, over_own: bool = False) -> bool:
    """Copy the marts of the Glue database into the reports file, unless it already has these versions.

    If the database has no marts, the file is left unchanged. A process that has the old file open continues to read it.

    Args:
        lakehouse: with the database.
        reports_path: the DuckDB file to replace.
        over_own: whether to replace a file that DuckDB built on this machine, too.

    Returns:
        Whether the file was replaced.

    Raises:
        RetryableError: a build replaced a mart while it was being read.
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
            raise RetryableError(f"a build replaced a mart while it was being read ({error}); try again") from error
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
    """Mart → version in the file, None if it was built by DuckDB; None instead of a dict if there are no reports."""
    try:
        with open_reports(reports_path) as connection:
            held = "select table_name, comment from duckdb_tables() where database_name = 'reports'"
            return dict(connection.execute(held).fetchall())
    except StateError:
        return None


_TARGET = "athena"
_THREADS = 4
"""Concurrent queries; Athena allows 20 and more per account."""

_POLL_S = 0.5


def build_on_athena(
    lakehouse: "AwsLakehouse",
    reports_path: Path,
    timezone: str,
    select: Sequence[str] | None = None,
    progress: Progress | None = None,
    *,
    verdicts: pa.Table | None = None,
    poll_s: float = _POLL_S,
) -> BuildResult:
    """Build the marts in the lake's Glue database, and copy them into the reports file.

    Arguments and errors are those of `dbt.build`, except for `poll_s`: seconds between two polls of a query. Marts that
    changed before an error stay changed.
    """
    begun = perf_counter()
    check_timezone(timezone)
    if select:
        check_names(select)
    known = VERDICT_SCHEMA.empty_table() if verdicts is None else verdicts
    home = reports_path.resolve().parent
    work = home / "build-athena"
    work.mkdir(parents=True, exist_ok=True)
    with only_one(work / "lock"):
        lakehouse.catalog.replace("verdicts", known.select(VERDICT_SCHEMA.names).cast(VERDICT_SCHEMA))
        write_profile(work, _TARGET, _output(lakehouse, poll_s))
        variables = variables_of(timezone, known) | {"lake_schema": lakehouse.glue.database}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "invalid escape sequence")  # in a macro of dbt-athena's
            results = run_dbt(work, home / "logs", _TARGET, variables, select=select, progress=progress)
        fetch_marts(lakehouse, reports_path, over_own=True)
        return summarise(reports_path, reports_path, results, begun)


def _output(lakehouse: "AwsLakehouse", poll_s: float) -> dict[str, object]:
    """dbt-athena's profile; boto3 finds the credentials, and the workgroup sets the location of results."""
    root = lakehouse.catalog.root
    return {
        "type": "athena",
        "region_name": lakehouse.region,
        "database": "awsdatacatalog",
        "schema": lakehouse.glue.database,
        "work_group": lakehouse.glue.workgroup,
        "s3_data_dir": f"{root}/marts/",
        "s3_data_naming": "schema_table_unique",
        "threads": _THREADS,
        "poll_interval": poll_s,
    }
