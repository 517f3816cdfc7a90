"""Shows results as tables, and writes `RESULTS.md`."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from machine import Machine
from measure import Measurement
from rich.console import Console
from rich.table import Table as RichTable
from workload import Check

INTRODUCTION = """\
Written by `make bench`; do not edit. Every figure is of whole processes, started for the run and gone after it:
interpreter and JVM start-up, reading, windows, checkpoints and committed output are all inside. *Rate* is events over
wall time, median (lowest to highest) of the rounds; *without start* takes off what the same command took for 1,000
events. *CPU* is user and system time of all processes, *peak* the largest sum of their resident memory. *Answer*
compares what was found with one plain SQL query over all events."""

HOW = """\
- **shopstream** reads a stream that was filled before (`shopstream simulate`; its time is given below, not counted).
  The two rules that are compared are on, with deduplication by event id (two minutes, and the newest million),
  late-data handling, incidents, and checkpoints that commit exactly once; then also the Iceberg lake and the live
  journeys.
- **DuckDB, micro-batches** is the limit: a script made for these windows, from Parquet in order, without checkpoint,
  late data, duplicates or incidents. **DuckDB, batch** is the answer after the last event, from CSV.
- **Flink SQL** (PyFlink, two slots, one JVM with 4 GiB of heap): event-time watermarks, window table functions,
  exactly-once checkpoints every 10 s on files, file sinks that commit, object reuse, mini-batches, heap state; CSV, one
  time-ordered file per slot. No deduplication and no incidents.
- **Spark Structured Streaming** (two local cores, 6 GiB of heap): one query per window definition, watermark,
  checkpoint per micro-batch, file sinks that commit; CSV. No deduplication and no incidents.
- Inputs are not of one form: shopstream's stream holds Arrow batches, as `shopstream simulate` writes them, and the
  micro-batch script reads Parquet; Flink, Spark and batch DuckDB parse CSV text, and that is in their time.
- Flink, Spark and the second set of windows run once; their figures have no spread, and ratios take each round of
  shopstream with that one run.
- A window of 10 s that slides by 1 s puts each event into ten windows: Flink and Spark pay for that at each event,
  shopstream sums panes and expands only keys that pass."""

_TEXT = frozenset({"answer", "got", "met"})  # columns that are no numbers


@dataclass
class Row:
    """All rounds of one engine on one set of windows."""

    name: str
    title: str
    events: int
    floor_s: float | None = None
    runs: list[Measurement] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    problem: str = ""

    @property
    def rates(self) -> list[float]:
        """Events a second of each round."""
        return [self.events / run.wall_s for run in self.runs]

    @property
    def steady(self) -> float | None:
        """Rate without start-up, from the median wall time; None if start-up dominates."""
        if self.floor_s is None or not self.runs:
            return None
        wall_s = statistics.median(run.wall_s for run in self.runs)
        return self.events / (wall_s - self.floor_s) if wall_s > 2 * self.floor_s else None

    @property
    def wrong(self) -> bool:
        """Whether it failed or gave a wrong answer."""
        return bool(self.problem) or any(check.missing or check.extra for check in self.checks)


@dataclass(frozen=True, slots=True)
class Table:
    """A table with title, header, rows of text, and remarks."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    remarks: Sequence[str] = ()


def spread(values: Sequence[float], unit: str = "", digits: int = 0) -> str:
    """Median (lowest to highest)."""
    middle = f"{statistics.median(values):,.{digits}f}{unit}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def engines_table(title: str, rows: Sequence[Row], most_events: int) -> Table:
    """One row per engine."""
    lines = []
    for row in rows:
        if row.problem:
            lines.append((row.title, f"{row.events:,}", row.problem, *[""] * 6))
            continue
        cpu = statistics.median(run.cpu_s for run in row.runs)
        lines.append(
            (
                row.title,
                f"{row.events:,}",
                spread([run.wall_s for run in row.runs], digits=1),
                spread(row.rates),
                f"{row.steady:,.0f}" if row.steady else "",
                f"{cpu:,.1f}",
                f"{cpu / row.events * 1e6:,.2f}",
                f"{max(run.peak_mb for run in row.runs):,.0f}",
                row.checks[-1].text,
            )
        )
    fewer = [row.title for row in rows if row.events < most_events]
    remarks = (
        [f"Fewer events, to keep the run short: {', '.join(fewer)}; rates compare, totals do not."] if fewer else []
    )
    return Table(
        title,
        (
            "engine",
            "events",
            "wall s",
            "rate, events/s",
            "without start",
            "CPU s",
            "CPU µs/event",
            "peak MiB",
            "answer",
        ),
        lines,
        remarks,
    )


def pairs(mine: Row, peer: Row) -> list[float]:
    """Speed-up per round; all pairs if the numbers of rounds differ."""
    if len(mine.rates) == len(peer.rates):
        return [a / b for a, b in zip(mine.rates, peer.rates, strict=True)]
    return [a / b for a in mine.rates for b in peer.rates]


def ratios_table(title: str, rows: Sequence[Row], ours: Sequence[str]) -> Table:
    """Speed-up of shopstream, by pairs of rounds; all pairs if the numbers of rounds differ."""
    good = {row.name: row for row in rows if row.runs}
    peers = [row for row in good.values() if not row.name.startswith("ours")]
    lines = []
    for name in ours:
        if name not in good:
            continue
        mine = good[name]
        lines.append((mine.title, *(spread(pairs(mine, peer), " times", 2) for peer in peers)))
    return Table(title, ("rate of … over", *(peer.title for peer in peers)), lines)


def print_table(table: Table, console: Console) -> None:
    """Print a table."""
    rich = RichTable(title=table.title, title_justify="left", header_style="bold")
    for place, name in enumerate(table.header):
        rich.add_column(name, justify="left" if place == 0 or name in _TEXT else "right")
    for row in table.rows:
        rich.add_row(*row)
    console.print(rich)
    for remark in table.remarks:
        console.print(f"  {remark}", style="dim", highlight=False)


def write_markdown(path: Path, machine: Machine, definition: str, tables: Sequence[Table]) -> None:
    """The committed comparison."""
    introduction = f"# Benchmark results\n\n{INTRODUCTION}"
    write_page(path, introduction, machine, tables, "## Workload", definition, "## How each engine runs", HOW)


def write_page(path: Path, introduction: str, machine: Machine, tables: Sequence[Table], *before: str) -> None:
    """A page of tables, after the paragraphs of `before`."""
    parts = [introduction, f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC. {machine.text}", *before]
    for table in tables:
        marks = ["---" if place == 0 or name in _TEXT else "---:" for place, name in enumerate(table.header)]
        lines = [
            f"| {' | '.join(table.header)} |",
            f"| {' | '.join(marks)} |",
            *(f"| {' | '.join(row)} |" for row in table.rows),
        ]
        parts += [f"## {table.title}", "\n".join(lines), *table.remarks]
    path.write_text("\n\n".join(parts) + "\n")
