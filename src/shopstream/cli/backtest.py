"""`shopstream rules backtest`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from shopstream.cli.output import Format, FormatOption, emit, emit_object, err, out, settings_of
from shopstream.cli.rule_options import (
    EventsOption,
    FromOption,
    RuleArgument,
    ToOption,
    chosen_rule,
    past_events,
    progress_bar,
)
from shopstream.detection.title import describe_length

if TYPE_CHECKING:
    from shopstream.detection.rule import Rule
    from shopstream.ruletools.backtest import Backtest, Outcome

__all__ = ["backtest"]

_DAY_S = 86_400
_DAYS_SHOWN = 31
_SHORT = {"in_force": "now", "incidents_a_day": "a_day", "attacks_found": "found", "unexplained": "others"}
"""Heads of columns that fit a terminal."""


def backtest(
    ctx: typer.Context,
    rule: RuleArgument,
    *,
    since: FromOption = None,
    until: ToOption = None,
    sweep: Annotated[
        str | None, typer.Option(metavar="MEASURE=A..B:STEP", help="Try other thresholds for a measure, too.")
    ] = None,
    events: EventsOption = None,
    truth: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Truth file of synthetic events: which attacks would be found.")
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="First incidents to show.")] = 5,
    fmt: FormatOption = Format.TABLE,
) -> None:
    r"""Tell how often a rule would have fired on past events, before you switch it on.

    Counts windows, incidents (windows closer than suppress_for are one), actors, and how many of these are real
    buyers: they bought something in the same time. Shows incidents by day and the first of them, each with the command
    that shows its events. With --sweep, a table of other thresholds, from strict to loose.

    Late events and copies are left out, as they are in live windows and in the reports. Nothing is stored or sent.

    Examples:
      shopstream rules backtest user_burst
      shopstream rules backtest user_burst --from 2019-11-05 --to 2019-11-11
      shopstream rules backtest user_burst --sweep events=5..30:5
      shopstream rules backtest my_rules/crawler.yml --format json
      shopstream rules backtest site_rate --events attack.csv \
        --truth attack.csv.truth.json
    """
    from shopstream.ruletools.backtest import parse_sweep, run_backtest  # noqa: PLC0415
    from shopstream.ruletools.ground_truth import read_truth  # noqa: PLC0415  likewise

    settings = settings_of(ctx)
    tried = chosen_rule(settings, rule)
    thresholds = parse_sweep(sweep, tried) if sweep else None
    known = read_truth(truth) if truth else None
    with past_events(settings, events, since, until) as history, progress_bar(f"trying {tried.id}") as progress:
        result = run_backtest(tried, history, sweep=thresholds, truth=known, examples=examples, progress=progress)
    if fmt is Format.CSV:
        emit([_row(outcome, result, sweep) for outcome in result.outcomes], fmt)
    elif fmt is Format.JSON:
        emit_object(_record(result, sweep), fmt)
    else:
        _print(result, tried, sweep)
        if events and result.examples:
            err.print(f"The commands find these events once they are in the lake: shopstream lake ingest {events}")


def _days(result: "Backtest") -> float:
    """Length of the time looked at, a day at least."""
    if result.first is None or result.last is None:
        return 1.0
    return max(1.0, (result.last - result.first).total_seconds() / _DAY_S)


def _row(outcome: "Outcome", result: "Backtest", sweep: str | None) -> dict[str, object]:
    row: dict[str, object] = {}
    if sweep:
        value = outcome.value
        row[sweep.partition("=")[0]] = int(value) if value is not None and value.is_integer() else value
        row["in_force"] = outcome.in_force
    else:
        row["rule"] = result.rule
    row |= {
        "incidents": outcome.incidents,
        "incidents_a_day": round(outcome.incidents / _days(result), 3),
        "windows": outcome.windows,
        "actors": outcome.actors,
        "buyers": outcome.buyers,
    }
    if outcome.attacks_found is not None:
        row |= {"attacks_found": outcome.attacks_found, "unexplained": outcome.unexplained}
    return row


def _record(result: "Backtest", sweep: str | None) -> dict[str, object]:
    """For programs: everything."""
    record: dict[str, object] = {
        "rule": result.rule,
        "key_kind": result.key_kind,
        "condition": result.own.condition,
        "events": result.events,
        "from": result.first,
        "to": result.last,
        "days_looked_at": round(_days(result), 3),
        "seconds": round(result.elapsed_s, 2),
        **{name: value for name, value in _row(result.own, result, None).items() if name != "rule"},
        "by_day": [{**asdict(day), "day": day.day.date()} for day in result.days],
        "examples": [asdict(example) for example in result.examples],
        "attacks": [asdict(attack) for attack in result.attacks],
    }
    if sweep:
        record["sweep"] = [{**_row(one, result, sweep), "condition": one.condition} for one in result.outcomes]
    return record


def _print(result: "Backtest", rule: "Rule", sweep: str | None) -> None:
    own = result.own
    out.print(f"[bold]{rule.id}[/]: {escape(rule.title)}", highlight=False)
    out.print(f"  {escape(own.condition)}", highlight=False, soft_wrap=True)
    if result.first is None or result.last is None:
        out.print("  There are no events in that time.")
        return
    out.print(
        f"  {result.events:,} events, {result.first:%Y-%m-%d %H:%M} to {result.last:%Y-%m-%d %H:%M} UTC, tried in "
        f"{result.elapsed_s:,.1f} s",
        highlight=False,
        style="dim",
    )
    out.print(f"  would have fired: [bold]{_summary(result)}[/]", highlight=False)
    if sweep:
        rows = [
            {_SHORT.get(name, name): value for name, value in _row(outcome, result, sweep).items()}
            for outcome in result.outcomes
        ]
        emit(rows, Format.TABLE, title="Thresholds")
    if result.attacks:
        rows = [
            asdict(attack) | {"after_s": "never" if attack.after_s is None else attack.after_s}
            for attack in result.attacks
        ]
        emit(rows, Format.TABLE, title="Known attacks")
    if result.days:
        shown = result.days[:_DAYS_SHOWN]
        rows = [
            {"day": f"{day.day:%Y-%m-%d}", "incidents": day.incidents, "windows": day.windows, "actors": day.actors}
            for day in shown
        ]
        emit(rows, Format.TABLE, title="Days with incidents")
        if len(shown) < len(result.days):
            out.print(f"  and {len(result.days) - len(shown):,} more; --format json has all.", highlight=False)
    if result.examples:
        out.print("[bold]The first incidents[/]")
    for example in result.examples:
        who = ", ".join(f"{column} {value}" for column, value in example.keys.items()) or "whole site"
        peak = ", ".join(f"{name} {value}" for name, value in example.peak.items())
        bought = ", [yellow]a buyer[/]" if example.buyer else ""
        out.print(
            f"  {escape(who)}, {example.first:%Y-%m-%d %H:%M:%S} UTC, {describe_length(example.last - example.first)}, "
            f"{_count(example.windows, 'window')}, peak {escape(peak)}{bought}",
            highlight=False,
            soft_wrap=True,
        )
        out.print(f"    {escape(example.command)}", highlight=False, soft_wrap=True, style="cyan")


def _summary(result: "Backtest") -> str:
    own = result.own
    rate = f"{own.incidents / _days(result):,.2g} a day"
    parts = [f"{_count(own.incidents, 'incident')} ({rate}) of {_count(own.windows, 'window')}"]
    if own.actors is not None:
        parts.append(f"{own.actors:,} different {result.key_kind}")
    if own.buyers is not None:
        parts.append(f"{own.buyers:,} of them buyers")
    if own.attacks_found is not None:
        parts.append(f"{own.attacks_found} of {len(result.attacks)} known attacks found")
        parts.append(f"{_count(own.unexplained or 0, 'incident')} that no attack explains")
    return ", ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
