"""Runs dbt in this process, on the project of this folder."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from shopstream.errors import ConfigurationError, RetryableError, StateError
from shopstream.incidents.incident import ACTOR_KINDS

__all__ = [
    "PROJECT",
    "BuildResult",
    "Progress",
    "check_names",
    "check_timezone",
    "only_one",
    "raise_failures",
    "run_dbt",
    "variables_of",
    "write_profile",
]

PROJECT = Path(__file__).parent
"""The dbt project."""

Progress = Callable[[str, int, int], None]
"""Called with a finished step (a model's name, or that tests run), its number and how many there are."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build made.

    Args:
        reports_path: the file with the marts.
        rows: mart → number of rows.
        tests: data tests that passed.
        events: events in the reports, each once.
        bot_events: of these, bots': figures without ending leave them out.
        duplicates: copies in the lake that were left out.
        elapsed: wall-clock time of the whole build.
    """

    reports_path: Path
    rows: dict[str, int]
    tests: int
    events: int
    bot_events: int
    duplicates: int
    elapsed: timedelta


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Around a build: one at a time, by a lock file.

    Raises:
        RetryableError: another one runs.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RetryableError(
            f"expected to be the only build, but another one holds {path}; wait for it to end and build again"
        ) from error
    try:
        yield
    finally:
        lock.release()


def check_timezone(name: str) -> None:
    """Whether DuckDB knows a time zone.

    Raises:
        ConfigurationError: it does not.
    """
    with duckdb.connect() as connection:
        known = connection.execute("select count(*) from pg_timezone_names() where name = ?", [name]).fetchone()
    if not known or not known[0]:
        raise ConfigurationError(f"expected an IANA time zone such as Europe/Berlin, got {name!r}; set `timezone`")


def check_names(select: Sequence[str]) -> None:
    """Whether all are models.

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
    """What the models are told: the time zone, and the kinds of actor that verdicts call bots."""
    bots = verdicts.filter(pc.equal(verdicts["verdict"], "bot"))
    kinds = set(bots["actor_kind"].to_pylist())
    return {"timezone": timezone, "bot_actor_kinds": " ".join(kind for kind in ACTOR_KINDS if kind in kinds)}


def write_profile(work: Path, target: str, output: dict[str, object]) -> None:
    """Where dbt builds to; JSON is YAML. The text is the same each time, so that dbt can reuse what it parsed."""
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
        # what the reports were built from is told anew each time
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
    """Build and test models; results of dbt's nodes, in the order they ended.

    Args:
        work: folder of the profile, and of what dbt remembers.
        logs: folder of dbt's log.
        target: output of the profile.
        variables: see `variables_of`.
        select: models, with what they are made from; None: all.
        progress: told about each finished step.
        thorough: also the unit tests and the costly data tests.

    Raises:
        StateError: dbt could not even start its nodes.
    """
    from dbt.cli.main import dbtRunner  # noqa: PLC0415  start-up time

    def watch(event: Any) -> None:  # noqa: ANN401  dbt's events have no common Python type
        if progress and event.info.name == "LogModelResult":
            progress(event.data.node_info.node_name, event.data.index, event.data.total)
        elif progress and event.info.name == "LogTestResult":
            progress("testing the tables", event.data.index, event.data.num_models)

    arguments = _arguments(work, logs, target, variables, select, thorough=thorough)
    try:
        outcome = dbtRunner(callbacks=[watch]).invoke(arguments)
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
    return list(getattr(outcome.result, "results", []))


def raise_failures(results: Iterable[Any], log: Path) -> None:
    """Tell what failed.

    Raises:
        StateError: a model or a test did; names both.
    """
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
