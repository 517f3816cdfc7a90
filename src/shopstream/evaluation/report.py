"""The report of an evaluation: JSON for programs, Markdown for the documentation, HTML with charts for people."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import jinja2
import plotly

from shopstream.clock import MINUTE_MS
from shopstream.evaluation.plan import REPORTING_SEEDS, STRATA, TUNING_SEEDS
from shopstream.evaluation.results import AttackResult, Timeline
from shopstream.evaluation.runner import EVERY, RunResults
from shopstream.evaluation.scoring import GRACE_MS, TimeUnit
from shopstream.evaluation.summary import BaselineSummary, ControlSummary, RowSummary, Summary

_NONE = "-"
_MINUTE_S = 60
_HOUR_S = 3_600
_LEAST_EVENTS = 3_000_000
_TARGETS = {"site": 1.0, "actors": 1.0, "precision": 0.90, "notifications": 1.2}


@dataclass(frozen=True, slots=True)
class Facts:
    """How the figures were made.

    Args:
        seeds: seeds of the shops with results.
        test_days: test days of each shop.
        tuning: whether they are tuning seeds.
        commit: commit of the code, or its version.
        machine: processor, cores, Python.
        finished: end of the evaluation.
        minutes: duration.
        partial: whether it was interrupted.
        tracker: whether events have address and user agent.
        history_days: days of history for the baselines.
    """

    seeds: Sequence[int]
    test_days: int
    tuning: bool
    commit: str
    machine: str
    finished: datetime
    minutes: float
    partial: bool
    tracker: bool
    history_days: int


def met(reached: bool | None) -> str:
    """`met`, `missed` or `-`."""
    return _NONE if reached is None else "met" if reached else "missed"


def time_text(value: float | None, unit: TimeUnit) -> str:
    """A time to detection: `12 s`, `4.2 min`, `3.1 h`, `14 events`, `1.9x`."""
    if value is None:
        return _NONE
    if unit is TimeUnit.EVENTS:
        return f"{value:.0f} event{'' if round(value) == 1 else 's'}"
    if unit is TimeUnit.FACTOR:
        return f"{value:.2f}x"
    if value < 2 * _MINUTE_S:
        return f"{value:.0f} s"
    return f"{value / _MINUTE_S:.1f} min" if value < 2 * _HOUR_S else f"{value / _HOUR_S:.1f} h"


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}".removeprefix("0") if value < 1 else "1.000"


def _figure(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"


def row_of(row: RowSummary) -> dict[str, object]:
    """One line of the catalogue."""
    return {
        "scenario": row.title,
        "found": f"{row.found:,} of {row.trials:,} {row.unit}",
        "recall": _share(row.recall),
        "95 %": f"{_share(row.low)} to {_share(row.high)}",
        "target": _NONE if row.target_recall is None else f"≥ {_share(row.target_recall)}",
        "median": time_text(row.median, row.time_unit),
        "p95": time_text(row.p95, row.time_unit),
        "at most": time_text(row.target_time, row.time_unit),
        "incidents": _figure(row.incidents_per_attack),
        "notifications": _figure(row.notifications_per_incident),
        "false": row.false,
        "target met": met(row.reached),
    }


def short_row_of(row: RowSummary) -> dict[str, object]:
    """One line of the catalogue for a terminal."""
    full = row_of(row)
    return {
        "scenario": row.title,
        "found": f"{row.found:,}/{row.trials:,}",
        "recall": f"{row.recall:.2f}",
        "target": _NONE if row.target_recall is None else f"{row.target_recall:.2f}",
        "median": full["median"],
        "limit": full["at most"],
        "p95": full["p95"],
        "inc.": full["incidents"],
        "notif.": full["notifications"],
        "false": row.false,
        "target met": met(row.reached),
    }


def control_row(row: ControlSummary) -> dict[str, object]:
    """One line of the controls."""
    return {
        "control": row.title,
        "runs": row.runs,
        "critical": row.critical,
        "other": row.other,
        "informational": row.informational,
        "good runs": f"{row.good_runs} of {row.runs}",
        "target met": met(row.reached),
    }


def baseline_rows(summary: Summary) -> list[dict[str, object]]:
    """The figures of days without attacks, one per row."""
    baseline = summary.baseline
    errors = baseline.forecast_error
    lines: list[tuple[str, str, str, bool | None]] = [
        (
            "genuine events",
            f"{baseline.events:,} in {baseline.days:g} days",
            "≥ 3,000,000",
            baseline.events >= _LEAST_EVENTS,
        ),
        (
            "false site incidents a week",
            f"{baseline.site_per_week:.2f} ({baseline.site} found; bound {baseline.site_bound:.2f})",
            "≤ 1",
            baseline.site_per_week <= _TARGETS["site"],
        ),
        (
            "false actor incidents per million events",
            f"{baseline.actors_per_million:.3f} ({baseline.actors} found; bound {baseline.actors_bound:.3f})",
            "≤ 1",
            baseline.actors_per_million <= _TARGETS["actors"],
        ),
        ("false incidents a day", f"{baseline.per_day:.2f}", _NONE, None),
        ("incidents about resident robots", f"{baseline.residents}", _NONE, None),
        ("organic surges", f"{baseline.surges}", _NONE, None),
        (
            "incident precision",
            f"{_share(summary.precision)} ({summary.true} true, {summary.false} false)",
            "≥ .900",
            None if summary.precision is None else summary.precision >= _TARGETS["precision"],
        ),
        (
            "notifications per notified incident",
            _figure(summary.notifications_per_incident),
            "≤ 1.2",
            None
            if summary.notifications_per_incident is None
            else summary.notifications_per_incident <= _TARGETS["notifications"],
        ),
        *(
            (
                f"forecast error, {series}",
                f"{error:.1%} (the baseline states {baseline.stated_error.get(series, 0):.1%})",
                _NONE,
                None,
            )
            for series, error in errors.items()
        ),
    ]
    names = ("figure", "value", "target", "target met")
    return [dict(zip(names, (*line[:3], met(line[3])), strict=True)) for line in lines]


def verdict(summary: Summary) -> str:
    """How many targets were met, and which were missed."""
    scored = [(row.title, row.reached) for row in summary.rows if row.reached is not None]
    scored += [(row.title, row.reached) for row in summary.controls]
    missed = [title for title, reached in scored if not reached]
    missed += [str(row["figure"]) for row in baseline_rows(summary) if row["target met"] == met(reached=False)]
    count = len(scored) + sum(row["target met"] != met(None) for row in baseline_rows(summary))
    return f"{count - len(missed)} of {count} targets met; missed: {', '.join(missed) or 'none'}."


def method(facts: Facts, baseline: BaselineSummary) -> list[str]:
    """What readers must know about the figures, in sentences."""
    kind, others = ("tuning", REPORTING_SEEDS) if facts.tuning else ("reporting", TUNING_SEEDS)
    hours = ", ".join(f"{low:g} to {high:g}" for low, high in STRATA)
    seeds = f"{min(facts.seeds)} to {max(facts.seeds)}" if facts.seeds else "none"
    split = (
        f"Seeds used: {seeds}, of the {kind} range. Thresholds are chosen on seeds {TUNING_SEEDS.start} to "
        f"{TUNING_SEEDS.stop - 1} only, published figures come from {REPORTING_SEEDS.start} to "
        f"{REPORTING_SEEDS.stop - 1} only; the ranges have no seed in common"
    )
    shops = (
        f"Each seed is one synthetic shop: {facts.history_days} days of history for the baselines, the last of which "
        f"is the warm-up, then {facts.test_days} test day(s); "
        f"{baseline.days:g} day(s) without attacks are in these figures."
    )
    starts = (
        f"Attacks begin at random moments in these hours of the day, in turn (UTC): {hours}. An attack's run starts "
        "from the saved state of the baseline run at that moment and differs from it by the attack only."
    )
    counting = (
        "Incidents count, not windows, without point adjustment. Incidents that the baseline run has, too, do not "
        "count for the attack. Others that the attack does not explain are false."
    )
    late = (
        f"An incident may begin up to {GRACE_MS // MINUTE_MS} minutes after the end of the attack. An organic surge "
        "never counts as the detection of an attack."
    )
    columns = (
        "Columns: incidents are true incidents per attack that has any, notifications are per incident with any, false "
        "are false incidents of the runs with the attack. For controls the worst run is shown; a good run has no "
        "critical incident, at most one informational, and no other."
    )
    recall = (
        "Recall counts attacks, or actors where single bots must be found. Median and p95 are over those that were "
        "found. Times are event time; live, the allowed out-of-orderness (5 s) is added."
    )
    end = f". These figures are no evidence: use seeds from {others.start} on." if facts.tuning else "."
    return [
        split + end,
        shops,
        starts,
        counting,
        late,
        recall,
        columns,
        f"Only one shop in {EVERY} has promotion days: each is several days of traffic.",
        "Precision depends on the number of attacks: each shop has one of each scenario in its test days.",
        "The ground truth names robots of the genuine traffic; incidents about them are listed separately.",
        "Events have address and user agent."
        if facts.tracker
        else "Events have the nine columns of a shop's log: no address, no user agent.",
    ]


Chart = Mapping[str, Any]
"""`data` and `layout`, JSON-ready."""

_GOOD: Final = "#1a7f5a"
_BAD: Final = "#c2410c"
_PLAIN: Final = "#475569"
_EXPECTED: Final = "#64748b"
_ROW_PX = 30


def _chart(data: Sequence[Mapping[str, Any]], **layout: Any) -> Chart:  # noqa: ANN401  plotly's own keys
    usual = {
        "margin": {"l": 60, "r": 20, "t": 30, "b": 40},
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "yaxis": {"automargin": True},
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom"},
    }
    return {"data": list(data), "layout": usual | layout}


def _colour(row: RowSummary) -> str:
    return {True: _GOOD, False: _BAD, None: _PLAIN}[row.reached]


def recall_chart(summary: Summary) -> Chart:
    """Recall with its interval, and the target, of each scenario."""
    rows = list(reversed(summary.rows))
    names = [row.title for row in rows]
    found = {
        "type": "scatter",
        "mode": "markers",
        "name": "recall, 95 % interval",
        "x": [row.recall for row in rows],
        "y": names,
        "marker": {"size": 11, "color": [_colour(row) for row in rows]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [row.high - row.recall for row in rows],
            "arrayminus": [row.recall - row.low for row in rows],
            "color": _EXPECTED,
            "thickness": 1.5,
        },
        "hovertext": [f"{row.found} of {row.trials} {row.unit}" for row in rows],
    }
    return _chart(
        [found, _targets("target", names, [row.target_recall for row in rows])],
        height=110 + _ROW_PX * len(rows),
        xaxis={"range": [-0.02, 1.03], "title": {"text": "share found"}, "zeroline": False},
    )


def _targets(name: str, titles: Sequence[str], values: Sequence[float | None]) -> Mapping[str, Any]:
    marker = {"symbol": "line-ns-open", "size": 18, "color": _PLAIN, "line": {"width": 2}}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": values,
        "y": titles,
        "marker": marker,
        "hoverinfo": "x+name",
    }


def delay_chart(results: RunResults, summary: Summary) -> Chart:
    """Seconds to detection of each attack (or actor), on a logarithmic axis."""
    data: list[Mapping[str, Any]] = []
    for row in reversed(summary.rows):
        seconds = [max(value, 1.0) for run in results.attacks[row.scenario] for value in _seconds(run)]
        data.append(
            {
                "type": "box",
                "name": row.title,
                "x": seconds,
                "boxpoints": "all",
                "jitter": 0.4,
                "pointpos": 0,
                "marker": {"size": 4, "color": _colour(row)},
                "line": {"width": 1},
                "showlegend": False,
            }
        )
    timed = [row for row in summary.rows if row.time_unit is TimeUnit.SECONDS and row.target_time]
    data.append(_targets("target for the median", [row.title for row in timed], [row.target_time for row in timed]))
    return _chart(
        data,
        height=110 + _ROW_PX * len(summary.rows),
        xaxis={"type": "log", "title": {"text": "seconds from the first event to the detection"}},
    )


def _seconds(run: AttackResult) -> list[float]:
    if run.actors:
        return [actor[0] for actor in run.actors if actor is not None]
    return [] if run.found_after_s is None else [run.found_after_s]


def false_chart(summary: Summary) -> Chart:
    """False incidents on days without attacks, by rule."""
    rules = list(summary.baseline.per_rule.items())[::-1]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [count for _, count in rules],
        "y": [rule for rule, _ in rules],
        "marker": {"color": _BAD},
    }
    return _chart(
        [bars],
        height=90 + _ROW_PX * len(rules),
        xaxis={"title": {"text": "false incidents on days without attacks"}},
    )


def timeline_chart(timeline: Timeline) -> Chart:
    """Events of a key over time, events of the attack, the baseline, and detections."""
    times = [_moment(time_ms) for time_ms in timeline.times_ms]
    per_second = 1000 / timeline.bin_ms
    lines: list[Mapping[str, Any]] = [_line("events", times, [n * per_second for n in timeline.events], _PLAIN)]
    if any(timeline.hostile):
        hostile = _line("of the attack", times, [n * per_second for n in timeline.hostile], _BAD)
        lines.append({**hostile, "fill": "tozeroy"})
    if timeline.expected:
        expected = _line("baseline", times, [n * per_second for n in timeline.expected], _EXPECTED)
        lines.append({**expected, "line": {"color": _EXPECTED, "dash": "dot", "width": 2}})
    shapes: list[Mapping[str, Any]] = []
    if timeline.attack is not None:
        edges = {
            "x0": _moment(timeline.attack[0]),
            "x1": _moment(timeline.attack[1]),
            "y0": 0,
            "y1": 1,
            "yref": "paper",
        }
        shapes.append({"type": "rect", **edges, "fillcolor": _BAD, "opacity": 0.08, "line": {"width": 0}})
    for from_ms, until_ms in timeline.windows:
        edges = {"x0": _moment(from_ms), "x1": _moment(until_ms), "y0": 0, "y1": 0.03, "yref": "paper"}
        shapes.append({"type": "rect", **edges, "fillcolor": _GOOD, "opacity": 0.5, "line": {"width": 0}})
    notes = []
    for place, (time_ms, words) in enumerate(timeline.marks):
        at = _moment(time_ms)
        line = {"color": _GOOD, "width": 1.5, "dash": "dash"}
        shapes.append({"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "line": line})
        height = 1 - 0.08 * (place % 6)
        notes.append({"x": at, "y": height, "yref": "paper", "text": words, "showarrow": False, "xanchor": "left"})
    return _chart(
        lines,
        height=320,
        xaxis={"title": {"text": f"UTC, bins of {timeline.bin_ms // 1000} s"}},
        yaxis={"title": {"text": "events per second"}, "rangemode": "tozero"},
        shapes=shapes,
        annotations=notes,
    )


def _line(name: str, times: Sequence[str], values: Sequence[float], colour: str) -> Mapping[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": times,
        "y": [round(value, 3) for value in values],
        "line": {"color": colour, "width": 1.5, "shape": "hv"},
    }


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def markdown(summary: Summary, facts: Facts) -> str:
    """A Markdown page: scenarios with their targets, controls, days without attacks, and the method."""
    head = [
        "# What detection finds",
        "",
        f"{facts.finished:%Y-%m-%d %H:%M} UTC, commit {facts.commit}, {facts.machine}, {facts.minutes:.0f} min. "
        + ("**Interrupted: some runs are missing.** " if facts.partial else "")
        + f"Written by `shopstream evaluate`. {verdict(summary)}",
    ]
    parts = [*head, "", "## Attacks and faults", "", *_table([row_of(row) for row in summary.rows])]
    if summary.controls:
        parts += ["", "## Controls", "", *_table([control_row(row) for row in summary.controls])]
    parts += ["", "## Days without attacks", "", *_table(baseline_rows(summary))]
    if summary.baseline.per_rule:
        rows: list[dict[str, object]] = [
            {"rule": rule, "false incidents": count} for rule, count in summary.baseline.per_rule.items()
        ]
        parts += ["", *_table(rows)]
    parts += ["", "## Method", "", *(f"- {line}" for line in method(facts, summary.baseline)), ""]
    return "\n".join(parts)


def _table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    if not rows:
        return ["Nothing was run."]
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def write_report(folder: Path, results: RunResults, summary: Summary, facts: Facts, page: Path | None) -> None:
    """Write `evaluation.json`, `summary.md` and `report.html`, and the Markdown also to `page`."""
    text = markdown(summary, facts)
    (folder / "summary.md").write_text(text, encoding="utf-8")
    if page is not None:
        page.write_text(text, encoding="utf-8")
    document = {"facts": asdict(facts), **asdict(summary)}
    (folder / "evaluation.json").write_text(json.dumps(document, indent=1, default=_plain) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(_html(results, summary, facts), encoding="utf-8")


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _html(results: RunResults, summary: Summary, facts: Facts) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((files("shopstream.evaluation") / "report.html.j2").read_text("utf-8"))
    script = Path(str(files(plotly))) / "package_data" / "plotly.min.js"
    missed, false = _timelines(results)
    figures = {
        "recall": recall_chart(summary),
        "delay": delay_chart(results, summary),
        **({"false": false_chart(summary)} if summary.baseline.per_rule else {}),
        **{f"missed-{place}": timeline_chart(one) for place, one in enumerate(missed)},
        **{f"false-{place}": timeline_chart(one) for place, one in enumerate(false)},
    }
    return template.render(
        plotly_js=script.read_text("utf-8"),
        figures=figures,
        rows=[row_of(row) for row in summary.rows],
        controls=[control_row(row) for row in summary.controls],
        baseline=baseline_rows(summary),
        how=method(facts, summary.baseline),
        facts=facts,
        verdict=verdict(summary),
        missed=missed,
        false_timelines=false,
        counts=_counts(results, summary),
    )


def _timelines(results: RunResults) -> tuple[list[Timeline], list[Timeline]]:
    """Timelines of misses, and of false incidents."""
    drawn = [timeline for runs in results.attacks.values() for run in runs for timeline in run.timelines]
    drawn += [timeline for result in results.baseline for timeline in result.timelines]
    return [one for one in drawn if one.missed], [one for one in drawn if not one.missed]


def _counts(results: RunResults, summary: Summary) -> Mapping[str, int]:
    """Number of misses and of false incidents, with or without a timeline."""
    runs = [run for of_row in results.attacks.values() for run in of_row]
    return {
        "missed": sum(bool(run.nearest) for run in runs),
        "false": summary.baseline.site + summary.baseline.actors + sum(len(run.false) for run in runs),
    }


def machine() -> str:
    """Processor, number of cores, Python version."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def commit_of_code() -> str:
    """Short id of the commit, with a + for uncommitted changes; the version if there is no repository."""
    version = metadata.version("shopstream")
    git = shutil.which("git")
    here = Path(__file__).parent
    if git is None:
        return version
    found = _git(git, here, "rev-parse", "--short", "HEAD")
    changed = _git(git, here, "status", "--porcelain", "--", str(here.parent))
    return version if found is None else found + ("+" if changed else "")


def _git(git: str, folder: Path, *arguments: str) -> str | None:
    done = subprocess.run([git, *arguments], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() if done.returncode == 0 else None
