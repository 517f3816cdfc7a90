"""CSV into the lake: the benchmark's events in REES46's form, and a synthetic month."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import duckdb
from measure import FailedError, Measurement, run
from ours import SHOPSTREAM, environment
from workload import Workload

MONTH_EVENTS = 42_400_000  # October 2019
MONTH_DAYS = 31


@dataclass(frozen=True, slots=True)
class Loaded:
    """Results of one command."""

    what: str
    rows: int
    measured: Measurement
    remark: str = ""


def workload_csv(made: Workload, work: Path) -> Loaded:
    """`shopstream lake ingest` of all events of the workload."""
    path = made.parquet.with_name("rees46.csv")
    if not path.is_file():
        con = duckdb.connect()
        con.execute("SET TimeZone = 'UTC'")
        con.execute(
            "COPY (SELECT strftime(event_time, '%Y-%m-%d %H:%M:%S UTC') AS event_time, * EXCLUDE (event_time) "
            "FROM read_parquet(?)) TO ? (HEADER true)",
            [str(made.parquet), str(path)],
        )
        con.close()
    return _ingest(path, made.events, work)


def month(work: Path) -> list[Loaded]:
    """`shopstream synthesise` of a month, then `shopstream lake ingest` of its CSV file."""
    path = work / "month.csv"
    made = run(
        [
            *(SHOPSTREAM, "synthesise", "--out", str(path), "--from", "2019-10-01", "--days", str(MONTH_DAYS)),
            *("--events", str(MONTH_EVENTS), "--format", "json"),
        ],
        log=work / "logs" / "month.log",
        timeout_s=1_200,
        env=environment(),
    )
    try:
        rows = duckdb.execute("SELECT count(*) FROM read_csv(?, all_varchar = true)", [str(path)]).fetchall()[0][0]
        size = path.stat().st_size / 1e9
        loaded = _ingest(path, rows, work)
    finally:
        path.unlink(missing_ok=True)
    return [Loaded(f"`shopstream synthesise`, a month, {size:.1f} GB", rows, made), loaded]


def _ingest(path: Path, rows: int, work: Path) -> Loaded:
    home = work / "scratch"
    shutil.rmtree(home, ignore_errors=True)
    os.sync()
    try:
        measured = run(
            [SHOPSTREAM, "--home", str(home), "lake", "ingest", str(path), "--format", "json"],
            log=work / "logs" / "ingest.log",
            timeout_s=1_200,
            env=environment(),
        )
    finally:
        shutil.rmtree(home, ignore_errors=True)
    said = json.loads(measured.output)
    figures = said[0] if isinstance(said, list) else said
    counted = sum(int(figures[name]) for name in ("events", "duplicates", "dead_letters"))
    if counted != rows:
        raise FailedError(f"expected {rows:,} rows accounted for, got {counted:,}: {figures}")
    size = path.stat().st_size / 1e9
    remark = (
        f"{path.name}: {figures['events']:,} events, {figures['duplicates']:,} duplicates, "
        f"{figures['dead_letters']:,} dead letters."
    )
    return Loaded(f"`shopstream lake ingest`, {size:.1f} GB", rows, measured, remark)
