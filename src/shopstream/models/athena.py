"""Runs the dbt project on Athena, over the lake in the Glue Data Catalog.

1. take the lock of this machine (a second build of it at the same time is refused);
2. make the table `verdicts` of the database what incidents say of actors now, so that bots are left out;
3. let dbt build and test all models there: each mart is a new Iceberg table that takes the place of the old one;
4. bring the marts into the reports file, which `shopstream report` and the dashboard read.

Readers of a mart see the old or the new one, whole; unlike in the reports file of DuckDB, one mart changes after the
other, and a test that fails tells so after the mart has changed.
"""

import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import pyarrow as pa

from shopstream.incidents.verdicts import VERDICT_SCHEMA
from shopstream.models.dbt import (
    BuildResult,
    Progress,
    check_names,
    check_timezone,
    only_one,
    raise_failures,
    run_dbt,
    variables_of,
    write_profile,
)
from shopstream.models.marts_file import fetch_marts
from shopstream.models.runner import summary

if TYPE_CHECKING:
    from shopstream.lakehouse.aws import AwsLakehouse

__all__ = ["build_on_athena"]

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
