"""The marts that Athena built, brought into the reports file that every reader of reports knows.

The marts are small, and their Iceberg tables are read as they are, so that a report costs no query of Athena and reads
the same as one of DuckDB's marts.

Runs the dbt project on Athena, over the lake in the Glue Data Catalog.

1. take the lock of this machine (a second build of it at the same time is refused);
2. make the table `verdicts` of the database what incidents say of actors now, so that bots are left out;
3. let dbt build and test all models there: each mart is a new Iceberg table that takes the place of the old one;
4. bring the marts into the reports file, which `shopstream report` and the dashboard read.

Readers of a mart see the old or the new one, whole; unlike in the reports file of DuckDB, one mart changes after the
other, and a test that fails tells so after the mart has changed.
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING
from uuid import uuid4

import duckdb
import pyarrow as pa
from pyiceberg.table import Table

from shopstream.errors import RetryableError
from shopstream.incidents.queries import VERDICT_SCHEMA
from shopstream.models.dbt import (
    PROJECT,
    BuildResult,
    Progress,
    check_names,
    check_timezone,
    only_one,
    raise_failures,
    run_dbt,
    summary,
    variables_of,
    write_profile,
)

if TYPE_CHECKING:
    from shopstream.lakehouse.aws import AwsLakehouse

__all__ = ["MARTS", "build_on_athena", "fetch_marts"]

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


_TARGET = "athena"
_THREADS = 4
"""Queries at once; Athena lets 20 and more run in an account."""

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
    """Build the marts in the lake's Glue database, and bring them into the reports file.

    Args:
        lakehouse: where the events are.
        reports_path: the DuckDB file to replace.
        timezone: IANA name; days and hours are counted in it.
        select: names of models to build, with what they are made from and `report_scope`; the other marts stay.
        progress: told about each finished step.
        verdicts: what is known of actors, see `alerting.verdicts`; without them nobody is a bot.
        poll_s: seconds between two questions whether a query is done.

    Raises:
        ConfigurationError: `select` names no model, the time zone is unknown, or a permission is missing.
        RetryableError: another build is running on this machine.
        StateError: a model failed or a test found rows that break its rule; names both.
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
        raise_failures(results, home / "logs" / "dbt.log")
        fetch_marts(lakehouse, reports_path, over_own=True)
        rows, (events, bot_events, duplicates) = summary(reports_path)
    return BuildResult(
        reports_path=reports_path,
        rows=rows,
        tests=sum(str(result.status) == "pass" for result in results),
        events=events,
        bot_events=bot_events,
        duplicates=duplicates,
        elapsed=timedelta(seconds=perf_counter() - begun),
    )


def _output(lakehouse: "AwsLakehouse", poll_s: float) -> dict[str, object]:
    """dbt-athena's profile; credentials come from where boto3 looks for them. The workgroup says where results go."""
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
