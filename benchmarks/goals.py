"""Goals and results."""

import statistics
from collections.abc import Mapping, Sequence

from latency import Latency
from loading import Loaded
from report import Row, Table, pairs, spread

_GIB = 1024  # MiB


def goals_table(rows: Sequence[Row], latencies: Mapping[str, Latency], loaded: Sequence[Loaded]) -> Table:
    """One row per goal that this run measured.

    Args:
        rows: engines on the shipped rules' windows.
        latencies: variant → latency.
        loaded: what was written and loaded.
    """
    lines: list[tuple[str, str, str]] = []
    good = {row.name: row for row in rows if row.runs}

    def line(goal: str, got: str, *, met: bool) -> None:
        lines.append((goal, got, "yes" if met else "no"))

    for row in (row for name, row in good.items() if name.startswith("ours")):
        line(
            f"1,000,000 events/s end to end: {row.title}",
            f"{spread(row.rates)} events/s" + (f"; without start {row.steady:,.0f}" if row.steady else ""),
            met=statistics.median(row.rates) >= 1_000_000,
        )
    if "flink" in good:
        for row in (row for name, row in good.items() if name.startswith("ours")):
            times = pairs(row, good["flink"])
            line(f"10 times Flink SQL: {row.title}", spread(times, " times", 1), met=min(times) >= 10)
    for row in (row for name, row in good.items() if name.startswith("ours")):
        peak = max(run.peak_mb for run in row.runs)
        line(f"peak memory of 1.5 GiB: {row.title}", f"{peak / _GIB:.2f} GiB", met=peak <= 1.5 * _GIB)
    for title, found in latencies.items():
        line(
            f"p99 from append to incident of 1 s: {title}",
            f"{found.p99_ms:,.0f} ms",
            met=found.p99_ms <= 1_000 and found.seen == found.bursts,
        )
    for one in loaded:
        if "ingest" in one.what:
            rate = one.rows / one.measured.wall_s
            line(f"1,000,000 rows/s into the lake: {one.rows:,} rows", f"{rate:,.0f} rows/s", met=rate >= 1_000_000)
            line(
                f"4 GiB of memory for it: {one.rows:,} rows",
                f"{one.measured.peak_mb / _GIB:.2f} GiB",
                met=one.measured.peak_mb <= 4 * _GIB,
            )
    return Table("Goals", ("goal", "got", "met"), lines)
