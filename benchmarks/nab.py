"""`make bench-nab NAB=path`: the univariate detectors on the Numenta Anomaly Benchmark, scored by its own scorer.

    git clone https://github.com/numenta/NAB
    make bench-nab NAB=NAB

Detectors 1 (volume) and 2 (burst), and silence of 10, as shipped, see each file as they would see a shop's events: one
event series, in bins of 10 s, forecasts learned as it goes. One rule makes events of any file's values: `RATE` events
a second at the mean of the first 15 % (NAB's probationary period, which it does not score), lowest value at zero if
there are negative ones, a value holding until the next. Nothing is set per file.

Two rows: *as shipped* is one alarm where an incident opens; *by score* gives the incident's score there, and NAB's
optimiser takes the threshold, as for the detectors of its table. Nothing of NAB is kept here; scores go to
`benchmarks/RESULTS-nab.md`.
"""

import argparse
import csv
import json
import re
import shutil
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from time import process_time

from machine import describe
from report import Table, write_page

from shopstream.clock import to_ms
from shopstream.detection.detection import Detection
from shopstream.detection.detector import BIN_MS, SITE_10S
from shopstream.detection.detectors.shipped import shipped_detectors
from shopstream.detection.settings import DetectionSettings
from shopstream.engine.signals import Signal

HERE = Path(__file__).parent
WORK = HERE / ".work"
SCORER_PYTHON = WORK / "venv-nab" / "bin" / "python"
RATE = 20.0
PROBATION = 0.15
UNIVARIATE = ("volume", "silence", "burst")
AS_SHIPPED, BY_SCORE = "shopstreamAlarms", "shopstream"
PROFILES = ("standard", "reward_low_FP_rate", "reward_low_FN_rate")
TITLES = {AS_SHIPPED: "shopstream, as shipped", BY_SCORE: "shopstream, by score"}
INTRODUCTION = """\
# Univariate detectors on the Numenta Anomaly Benchmark

Written by `make bench-nab NAB=path/to/NAB`; do not edit. Volume, burst and silence as shipped, with no setting of their
own and none per file. A value becomes a rate of events (20 a second at the mean of the first 15 % of its file, which
NAB does not score; the lowest value is zero where there are negative ones) that holds until the next value; forecasts
are learned as the file goes on. *As shipped*: one alarm where an incident opens, and no threshold to find. *By score*:
the incident's score there, with the threshold that NAB's optimiser finds, as for the other rows. Scored by NAB's own
code and labels; 100 is perfect, 0 says nothing at all, and false alarms can bring it far below.

What to expect: these detectors are made for counts of events of a busy shop. They look for floods, pulses and silence,
follow a level that falls without a word, and take half an hour to know a series. Most labels of NAB are changes of
machine metrics, downward ones and changes of pattern among them, which nothing here looks for."""
_HALF = 10.0
"""Standard deviations that correspond to a score of 0.5."""


@dataclass(frozen=True, slots=True)
class Series:
    """One file.

    Args:
        name: `folder/file.csv`.
        times: as text, for NAB.
        at_ms: the same, epoch milliseconds.
        values: one at each time.
    """

    name: str
    times: tuple[str, ...]
    at_ms: tuple[int, ...]
    values: tuple[float, ...]

    @staticmethod
    def read(path: Path) -> "Series":
        """Read a CSV file of NAB."""
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        times = tuple(row["timestamp"] for row in rows)
        at_ms = tuple(to_ms(datetime.fromisoformat(time).replace(tzinfo=UTC)) for time in times)
        return Series(f"{path.parent.name}/{path.name}", times, at_ms, tuple(float(row["value"]) for row in rows))

    def counts(self) -> tuple[float, ...]:
        """Events per bin while each value holds."""
        known = self.values[: max(2, int(PROBATION * len(self.values)))]
        lowest = min(0.0, *known)
        mean = fmean(value - lowest for value in known)
        factor = RATE * BIN_MS / 1_000 / mean if mean else 1.0
        return tuple(max(0.0, (value - lowest) * factor) for value in self.values)


def bins(series: Series) -> Iterator[tuple[int, float]]:
    """End of each bin, and the events in it."""
    counts = series.counts()
    step_ms = int(median(after - before for before, after in pairwise(series.at_ms)))
    ends = [*series.at_ms[1:], series.at_ms[-1] + step_ms]
    for start_ms, until_ms, count in zip(series.at_ms, ends, counts, strict=True):
        for end_ms in range(start_ms - start_ms % BIN_MS + BIN_MS, until_ms - until_ms % BIN_MS + 1, BIN_MS):
            yield end_ms, count


def detect(series: Series) -> tuple[list[Detection], int]:
    """Detections of the univariate detectors in a file, and the number of bins."""
    settings = DetectionSettings()
    detectors = [detector for detector in shipped_detectors(settings) if detector.id in UNIVARIATE]
    found: list[Detection] = []
    number = 0
    for end_ms, count in bins(series):
        number += 1
        signal = Signal(SITE_10S.name, {}, end_ms - BIN_MS, end_ms, end_ms - BIN_MS, end_ms, {"events": count}, True)
        for detector in detectors:
            found += detector.observe(end_ms, [signal] if count else [])
    return found, number


def incidents(detections: Sequence[Detection]) -> list[Detection]:
    """The first detection of each incident; a detection after the suppression time begins another incident."""
    quiet_until: dict[str, int] = {}
    first = []
    for detection in detections:
        if detection.start_ms > quiet_until.get(detection.rule_id, -1):
            first.append(detection)
        quiet_until[detection.rule_id] = detection.end_ms + detection.suppress_for_ms
    return first


def anomaly_scores(series: Series, opened: Sequence[Detection]) -> list[float]:
    """Score of each row, 0 to 1: that of the incident that opened during its interval."""
    scores = [0.0] * len(series.values)
    for detection in opened:
        place = max(0, bisect_right(series.at_ms, detection.end_ms - 1) - 1)
        deviations = abs(float(str(detection.evidence.get("score", _HALF))))
        scores[place] = max(scores[place], deviations / (deviations + _HALF))
    return scores


@dataclass(frozen=True, slots=True)
class Done:
    """One file, scored."""

    name: str
    rows: int
    bins: int
    incidents: int
    cpu_s: float


def judge(path: Path, labels: Path, results: Path) -> Done:
    """Score one file and write its rows for NAB's scorer."""
    series = Series.read(path)
    begun = process_time()
    detections, number = detect(series)
    cpu_s = process_time() - begun
    opened = incidents(detections)
    scores = anomaly_scores(series, opened)
    windows = [(start, end) for start, end in json.loads((labels / "combined_windows.json").read_text())[series.name]]
    for detector in (AS_SHIPPED, BY_SCORE):
        target = results / detector / path.parent.name / f"{detector}_{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("timestamp", "value", "anomaly_score", "label"))
            for time, value, score in zip(series.times, series.values, scores, strict=True):
                label = int(any(start[:19] <= time <= end[:19] for start, end in windows))
                writer.writerow((time, value, float(score > 0) if detector == AS_SHIPPED else score, label))
    return Done(series.name, len(scores), number, len(opened), cpu_s)


def main() -> int:
    """Score every file, run NAB's scorer, write the section."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("nab", type=Path, help="a checkout of github.com/numenta/NAB")
    options.add_argument("--processes", type=int, default=2)
    chosen = options.parse_args()
    nab: Path = chosen.nab.resolve()
    if not (nab / "labels" / "combined_windows.json").is_file():
        raise SystemExit(
            f"expected a checkout of NAB in {nab}, found no labels; git clone https://github.com/numenta/NAB"
        )
    results = WORK / "nab"
    shutil.rmtree(results, ignore_errors=True)
    files = sorted((nab / "data").glob("*/*.csv"))
    with ProcessPoolExecutor(chosen.processes) as pool:
        jobs = [pool.submit(judge, file, nab / "labels", results) for file in files]
        done = []
        for job in jobs:
            done.append(job.result())
            print(f"{done[-1].name}: {done[-1].bins:,} bins, {done[-1].incidents} incidents, {done[-1].cpu_s:.0f} s")
    scored = subprocess.run(
        [SCORER_PYTHON, HERE / "peers" / "nab_score.py", nab, results, f"{AS_SHIPPED}=0.5", BY_SCORE],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    scores = json.loads(scored.stdout.splitlines()[-1])
    write_page(HERE / "RESULTS-nab.md", INTRODUCTION, describe({}), [_scores(nab, scores), _files(done)])
    return 0


def _scores(nab: Path, ours: Mapping[str, Mapping[str, float]]) -> Table:
    """Our score among the published ones, best first."""
    rows = [(name, *figures) for name, *figures in _published(nab)]
    for detector, title in TITLES.items():
        rows.append((f"**{title}**", *(f"{ours[detector][profile]:.1f}" for profile in PROFILES)))
    rows.sort(key=lambda row: -float(row[1].split("-")[0] or row[1]))  # a range counts by its first end
    commit = subprocess.run(
        ["git", "-C", nab, "log", "-1", "--format=%H of %cs"], check=False, capture_output=True, text=True
    ).stdout.strip()
    remark = f"NAB at commit {commit or 'unknown (no git checkout)'}; the table's other rows are its README's."
    return Table("Scores", ("detector", "standard", "reward low FP", "reward low FN"), rows, (remark,))


def _published(nab: Path) -> list[tuple[str, ...]]:
    """Rows of the scoreboard in NAB's README: name, and the three profiles' scores."""
    text = (nab / "README.md").read_text(encoding="utf-8")
    board = text[text.index("#### Scoreboard") : text.index("#### Corpus")]
    rows = []
    for line in board.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == len(PROFILES) + 1 and re.match(r"-?\d", cells[1]):
            name = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", cells[0]).replace("&dagger;", "").rstrip("* ")
            rows.append((name, *cells[1:]))
    return rows


def _files(done: Sequence[Done]) -> Table:
    rows = []
    for folder in sorted({one.name.split("/")[0] for one in done}):
        those = [one for one in done if one.name.startswith(f"{folder}/")]
        cpu_s, number = sum(one.cpu_s for one in those), sum(one.bins for one in those)
        rows.append(
            (
                folder,
                f"{len(those)}",
                f"{sum(one.rows for one in those):,}",
                f"{number:,}",
                f"{sum(one.incidents for one in those):,}",
                f"{cpu_s / number * 1e6:.1f}",
            )
        )
    return Table("What was judged", ("folder", "files", "values", "bins of 10 s", "incidents", "µs/bin"), rows)


if __name__ == "__main__":
    sys.exit(main())
