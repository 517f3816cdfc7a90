"""`make bench`: compares shopstream with Flink SQL, Spark and plain DuckDB on the same events.

    make bench                          everything, 10 million events (about 25 minutes)
    make bench BENCH_EVENTS=1000000     fewer events
    make bench ONLY=ours,duckdb,latency some parts; tables are only printed
    make bench ONLY=detection           the cost of rules and detectors (about 5 minutes)
    make bench BENCH_MONTH=1            also a month of 42 million rows into the lake

A full run writes `benchmarks/RESULTS.md`, the part detection `benchmarks/RESULTS-detection.md`; raw figures go to
`benchmarks/.work/results.json`.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import costs
import loading
import ours
import report
from contenders import FLINK_PYTHON, HERE, SPARK_PYTHON, Contender, Ours, Peer
from goals import goals_table
from latency import Latency, measure_latency
from machine import Machine, describe
from measure import FailedError, run
from rich.console import Console
from windows import WINDOWS
from workload import Workload, prepare

WORK = HERE / ".work"
PARTS = ("ours", "duckdb", "flink", "spark", "classic", "latency", "ingest", "detection")
LATENCY_S = 60
ROUNDS = 3
FLOOR_EVENTS = 1_000
SPARK_EVENTS = 2_000_000
PACK_EVENTS = 2_000_000
LATENCY_REMARK = """\
From the stream's arrival time of the record whose event made the condition true, to the moment another process sees the
incident in its store. One burst a second; producer and engine share the machine."""
console = Console(width=None if sys.stdout.isatty() else 200)


def main() -> int:
    """Run the selected parts; returns 1 if an engine failed or gave a wrong answer."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # children cache bytecode, as on users' machines
    options = _options()
    only = tuple(part for part in options.only.split(",") if part)
    unknown = set(only) - {*PARTS, "month"}
    if unknown:
        raise SystemExit(f"expected parts among {', '.join((*PARTS, 'month'))}, got {', '.join(sorted(unknown))}")
    parts = {*(only or PARTS), *(["month"] if options.month else [])}
    if "spark" in parts and not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        raise SystemExit("expected Java 17 on PATH for Spark, found none; install it, or leave Spark out with ONLY=...")
    machine = describe(
        {"apache-flink": HERE / FLINK_PYTHON, "pyspark": HERE / SPARK_PYTHON} if parts & {"flink", "spark"} else {}
    )
    console.print(machine.text, highlight=False)
    ours.check_rules()
    WORK.mkdir(exist_ok=True)
    if "detection" in parts:
        _detection(machine)
    if parts == {"detection"}:
        return 0
    made = _prepared(options.events)
    found = Found()
    if parts & {"ours", "duckdb", "flink", "spark"}:
        _compare(made, parts, options.rounds, found)
    if "latency" in parts:
        _latency(found)
    if parts & {"ingest", "month"}:
        _ingest(made, parts, found)
    goals = goals_table(found.rows.get("rules", ()), found.latencies, found.loaded)
    if goals.rows:
        found.show(goals)
    whole = not only
    target = HERE / "RESULTS.md" if whole else WORK / "RESULTS-partial.md"
    report.write_markdown(target, machine, made.definition, [*found.tables[-1:], *found.tables[:-1]])
    (WORK / "results.json").write_text(
        json.dumps(
            {
                "machine": machine.text,
                "engines": {windows: [asdict(row) for row in rows] for windows, rows in found.rows.items()},
                "latency": {title: asdict(one) for title, one in found.latencies.items()},
                "loaded": [asdict(one) for one in found.loaded],
            },
            indent=2,
        )
    )
    console.print(f"written to {target.relative_to(HERE.parent)}")
    return int(any(row.wrong for rows in found.rows.values() for row in rows))


@dataclass
class Found:
    """All results so far; tables are printed at once."""

    tables: list[report.Table] = field(default_factory=list)
    rows: dict[str, list[report.Row]] = field(default_factory=dict)
    latencies: dict[str, Latency] = field(default_factory=dict)
    loaded: list[loading.Loaded] = field(default_factory=list)

    def show(self, table: report.Table) -> None:
        """Print a table, and keep it for the file."""
        self.tables.append(table)
        report.print_table(table, console)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=int(os.environ.get("BENCH_EVENTS") or 10_000_000))
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("BENCH_ROUNDS") or ROUNDS))
    parser.add_argument(
        "--only", default=os.environ.get("ONLY", ""), help=f"comma-separated: {', '.join(PARTS)}, month"
    )
    parser.add_argument("--month", action="store_true", default=bool(os.environ.get("BENCH_MONTH")))
    return parser.parse_args()


def _prepared(events: int, burst_every_s: int = 5) -> Workload:
    with console.status(f"writing the workload of {events:,} events"):
        return prepare(WORK, events, burst_every_s)


def _contenders(parts: set[str], preloaded: dict[int, Path]) -> list[Contender]:
    here = Path(sys.executable)
    every: list[Contender] = [
        *(Ours(variant, preloaded) for variant in ours.VARIANTS),
        Peer("duckdb-stream", "DuckDB, micro-batches", "duckdb", "duckdb_microbatch.py", here, "parquet"),
        Peer("duckdb-batch", "DuckDB, batch", "duckdb", "duckdb_batch.py", here, "spark_csv"),
        Peer("flink", "Flink SQL", "flink", "flink_sql.py", FLINK_PYTHON, "flink_csv", rounds=1),
        Peer(
            "spark",
            "Spark Structured Streaming",
            "spark",
            "spark_streaming.py",
            SPARK_PYTHON,
            "spark_csv",
            rounds=1,
            most_events=int(os.environ.get("BENCH_SPARK_EVENTS") or SPARK_EVENTS),
        ),
    ]
    return [contender for contender in every if contender.part in parts]


def _detection(machine: Machine) -> None:
    """The cost of rules and detectors, on a page of its own."""
    with console.status("costs of rules and detectors"):
        tables = costs.costs()
    made = _prepared(PACK_EVENTS)
    home = WORK / "scratch"
    with console.status(f"all rules and detectors, {made.events:,} events"):
        preloaded, _ = ours.preload(made, home, WORK / "logs" / "preload.log")
        runs = [
            run(
                ours.command(preloaded, ours.WINDOWS_ONLY),
                log=WORK / "logs" / "pack.log",
                timeout_s=1_200,
                env=ours.environment("everything"),
            )
        ]
    shutil.rmtree(home, ignore_errors=True)
    tables.insert(0, costs.pack_table(made.events, runs))
    for table in tables:
        report.print_table(table, console)
    report.write_page(HERE / "RESULTS-detection.md", costs.INTRODUCTION, machine, tables)


def _compare(made: Workload, parts: set[str], rounds: int, found: Found) -> None:
    """Rounds of all engines, one after the other in each round, so that rounds are comparable."""
    preloaded: dict[int, Path] = {}
    remarks: list[str] = []
    workloads = {made.events: made, FLOOR_EVENTS: _prepared(FLOOR_EVENTS)}
    if "ours" in parts:
        for events, workload in workloads.items():
            with console.status(f"filling a stream with {events:,} events"):
                home = WORK / "streams" / str(events)
                preloaded[events], filled = ours.preload(workload, home, WORK / "logs" / "preload.log")
            if events == made.events:
                remarks.append(
                    f"Filling the stream (`shopstream simulate`, not counted above): {filled.wall_s:.1f} s, "
                    f"{events / filled.wall_s:,.0f} events/s, peak {filled.peak_mb:,.0f} MiB."
                )
    contenders = _contenders(parts, preloaded)
    for windows in ("rules", "classic") if "classic" in parts else ("rules",):
        title = "Two shipped rules" if windows == "rules" else "Windows of published pipelines"
        names = "; ".join(window.words for window in WINDOWS[windows])
        rows = _rounds(contenders, workloads, made, windows, rounds if windows == "rules" else 1)
        table = report.engines_table(f"{title}: {names}", rows, made.events)
        found.rows[windows] = rows
        found.show(replace(table, remarks=[*table.remarks, *(remarks if windows == "rules" else [])]))
        ratios = report.ratios_table(f"{title}: ratios", rows, [variant.name for variant in ours.VARIANTS])
        if ratios.rows and len(ratios.header) > 1:
            found.show(ratios)
    shutil.rmtree(WORK / "streams", ignore_errors=True)


def _rounds(
    contenders: Sequence[Contender], workloads: dict[int, Workload], made: Workload, windows: str, rounds: int
) -> list[report.Row]:
    rows = {}
    for contender in contenders:
        events = min(made.events, contender.most_events or made.events)
        workloads.setdefault(events, made if events == made.events else _prepared(events))
        rows[contender.name] = row = report.Row(contender.name, contender.title, events)
        floor = _once(contender, workloads[FLOOR_EVENTS], windows, row)
        row.floor_s = floor
        row.runs.clear()
        row.checks.clear()
    for number in range(rounds):
        for contender in contenders:
            row = rows[contender.name]
            if not row.problem and number < (contender.rounds or rounds):
                wall_s = _once(contender, workloads[row.events], windows, row)
                if wall_s:
                    console.print(
                        f"{windows}, round {number + 1}: {row.title}: {wall_s:,.1f} s, "
                        f"{row.events / wall_s:,.0f} events/s, peak {row.runs[-1].peak_mb:,.0f} MiB, "
                        f"{row.checks[-1].text}",
                        highlight=False,
                    )
    return list(rows.values())


def _once(contender: Contender, made: Workload, windows: str, row: report.Row) -> float | None:
    """One run; a failure is recorded, and the other runs continue."""
    scratch = WORK / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        with console.status(f"{windows}: {contender.title}, {made.events:,} events"):
            measured, found = contender.run(made, windows, scratch)
    except FailedError as error:
        console.print(f"[red]{contender.title} failed:[/] {error}", highlight=False)
        row.problem = "failed"
        return None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    row.runs.append(measured)
    row.checks.append(found)
    return measured.wall_s


def _latency(found: Found) -> None:
    made = _prepared(LATENCY_S * 20_000, 1)
    lines = []
    for variant in (ours.WINDOWS_ONLY, ours.EVERYTHING):
        home = WORK / "scratch"
        shutil.rmtree(home, ignore_errors=True)
        with console.status(f"latency at 20,000 events/s: {variant.title}"):
            one = measure_latency(made, home, variant, WORK / "logs" / f"latency-{variant.name}.log")
        shutil.rmtree(home, ignore_errors=True)
        found.latencies[variant.title] = one
        lines.append(
            (
                variant.title,
                f"{one.rate:,.0f}",
                f"{one.seen} of {one.bursts}",
                f"{one.p50_ms:,.0f}",
                f"{one.p99_ms:,.0f}",
                f"{one.max_ms:,.0f}",
                f"{one.engine_cpu_s / one.engine_wall_s:.0%}",
                f"{one.engine_peak_mb:,.0f}",
            )
        )
    found.show(
        report.Table(
            f"Append to incident, at a paced 20,000 events/s for {LATENCY_S} s",
            ("engine", "kept rate", "bursts found", "p50 ms", "p99 ms", "max ms", "of one core", "peak MiB"),
            lines,
            (LATENCY_REMARK,),
        )
    )


def _ingest(made: Workload, parts: set[str], found: Found) -> None:
    if "ingest" in parts:
        with console.status("loading CSV into the lake"):
            found.loaded.append(loading.workload_csv(made, WORK))
    if "month" in parts:
        with console.status("a month: synthesise, then load"):
            found.loaded += loading.month(WORK)
    found.show(
        report.Table(
            "CSV files, written and loaded into the lake",
            ("what", "rows", "wall s", "rows/s", "CPU s", "peak MiB"),
            [
                (
                    one.what,
                    f"{one.rows:,}",
                    f"{one.measured.wall_s:,.1f}",
                    f"{one.rows / one.measured.wall_s:,.0f}",
                    f"{one.measured.cpu_s:,.1f}",
                    f"{one.measured.peak_mb:,.0f}",
                )
                for one in found.loaded
            ],
            [one.remark for one in found.loaded if one.remark],
        )
    )


if __name__ == "__main__":
    sys.exit(main())
