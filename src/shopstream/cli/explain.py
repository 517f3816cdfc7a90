"""`shopstream rules explain`."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer
from rich.markup import escape

from shopstream.cli.output import Format, FormatOption, emit, emit_object, out, settings_of
from shopstream.cli.rule_options import (
    EventsOption,
    FromOption,
    RuleArgument,
    ToOption,
    chosen_rule,
    past_events,
    progress_bar,
)
from shopstream.detection.rule import Rule
from shopstream.errors import ConfigurationError
from shopstream.ruletools.explanation import Explanation
from shopstream.ruletools.explanation import explain as hold_against

__all__ = ["explain"]


def explain(
    ctx: typer.Context,
    rule: RuleArgument,
    *,
    actor: Annotated[
        str | None, typer.Option(metavar="VALUE", help="Value of the rule's key, where it has one column.")
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Likewise, by name; once for each key column.")
    ] = None,
    since: FromOption = None,
    until: ToOption = None,
    events: EventsOption = None,
    near: Annotated[int, typer.Option(min=0, help="Events to show in and around the closest window.")] = 20,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Show why a rule did or did not fire on somebody: how close they came, when, and which part was missing.

    All windows of that user, address, product or whatever the rule's key is are held against the condition. The
    closest window is the one in which its parts hold, or come nearest to it, taken together: the peak of one who fired.

    Examples:
      shopstream rules explain user_burst --actor 512345678
      shopstream rules explain user_burst --actor 512345678 --from 2019-11-05
      shopstream rules explain my_rules/hot.yml --key category_id=2053013555
      shopstream rules explain site_rate --from 2019-11-05 --to 2019-11-05
    """
    settings = settings_of(ctx)
    tried = chosen_rule(settings, rule)
    keys = _keys(tried, actor, key or [])
    with past_events(settings, events, since, until) as history, progress_bar(f"explaining {tried.id}") as progress:
        found = hold_against(tried, keys, history, near=near, progress=progress)
    if fmt is Format.JSON:
        emit_object(asdict(found), fmt)
    elif fmt is Format.CSV:
        emit([asdict(part) for part in found.parts], fmt)
    else:
        _print(found, tried)


def _keys(rule: Rule, actor: str | None, pairs: list[str]) -> dict[str, str]:
    keys: dict[str, str] = {}
    for pair in pairs:
        column, equals, value = pair.partition("=")
        if not equals:
            raise ConfigurationError(f"expected --key COLUMN=VALUE, e.g. category_id=2053013555, got {pair!r}")
        keys[column] = value
    if actor is not None:
        if len(rule.key) != 1:
            wanted = " ".join(f"--key {column}=…" for column in rule.key) or "neither --actor nor --key"
            raise ConfigurationError(f"rule {rule.id} looks at {rule.key_kind}: give {wanted}")
        keys[rule.key[0]] = actor
    return keys


def _print(found: Explanation, rule: Rule) -> None:
    who = ", ".join(f"{column} {value}" for column, value in found.keys.items()) or "the whole site"
    out.print(f"[bold]{rule.id}[/] on [bold]{escape(who)}[/]: {escape(rule.title)}", highlight=False)
    out.print(f"  {escape(found.condition)}", highlight=False, soft_wrap=True)
    looked = f"{found.events:,} events, {_moment(found.first)} to {_moment(found.last)} UTC, {found.windows:,} windows"
    out.print(f"  {looked}", highlight=False, style="dim")
    if found.start is None or found.end is None:
        out.print("  The rule's filter counts none of these events.")
        return
    if found.met and found.first_met:
        out.print(
            f"  [bold red]fires[/]: {found.met:,} windows met the condition, "
            f"the first ended {_moment(found.first_met)}",
            highlight=False,
        )
    else:
        missing = " and ".join(part.text for part in found.parts if not part.held)
        out.print(f"  [bold green]does not fire[/]: the closest window fails {escape(missing)}", highlight=False)
    measures = ", ".join(f"{name} {value}" for name, value in found.measures.items())
    out.print(f"  closest window: {_moment(found.start)} to {_moment(found.end)}: {escape(measures)}", highlight=False)
    rows = [
        {
            "part": part.text,
            "closest_window": "held" if part.held else "failed",
            "value_there": _text(part.at_closest),
            "best_value": _text(part.best),
            "windows_that_held": part.windows,
        }
        for part in found.parts
    ]
    emit(rows, Format.TABLE, title="The condition, part by part")
    near = [
        {
            "time": _moment(event.event_time),
            "type": event.event_type,
            "product": str(event.product_id),
            "category": event.category_code,
            "price": event.price,
            "counted": event.counted,
        }
        for event in found.near
    ]
    if near:
        emit(near, Format.TABLE, title="Events in and around that window")


def _text(value: object) -> str:
    return "" if value is None else f"{value:,.6g}" if isinstance(value, float) else str(value)


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"
