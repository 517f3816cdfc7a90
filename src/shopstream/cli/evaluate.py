"""`shopstream evaluate`: measures detection on attacks with known ground truth."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from shopstream.cli.output import Format, FormatOption, emit, emit_object, err, out, settings_of
from shopstream.clock import MINUTE_MS, Clock, SystemClock, from_ms
from shopstream.errors import ConfigurationError
from shopstream.evaluation.plan import Shop, evaluated_scenarios, seeds_of
from shopstream.evaluation.report import (
    Facts,
    baseline_rows,
    commit_of_code,
    control_row,
    machine,
    row_of,
    short_row_of,
    verdict,
    write_report,
)
from shopstream.evaluation.runner import RunPlan, RunResults, run_all
from shopstream.evaluation.runs import default_cache
from shopstream.evaluation.summary import Summary, summarise
from shopstream.simulation.calibration import DAILY_EVENTS


def evaluate(
    ctx: typer.Context,
    *,
    scenario: Annotated[
        list[str] | None,
        typer.Option("--scenario", help="Only this scenario; repeatable.", show_default="all"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of shops, each with one attack of each scenario.")] = 20,
    days: Annotated[int, typer.Option(help="Test days of each shop without attacks.")] = 1,
    tuning: Annotated[
        bool, typer.Option("--tuning", help="Use seeds 1000 to 1099; published figures come from 1 to 99.")
    ] = False,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", help="Processes.", show_default="one a core")] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for JSON and the HTML report.", show_default="HOME/evaluation")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the summary into this file.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Explain each miss and each false incident.")] = False,
    events: Annotated[
        int, typer.Option(help="Genuine events per day; the default is a shop of real size.")
    ] = DAILY_EVENTS,
    history_days: Annotated[int, typer.Option(help="Days of history for the baselines.")] = 14,
    tracker: Annotated[bool, typer.Option("--tracker", help="Events have address and user agent.")] = False,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for baselines and, while tuning, states.", show_default="the user's cache folder"),
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    r"""Measure detection on synthetic shops, with and without injected attacks.

    Shows recall and time to detection of each scenario, incidents and notifications per attack, and false incidents on
    days without attacks. It runs the shipped engine, rules, detectors and incident store, in event time. An
    interrupted evaluation keeps its results so far.

    Choose thresholds with --tuning; without it, held-out seeds are used.

    Examples:
      shopstream evaluate
      shopstream evaluate --scenario site_flood --seeds 3 --tuning --explain
      shopstream evaluate --seeds 5 --tuning --out /tmp/look --format json
    """
    clock = SystemClock()
    started_ms = clock.now_ms()
    rows = evaluated_scenarios()
    wanted = list(dict.fromkeys(scenario or rows))
    for name in wanted:
        if name not in rows:
            raise ConfigurationError(f"expected scenarios among {', '.join(rows)}, got {name!r}; change --scenario")
    numbers = seeds_of(seeds, tuning=tuning)
    shops = [Shop(seed, days=days, history_days=history_days, events_a_day=events, tracker=tracker) for seed in numbers]
    plan = RunPlan(
        shops=shops,
        scenarios=wanted,
        cache=cache or default_cache(),
        jobs=jobs or os.cpu_count() or 1,
        keep_states=tuning,
    )
    folder = out_folder or settings_of(ctx).home / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    results = RunResults()
    interrupted = _run(plan, folder, results)
    summary = summarise(results, rows)
    facts = _facts(plan, results, clock, started_ms, tuning=tuning, partial=interrupted)
    write_report(folder, results, summary, facts, markdown)
    _print(summary, results, facts, fmt, explain=explain)
    if interrupted:
        err.print("interrupted: some runs are missing in these figures")
    err.print(verdict(summary), soft_wrap=True)
    err.print(f"report: {folder / 'report.html'}", soft_wrap=True)
    if interrupted:
        raise typer.Exit(130)


def _run(plan: RunPlan, folder: Path, results: RunResults) -> bool:
    """Run everything; returns whether it was interrupted."""
    columns = (
        SpinnerColumn(),
        TextColumn("evaluating"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %  {task.fields[last]}"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, speed_estimate_period=600) as bar:
        task = bar.add_task("evaluating", total=plan.work, last="")
        try:
            run_all(plan, folder, lambda work, last: bar.update(task, advance=work, last=last), results)
        except KeyboardInterrupt:
            return True
    return False


def _facts(plan: RunPlan, results: RunResults, clock: Clock, started_ms: int, *, tuning: bool, partial: bool) -> Facts:
    now_ms = clock.now_ms()
    return Facts(
        seeds=sorted(
            {run.seed for run in results.baseline} | {run.seed for runs in results.attacks.values() for run in runs}
        ),
        test_days=plan.shops[0].days,
        tuning=tuning,
        commit=commit_of_code(),
        machine=machine(),
        finished=from_ms(now_ms),
        minutes=(now_ms - started_ms) / MINUTE_MS,
        partial=partial,
        tracker=plan.shops[0].tracker,
        history_days=plan.shops[0].history_days,
    )


def _print(summary: Summary, results: RunResults, facts: Facts, fmt: Format, *, explain: bool) -> None:
    rows = [(short_row_of if fmt is Format.TABLE else row_of)(row) for row in summary.rows]
    if fmt is Format.JSON:
        emit_object(asdict(summary), fmt)
        return
    if fmt is Format.CSV:
        emit(rows, fmt)
        return
    kind = "tuning seeds, no evidence" if facts.tuning else "reporting seeds"
    if rows:
        emit(rows, fmt, title=f"Attacks and faults ({kind})")
    if summary.controls:
        emit([control_row(row) for row in summary.controls], fmt, title="Controls")
    emit(baseline_rows(summary), fmt, title="Days without attacks")
    if explain:
        _explain(results)


def _explain(results: RunResults) -> None:
    """Print what detection saw of each miss, and each false incident."""
    for scenario, runs in results.attacks.items():
        for run in runs:
            where = f"{scenario}, seed {run.seed}, {from_ms(run.from_ms):%Y-%m-%d %H:%M}, {run.rate:.1f} ev/s"
            if run.nearest:
                _say(f"missed: {where}, {_parameters(run.parameters)}: {run.nearest}")
            for one in [*run.false, *run.surges]:
                _say(f"{'surge' if one in run.surges else 'false'}: {where}: {one.severity} {one.rule}: {one.note}")
    for result in results.baseline:
        for one in result.incidents:
            kind = "resident" if one.resident else "surge" if one.nature == "surge" else "false"
            when = f"{from_ms(one.detected_ms):%Y-%m-%d %H:%M}"
            _say(f"{kind}: without attack, seed {result.seed}, {when}: {one.severity} {one.rule}: {one.note}")


def _say(line: str) -> None:
    out.print(line, soft_wrap=True, markup=False)


def _parameters(parameters: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items())
