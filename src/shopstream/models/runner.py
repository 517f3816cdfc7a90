"""Runs the dbt project of this folder over the lake.

A build never shows half of itself:

1. take the lock (a second build at the same time is refused);
2. make a scratch folder beside the reports: an empty reports file, and a staging file whose view `lake.events` reads
   the lake's current data files, with a table `lake.verdicts` on actors;
3. let dbt build and test all models into them, in this process, without network;
4. close every connection, then rename the scratch reports file onto the real one.

Whoever has the old file open goes on reading it. A build that fails before step 4 leaves it as it was.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import duckdb
import pyarrow as pa
from fsspec import AbstractFileSystem

from shopstream.errors import StateError
from shopstream.incidents.verdicts import VERDICT_SCHEMA
from shopstream.lakehouse.ports import Lakehouse, LakeTable
from shopstream.lakehouse.views import register_storage, view_sql
from shopstream.models.dbt import (
    PROJECT,
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

__all__ = ["PROJECT", "BuildResult", "Progress", "build", "summary"]

_DEFAULT_MEMORY_MIB = 2048
_TARGET = "embedded"


def build(
    lakehouse: Lakehouse,
    reports_path: Path,
    timezone: str,
    select: Sequence[str] | None = None,
    progress: Progress | None = None,
    *,
    verdicts: pa.Table | None = None,
    memory_mib: int = _DEFAULT_MEMORY_MIB,
    thorough: bool = False,
) -> BuildResult:
    """Build the marts from the lake's events and put them in place of the last ones.

    Args:
        lakehouse: where the events are.
        reports_path: the DuckDB file to replace.
        timezone: IANA name; days and hours are counted in it.
        select: names of models to build, with what they are made from and `report_scope`; the other marts stay.
        progress: told about each finished step.
        verdicts: what is known of actors, see `alerting.verdicts`; without them nobody is a bot.
        memory_mib: what DuckDB may hold in memory; beyond it, it writes temporary files beside the reports.
        thorough: also run the models' unit tests, and the tests that read all events once more.

    Raises:
        ConfigurationError: `select` names no model, or the time zone is unknown.
        RetryableError: another build is running.
        StateError: a model failed or a test found rows that break its rule; names both. The old reports stay.
    """
    begun = perf_counter()
    check_timezone(timezone)
    known = VERDICT_SCHEMA.empty_table() if verdicts is None else verdicts
    reports_path = reports_path.resolve()
    home = reports_path.parent
    work = home / "build"
    work.mkdir(parents=True, exist_ok=True)
    with only_one(work / "lock"), _scratch(work / "scratch") as scratch:
        target = scratch / reports_path.name
        if select:
            check_names(select)
            if reports_path.exists():
                shutil.copyfile(reports_path, target)
        _create_source(scratch / "staging.duckdb", lakehouse, known)
        write_profile(work, _TARGET, _output(target, scratch, memory_mib, lakehouse.file_system))
        results = _run(work, home / "logs", variables_of(timezone, known), select, progress, thorough=thorough)
        raise_failures(results, home / "logs" / "dbt.log")
        rows, (events, bot_events, duplicates) = summary(target)
        target.replace(reports_path)
    return BuildResult(
        reports_path=reports_path,
        rows=rows,
        tests=sum(str(result.status) == "pass" for result in results),
        events=events,
        bot_events=bot_events,
        duplicates=duplicates,
        elapsed=timedelta(seconds=perf_counter() - begun),
    )


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    shutil.rmtree(path, ignore_errors=True)  # what a killed build left
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _create_source(path: Path, lakehouse: Lakehouse, verdicts: pa.Table) -> None:
    files = _fetched(lakehouse, path.parent / "lake")
    try:
        with duckdb.connect(path) as staging:
            register_storage(staging, lakehouse.file_system)
            staging.execute("create schema lake")
            staging.execute(f"create view lake.events as {view_sql(LakeTable.EVENTS, files)}")
            staging.register("given_verdicts", verdicts.select(VERDICT_SCHEMA.names).cast(VERDICT_SCHEMA))
            staging.execute("create table lake.verdicts as select * from given_verdicts")
    except duckdb.Error as error:
        raise StateError(
            f"expected to read the lake's {len(files)} files of events, DuckDB says: {error}; "
            "see `shopstream lake status`, and build again if the lake was just compacted"
        ) from error


def _fetched(lakehouse: Lakehouse, folder: Path) -> list[str]:
    """Files of events that any DuckDB can read: those far away are copied, since dbt reads each several times."""
    files = lakehouse.data_files(LakeTable.EVENTS)
    if lakehouse.file_system is None:
        return files
    folder.mkdir()
    copies = [str(folder / f"{number}.parquet") for number in range(len(files))]
    if files:
        lakehouse.file_system.get(files, copies)
    return copies


def _output(target: Path, scratch: Path, memory_mib: int, file_system: AbstractFileSystem | None) -> dict[str, object]:
    output: dict[str, object] = {
        "type": "duckdb",
        "path": str(target),
        "schema": "main",
        "threads": 2,
        "attach": [{"path": str(scratch / "staging.duckdb"), "alias": "staging"}],
        "config_options": {
            "memory_limit": f"{memory_mib}MiB",
            "temp_directory": str(scratch / "spill"),
            "preserve_insertion_order": "false",
            "autoinstall_known_extensions": "false",
            "TimeZone": "UTC",
        },
    }
    if file_system is not None:
        protocol = file_system.protocol
        name = protocol if isinstance(protocol, str) else protocol[0]
        output["filesystems"] = [{"fs": name, **file_system.storage_options}]
    return output


def _run(
    work: Path,
    logs: Path,
    variables: dict[str, str],
    select: Sequence[str] | None,
    progress: Progress | None,
    *,
    thorough: bool,
) -> list[Any]:
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager  # noqa: PLC0415  start-up time

    connections: Any = DuckDBConnectionManager
    try:
        return run_dbt(work, logs, _TARGET, variables, select=select, progress=progress, thorough=thorough)
    finally:
        if connections._ENV is not None:  # noqa: SLF001  dbt would keep the file open until the process ends
            connections._ENV.close()  # noqa: SLF001
        connections.close_all_connections()


def summary(target: Path) -> tuple[dict[str, int], tuple[int, int, int]]:
    """Of a reports file: mart → number of rows, and (events, bots' events, duplicates left out)."""
    with duckdb.connect(target, read_only=True) as connection:
        marts = connection.execute(
            "select table_name from information_schema.tables"
            " where table_schema = 'main' and table_type = 'BASE TABLE' order by table_name"
        ).fetchall()
        rows = {name: connection.table(name).count("*").fetchall()[0][0] for (name,) in marts}
        scope = None
        if "report_scope" in rows:
            scope = connection.execute("select events, bot_events, duplicates from report_scope").fetchone()
    return rows, scope or (0, 0, 0)
