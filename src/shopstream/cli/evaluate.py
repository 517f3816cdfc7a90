"""`shopstream evaluate`: what detection finds of attacks whose truth is known, and what it tells falsely."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from shopstream.cli.output import Format, FormatOption, emit, emit_object, err, out, settings_of
from shopstream.clock import Clock, SystemClock, from_ms
from shopstream.errors import ConfigurationError

if TYPE_CHECKING:
    from shopstream.evaluation.report import Facts
    from shopstream.evaluation.runner import Done, Matrix
    from shopstream.evaluation.summary import Summary

__all__ = ["evaluate"]

_DAILY_EVENTS = 1_770_000
_MINUTE_MS = 60_000


def evaluate(
    ctx: typer.Context,
    *,
    scenario: Annotated[
        list[str] | None,
        typer.Option("--scenario", help="Only this row of the catalogue; repeatable.", show_default="all"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of shops, each with one attack of each scenario.")] = 20,
    days: Annotated[int, typer.Option(help="Genuine test days of each shop.")] = 1,
    tuning: Annotated[
        bool, typer.Option("--tuning", help="Take seeds 1000 to 1099; figures to publish come from 1 to 99.")
    ] = False,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", help="Processes.", show_default="one a core")] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for JSON and the HTML report.", show_default="HOME/evaluation")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the summary into this file, too.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say what came nearest for each miss.")] = False,
    events: Annotated[int, typer.Option(help="Genuine events a day; fewer is no shop of real size.")] = _DAILY_EVENTS,
    history_days: Annotated[int, typer.Option(help="Days from which the baselines are learnt.")] = 14,
    tracker: Annotated[bool, typer.Option("--tracker", help="Events carry address and user agent.")] = False,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for baselines and, while tuning, states.", show_default="the user's cache folder"),
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    r"""Measure detection on synthetic shops: genuine days, and attacks laid over them.

    Says for each scenario how many were found and how soon, how many incidents and notifications one attack gives, and
    what was told falsely on genuine days. It runs the engine, all rules, all detectors and the incident store as they
    are shipped, in event time. What is done so far is kept when it is interrupted.

    Thresholds are chosen with --tuning; without it, seeds are those that nobody looked at.

    Examples:
      shopstream evaluate
      shopstream evaluate --scenario site_flood --seeds 3 --tuning --explain
      shopstream evaluate --seeds 5 --tuning --out /tmp/look --format json
    """
    from shopstream.evaluation.baseline_run import default_cache  # noqa: PLC0415  start-up time
    from shopstream.evaluation.plan import (  # noqa: PLC0415
        Shop,
        load_rows,
        seeds_of,
    )
    from shopstream.evaluation.report import verdict, write_report  # noqa: PLC0415
    from shopstream.evaluation.runner import Done, Matrix  # noqa: PLC0415
    from shopstream.evaluation.summary import summarise  # noqa: PLC0415

    clock = SystemClock()
    started_ms = clock.now_ms()
    rows = load_rows()
    wanted = list(dict.fromkeys(scenario or rows))
    for name in wanted:
        if name not in rows:
            raise ConfigurationError(f"expected scenarios among {', '.join(rows)}, got {name!r}; change --scenario")
    numbers = seeds_of(seeds, tuning=tuning)
    shops = [Shop(seed, days=days, history_days=history_days, events_a_day=events, tracker=tracker) for seed in numbers]
    matrix = Matrix(
        shops=shops,
        scenarios=wanted,
        cache=cache or default_cache(),
        jobs=jobs or os.cpu_count() or 1,
        keep_states=tuning,
    )
    folder = out_folder or settings_of(ctx).home / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    done = Done()
    interrupted = _run(matrix, folder, done)
    summary = summarise(done, rows)
    facts = _facts(matrix, done, clock, started_ms, tuning=tuning, partial=interrupted)
    write_report(folder, done, summary, facts, markdown)
    _print(summary, done, facts, fmt, explain=explain)
    if interrupted:
        err.print("interrupted: not all runs are in these figures", highlight=False)
    err.print(verdict(summary), highlight=False, soft_wrap=True)
    err.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)
    if interrupted:
        raise typer.Exit(130)


def _run(matrix: "Matrix", folder: Path, done: "Done") -> bool:
    """Run all; returns whether somebody interrupted it."""
    from shopstream.evaluation.runner import run_matrix  # noqa: PLC0415

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
        task = bar.add_task("evaluating", total=matrix.work, last="")
        try:
            run_matrix(matrix, folder, lambda work, last: bar.update(task, advance=work, last=last), done)
        except KeyboardInterrupt:
            return True
    return False


def _facts(matrix: "Matrix", done: "Done", clock: Clock, started_ms: int, *, tuning: bool, partial: bool) -> "Facts":
    from shopstream.evaluation.report import (  # noqa: PLC0415
        Facts,
        commit_of_code,
        machine,
    )

    now_ms = clock.now_ms()
    return Facts(
        seeds=sorted({run.seed for run in done.genuine} | {run.seed for runs in done.attacks.values() for run in runs}),
        test_days=matrix.shops[0].days,
        tuning=tuning,
        commit=commit_of_code(),
        machine=machine(),
        finished=from_ms(now_ms),
        minutes=(now_ms - started_ms) / _MINUTE_MS,
        partial=partial,
        tracker=matrix.shops[0].tracker,
        history_days=matrix.shops[0].history_days,
    )


def _print(summary: "Summary", done: "Done", facts: "Facts", fmt: Format, *, explain: bool) -> None:
    from shopstream.evaluation.report import control_row, genuine_rows, row_of, short_row_of  # noqa: PLC0415

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
    emit(genuine_rows(summary), fmt, title="Genuine days")
    if explain:
        _explain(done)


def _explain(done: "Done") -> None:
    """What came nearest for each miss, and what was told falsely."""
    for scenario, runs in done.attacks.items():
        for run in runs:
            where = f"{scenario}, seed {run.seed}, {from_ms(run.from_ms):%a %H:%M}, {run.rate:.1f} ev/s"
            if run.nearest:
                _say(f"missed: {where}, {_parameters(run.parameters)}: {run.nearest}")
            for one in [*run.false, *run.surges]:
                _say(f"{'surge' if one in run.surges else 'false'}: {where}: {one.severity} {one.rule}: {one.note}")
    for result in done.genuine:
        for one in result.incidents:
            kind = "resident" if one.resident else "surge" if one.nature == "surge" else "false"
            when = f"{from_ms(one.detected_ms):%a %H:%M}"
            _say(f"{kind}: genuine, seed {result.seed}, {when}: {one.severity} {one.rule}: {one.note}")


def _say(line: str) -> None:
    out.print(line, soft_wrap=True, markup=False, highlight=False)


def _parameters(parameters: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items())
