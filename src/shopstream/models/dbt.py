"""Builds the reports: runs the dbt project of this folder over the lake, in this process.

A build replaces the reports all at once:

1. take the lock (a second build at the same time is refused);
2. create a scratch folder beside the reports: an empty reports file, and a staging file whose view `lake.events` reads
   the lake's current data files, with a table `lake.verdicts` on actors;
3. let dbt build and test all models into them, without network access;
4. close every connection, then rename the scratch reports file to the real one.

A process that has the old file open continues to read it. A build that fails before step 4 leaves it unchanged.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from fsspec import AbstractFileSystem

from shopstream.errors import ConfigurationError, StateError
from shopstream.incidents.incident import ACTOR_KINDS
from shopstream.incidents.verdicts import VERDICT_SCHEMA
from shopstream.lakehouse.files import locked
from shopstream.lakehouse.ports import Lakehouse, LakeTable
from shopstream.lakehouse.tables import register_storage, view_sql

PROJECT = Path(__file__).parent
"""The dbt project."""

Progress = Callable[[str, int, int], None]
"""Called with a finished step (a model's name, or that tests run), its number and how many there are."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """Result of a build.

    Args:
        reports_path: the file with the marts.
        rows: mart → number of rows.
        tests: data tests that passed.
        events: events in the reports, without duplicates.
        bot_events: events of bots among them, which columns without a suffix exclude.
        duplicates: duplicates in the lake that were excluded.
        elapsed: wall-clock time of the whole build.
    """

    reports_path: Path
    rows: dict[str, int]
    tests: int
    events: int
    bot_events: int
    duplicates: int
    elapsed: timedelta


def only_one(path: Path) -> AbstractContextManager[None]:
    """A lock around a build.

    Raises:
        RetryableError: another build is running.
    """
    return locked(path, f"expected no other build, but one holds {path}; wait for it to end and build again")


def check_timezone(name: str) -> None:
    """Check that DuckDB knows a time zone.

    Raises:
        ConfigurationError: it does not.
    """
    with duckdb.connect() as connection:
        known = connection.execute("select count(*) from pg_timezone_names() where name = ?", [name]).fetchone()
    if not known or not known[0]:
        raise ConfigurationError(f"expected an IANA time zone such as Europe/Berlin, got {name!r}; set `timezone`")


def check_names(select: Sequence[str]) -> None:
    """Check that all names are models.

    Raises:
        ConfigurationError: one is not.
    """
    known = sorted(
        path.stem for folder in ("staging", "intermediate", "marts") for path in (PROJECT / folder).glob("*.sql")
    )
    unknown = [name for name in select if name not in known]
    if unknown:
        raise ConfigurationError(f"expected names of models, got {', '.join(unknown)}; there are {', '.join(known)}")


def variables_of(timezone: str, verdicts: pa.Table) -> dict[str, str]:
    """Variables of the models: the time zone, and the kinds of actor with a bot verdict."""
    bots = verdicts.filter(pc.equal(verdicts["verdict"], "bot"))
    kinds = set(bots["actor_kind"].to_pylist())
    return {"timezone": timezone, "bot_actor_kinds": " ".join(kind for kind in ACTOR_KINDS if kind in kinds)}


def write_profile(work: Path, target: str, output: dict[str, object]) -> None:
    """Write dbt's profile (JSON is YAML). The text is stable, so that dbt can reuse its parsed project."""
    profile = {"shopstream": {"target": target, "outputs": {target: output}}}
    (work / "profiles.yml").write_text(json.dumps(profile, indent=2), encoding="utf-8")


def _arguments(
    work: Path, logs: Path, target: str, variables: dict[str, str], select: Sequence[str] | None, *, thorough: bool
) -> list[str]:
    arguments = [
        *("--quiet", "--no-print", "--no-use-colors", "--log-level", "none", "--log-level-file", "info"),
        *("--log-path", str(logs), "--no-send-anonymous-usage-stats", "--no-version-check", "--no-write-json"),
        *("build", "--project-dir", str(PROJECT), "--profiles-dir", str(work), "--target-path", str(work / "target")),
        *("--profile", "shopstream", "--target", target),
        *("--vars", json.dumps(variables)),
    ]
    if not thorough:
        arguments += ["--exclude-resource-type", "unit_test", "--exclude", "tag:costly"]
    if select:
        # report_scope describes each build
        arguments += ["--select", *(f"+{name}" for name in (*select, "report_scope"))]
    return arguments


def run_dbt(
    work: Path,
    logs: Path,
    target: str,
    variables: dict[str, str],
    *,
    select: Sequence[str] | None = None,
    progress: Progress | None = None,
    thorough: bool = False,
) -> list[Any]:
    """Build and test models; returns the results of dbt's nodes, in order of completion.

    Args:
        work: folder of the profile and of dbt's cache.
        logs: folder of dbt's log.
        target: output of the profile.
        variables: see `variables_of`.
        select: models to build, with their parents; None: all.
        progress: called with each finished step.
        thorough: run the unit tests and the costly data tests, too.

    Raises:
        StateError: dbt failed, or a model or a test did; names both.
    """
    from dbt.cli.main import dbtRunner  # noqa: PLC0415  start-up time

    def report_progress(event: Any) -> None:  # noqa: ANN401  dbt's events have no common Python type
        if progress and event.info.name == "LogModelResult":
            progress(event.data.node_info.node_name, event.data.index, event.data.total)
        elif progress and event.info.name == "LogTestResult":
            progress("testing the tables", event.data.index, event.data.num_models)

    arguments = _arguments(work, logs, target, variables, select, thorough=thorough)
    try:
        outcome = dbtRunner(callbacks=[report_progress]).invoke(arguments)
    finally:
        log = logging.getLogger("file_log")  # dbt's name for it; dbt never closes the file
        for handler in tuple(log.handlers):
            log.removeHandler(handler)
            handler.close()
    failure: BaseException | None = outcome.exception
    if isinstance(failure, KeyboardInterrupt | SystemExit):
        raise failure
    if failure is not None:
        raise StateError(f"expected the models to compile, dbt said: {failure}") from failure
    results = list(getattr(outcome.result, "results", []))
    _raise_failures(results, logs / "dbt.log")
    return results


def _raise_failures(results: Iterable[Any], log: Path) -> None:
    sentences = []
    for result in results:
        status = str(result.status)
        if status in {"pass", "success"}:
            continue
        node = result.node
        name = node.name
        if str(node.resource_type) == "test":
            model = (getattr(node, "attached_node", None) or node.fqn[-2]).rsplit(".", 1)[-1]
            if status == "fail":
                sentences.append(f"model {model}: test {name} found {result.failures} rows that break its rule")
            elif status != "skipped":
                sentences.append(f"model {model}: test {name} could not run: {_first_line(result.message)}")
        elif status == "error":
            sentences.append(f"model {name} failed: {_first_line(result.message)}")
    if sentences:
        raise StateError(
            f"expected every model to build and every test to pass: {'; '.join(sentences)}."
            f" The reports stay as they were; see {log}"
        )


def _first_line(message: str | None) -> str:
    lines = [line.strip() for line in (message or "no message").splitlines() if line.strip()]
    return " ".join(lines[:3])


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
    """Build the marts from the lake's events, and replace the previous ones.

    Args:
        lakehouse: with the events.
        reports_path: the DuckDB file to replace.
        timezone: IANA name, for days and hours.
        select: models to build, with their parents and `report_scope`; other marts stay unchanged.
        progress: called with each finished step.
        verdicts: on actors, see `incidents.verdicts`; None: no actor is a bot.
        memory_mib: DuckDB's memory limit; beyond it, DuckDB writes temporary files beside the reports.
        thorough: run the models' unit tests, and the tests that read all events again, too.

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
        result = summarise(target, reports_path, results, begun)
        target.replace(reports_path)
    return result


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    shutil.rmtree(path, ignore_errors=True)  # left by a killed build
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
            f"expected to read {len(files)} event files of the lake, DuckDB says: {error}; "
            "see `shopstream lake status`, and build again if the lake was just compacted"
        ) from error


def _fetched(lakehouse: Lakehouse, folder: Path) -> list[str]:
    """Event files on local disk: remote ones are copied, since dbt reads each several times."""
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


def summarise(marts: Path, reports_path: Path, results: Iterable[Any], begun: float) -> BuildResult:
    """The result of a build.

    Args:
        marts: the file with the new marts.
        reports_path: the reports file.
        results: of `run_dbt`.
        begun: when the build began, by `perf_counter`.
    """
    with duckdb.connect(marts, read_only=True) as connection:
        tables = connection.execute(
            "select table_name from information_schema.tables"
            " where table_schema = 'main' and table_type = 'BASE TABLE' order by table_name"
        ).fetchall()
        rows = {name: connection.table(name).count("*").fetchall()[0][0] for (name,) in tables}
        scope = None
        if "report_scope" in rows:
            scope = connection.execute("select events, bot_events, duplicates from report_scope").fetchone()
    events, bot_events, duplicates = scope or (0, 0, 0)
    return BuildResult(
        reports_path=reports_path,
        rows=rows,
        tests=sum(str(result.status) == "pass" for result in results),
        events=events,
        bot_events=bot_events,
        duplicates=duplicates,
        elapsed=timedelta(seconds=perf_counter() - begun),
    )
