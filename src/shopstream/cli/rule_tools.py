"""`shopstream rules`: shows the SQL of a rule, and tests, explains and backtests it on past events."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit, emit_object, err, out, settings_of
from shopstream.clock import SystemClock
from shopstream.config import Settings
from shopstream.detection.rule import RULE_FILES, Rule, load_rules
from shopstream.detection.wording import describe_key, describe_length, describe_measures
from shopstream.errors import ConfigurationError
from shopstream.ruletools.backtest import Backtest, ConditionResult, parse_sweep, run_backtest
from shopstream.ruletools.explanation import Explanation, SqlTarget, target_sql
from shopstream.ruletools.explanation import explain as explain_rule
from shopstream.ruletools.history import History, load_file, open_history, read_truth
from shopstream.ruletools.rule_test import RuleTestResult, read_test, run_rule_test

RuleArgument = Annotated[str, typer.Argument(metavar="RULE", help="Id of a rule in force, or a rule file.")]
FromOption = Annotated[str | None, typer.Option("--from", metavar="TIME", help="Start, a day or time in UTC.")]
ToOption = Annotated[
    str | None,
    typer.Option("--to", metavar="TIME", help="End, a day (inclusive) or time in UTC."),
]
EventsOption = Annotated[
    str | None,
    typer.Option("--events", metavar="FILE", help="Read a CSV, JSON Lines or Parquet file or URL instead of the lake."),
]

_DATE = len("2019-11-05")


def chosen_rule(settings: Settings, name: str) -> Rule:
    """A rule by its id, or from a file, which need not be in force.

    Raises:
        ConfigurationError: there is no such rule.
        RuleError: the file is wrong.
    """
    if name.endswith(".yml"):
        return RULE_FILES.load(Path(name)).popitem()[1]
    rules = load_rules(settings.detection.rules_path)
    if name not in rules:
        raise ConfigurationError(
            f"expected the id of a rule or a file that ends in .yml, got {name!r}; there are {', '.join(rules)}"
        )
    return rules[name]


@contextmanager
def past_events(settings: Settings, events: str | None, since: str | None, until: str | None) -> Iterator["History"]:
    """Past events of the lake, or of a file.

    Raises:
        ConfigurationError: a time cannot be read, or there is no lake.
    """
    limits = {"since": _moment("--from", since), "until": _moment("--to", until, to_the_end=True)}
    spill, memory = settings.home / "spill", int(settings.engine.memory_limit)
    if events is not None:
        with (
            progress_bar(f"reading {events}") as progress,
            load_file(events, spill, SystemClock(), progress) as lakehouse,
        ):
            progress(1, 1)
            with open_history(lakehouse, spill, memory, **limits) as history:
                yield history
        return
    if not adapters_of(settings).has_lake():
        raise ConfigurationError(
            f"expected a lake in {settings.home}, found none; load events with `shopstream lake ingest FILE`, name "
            "another --home, or give a file with --events"
        )
    with (
        closing(adapters_of(settings).open_lakehouse()) as kept,
        open_history(kept, spill, memory, **limits) as history,
    ):
        yield history


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr while the block runs; the callable takes what is done and the total."""
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=err, transient=True
    ) as bar:
        task = bar.add_task(what, total=None)

        def show(done: int, everything: int) -> None:
            bar.update(task, completed=done, total=everything)

        yield show


def _moment(option: str, text: str | None, *, to_the_end: bool = False) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"expected {option} as a day like 2019-11-05 or a moment like 2019-11-05T13:00, got {text!r}"
        ) from None
    if to_the_end and len(text) <= _DATE:
        moment += timedelta(days=1)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def show_rule(
    ctx: typer.Context,
    rule: RuleArgument,
    sql: Annotated[SqlTarget, typer.Option(help="Dialect and purpose of the SQL.")] = SqlTarget.BATCH,
) -> None:
    """Show the SQL that a rule compiles to.

    `batch` is one query over a table `events`; its result equals the stream's. `duckdb` shows the two statements that
    the engine runs: one for each batch of events, one when the watermark moves. `flink` shows statements for Apache
    Flink 2: the last one is the query, the others create the derived columns.

    Examples:
      shopstream rules show user_burst
      shopstream rules show user_regular --sql flink
      shopstream rules show my_rules/hot.yml --sql duckdb
    """
    chosen = chosen_rule(settings_of(ctx), rule)
    typer.echo(target_sql(chosen.window_declaration(), sql), nl=False)


_DAY_S = 86_400
_DAYS_SHOWN = 31
_SHORT = {"in_force": "now", "incidents_a_day": "a_day", "attacks_found": "found", "unexplained": "others"}
"""Column titles that fit a terminal."""


def backtest(
    ctx: typer.Context,
    rule: RuleArgument,
    *,
    since: FromOption = None,
    until: ToOption = None,
    sweep: Annotated[
        str | None, typer.Option(metavar="MEASURE=A..B:STEP", help="Also try a range of thresholds for a measure.")
    ] = None,
    events: EventsOption = None,
    truth: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ground truth of synthetic events: which attacks would be found."),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Number of incidents to show.")] = 5,
    fmt: FormatOption = Format.TABLE,
) -> None:
    r"""Count how often a rule would have fired on past events.

    Counts windows, incidents (windows closer than suppress_for are one), actors, and how many of the actors are buyers,
    who bought something in that time. Lists incidents per day and shows the first ones, each with the command that
    shows its events. --sweep adds a table of other thresholds, from strict to loose.

    Late events and duplicates are skipped, as in live windows and reports. Nothing is stored or sent.

    Examples:
      shopstream rules backtest user_burst
      shopstream rules backtest user_burst --from 2019-11-05 --to 2019-11-11
      shopstream rules backtest user_burst --sweep events=5..30:5
      shopstream rules backtest my_rules/crawler.yml --format json
      shopstream rules backtest site_rate --events attack.csv \
        --truth attack.csv.truth.json
    """
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


def _days(result: Backtest) -> float:
    """Length of the period in days, at least 1."""
    if result.first is None or result.last is None:
        return 1.0
    return max(1.0, (result.last - result.first).total_seconds() / _DAY_S)


def _row(outcome: ConditionResult, result: Backtest, sweep: str | None) -> dict[str, object]:
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


def _record(result: Backtest, sweep: str | None) -> dict[str, object]:
    """All fields, for programs."""
    record: dict[str, object] = {
        "rule": result.rule,
        "key_kind": result.key_kind,
        "condition": result.own.condition,
        "events": result.events,
        "from": result.first,
        "to": result.last,
        "days": round(_days(result), 3),
        "seconds": round(result.elapsed_s, 2),
        **{name: value for name, value in _row(result.own, result, None).items() if name != "rule"},
        "by_day": [{**asdict(day), "day": day.day.date()} for day in result.days],
        "examples": [asdict(example) for example in result.examples],
        "attacks": [asdict(attack) for attack in result.attacks],
    }
    if sweep:
        record["sweep"] = [{**_row(one, result, sweep), "condition": one.condition} for one in result.outcomes]
    return record


def _print(result: Backtest, rule: Rule, sweep: str | None) -> None:
    own = result.own
    out.print(f"[bold]{rule.id}[/]: {escape(rule.title)}")
    out.print(f"  {escape(own.condition)}", soft_wrap=True)
    if result.first is None or result.last is None:
        out.print("  There are no events in this period.")
        return
    out.print(
        f"  {result.events:,} events, {result.first:%Y-%m-%d %H:%M} to {result.last:%Y-%m-%d %H:%M} UTC, evaluated in "
        f"{result.elapsed_s:,.1f} s",
        style="dim",
    )
    out.print(f"  would have fired: [bold]{_summary(result)}[/]")
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
            out.print(f"  and {len(result.days) - len(shown):,} more; --format json has all.")
    if result.examples:
        out.print("[bold]The first incidents[/]")
    for example in result.examples:
        who = describe_key(example.keys)
        peak = describe_measures(example.peak)
        bought = ", [yellow]a buyer[/]" if example.buyer else ""
        out.print(
            f"  {escape(who)}, {example.first:%Y-%m-%d %H:%M:%S} UTC, {describe_length(example.last - example.first)}, "
            f"{_count(example.windows, 'window')}, peak {escape(peak)}{bought}",
            soft_wrap=True,
        )
        out.print(f"    {escape(example.command)}", soft_wrap=True, style="cyan")


def _summary(result: Backtest) -> str:
    own = result.own
    rate = f"{own.incidents / _days(result):,.2g} a day"
    parts = [f"{_count(own.incidents, 'incident')} ({rate}) of {_count(own.windows, 'window')}"]
    if own.actors is not None:
        parts.append(f"{own.actors:,} different {result.key_kind}")
    if own.buyers is not None:
        parts.append(f"{own.buyers:,} of them buyers")
    if own.attacks_found is not None:
        parts.append(f"{own.attacks_found} of {len(result.attacks)} known attacks found")
        parts.append(f"{_count(own.unexplained or 0, 'incident')} without a known attack")
    return ", ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def explain(
    ctx: typer.Context,
    rule: RuleArgument,
    *,
    actor: Annotated[
        str | None, typer.Option(metavar="VALUE", help="Value of the rule's key, if the key is one column.")
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Value of one key column; repeat for each column.")
    ] = None,
    since: FromOption = None,
    until: ToOption = None,
    events: EventsOption = None,
    near: Annotated[int, typer.Option(min=0, help="Number of events to show in and around the closest window.")] = 20,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Explain why a rule did or did not fire for an actor.

    Checks all windows of one key (a user, address, product, ...) against the condition. The closest window is the one
    in which all parts of the condition together hold, or come nearest to holding; if the rule fired, it is the peak.

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
        found = explain_rule(tried, keys, history, near=near, progress=progress)
    if fmt is Format.JSON:
        emit_object(asdict(found), fmt)
    elif fmt is Format.CSV:
        emit([asdict(part) for part in found.parts], fmt)
    else:
        _print_explanation(found, tried)


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


def _print_explanation(found: Explanation, rule: Rule) -> None:
    who = describe_key(found.keys)
    out.print(f"[bold]{rule.id}[/] on [bold]{escape(who)}[/]: {escape(rule.title)}")
    out.print(f"  {escape(found.condition)}", soft_wrap=True)
    looked = (
        f"{found.events:,} events, {_time_text(found.first)} to {_time_text(found.last)} UTC, {found.windows:,} windows"
    )
    out.print(f"  {looked}", style="dim")
    if found.start is None or found.end is None:
        out.print("  The rule's filter matches none of these events.")
        return
    if found.met and found.first_met:
        out.print(
            f"  [bold red]fires[/]: {found.met:,} windows met the condition, "
            f"the first ended {_time_text(found.first_met)}",
        )
    else:
        missing = " and ".join(part.text for part in found.parts if not part.held)
        out.print(f"  [bold green]does not fire[/]: the closest window fails {escape(missing)}")
    measures = describe_measures(found.measures)
    out.print(
        f"  closest window: {_time_text(found.start)} to {_time_text(found.end)}: {escape(measures)}",
    )
    rows = [
        {
            "part": part.text,
            "closest_window": "holds" if part.held else "fails",
            "value": _text(part.at_closest),
            "best_value": _text(part.best),
            "windows_that_hold": part.windows,
        }
        for part in found.parts
    ]
    emit(rows, Format.TABLE, title="The condition, part by part")
    near = [
        {
            "time": _time_text(event.event_time),
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


def _time_text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


@dataclass(frozen=True, slots=True)
class _Plan:
    """Rules to test, and the folder of their tests."""

    rules: dict[str, Rule]
    tests: Path
    complete: bool
    """All rules of a folder are tested, so a test without a rule is an error."""


def run_tests(
    ctx: typer.Context,
    place: Annotated[
        str | None,
        typer.Argument(
            metavar="RULE|FOLDER",
            help="Id of a rule, a rule file, or a folder of rules.",
            show_default="detection.rules_path",
        ),
    ] = None,
    *,
    tests: Annotated[Path | None, typer.Option(help="Folder of tests.", show_default="tests/ beside the rules")] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Run rule tests. Exits 1 if a test fails.

    A rule test is a folder tests/ID/ beside the rule, with events.csv and expected.yml: what the rule must find, and
    which actors it must leave alone.

    Examples:
      shopstream rules test
      shopstream rules test my_rules/
      shopstream rules test my_rules/cart_hoarder.yml
      shopstream rules test --tests tests/rules
    """
    plan = _plan(settings_of(ctx), place, tests)
    results: list[RuleTestResult] = []
    rows: list[dict[str, object]] = []
    for rule in plan.rules.values():
        folder = plan.tests / rule.id
        if not folder.is_dir():
            rows.append(_test_row(rule.id, "no test"))
            continue
        result = run_rule_test(rule, read_test(folder))
        results.append(result)
        rows.append(_test_row(rule.id, "passed" if result.passed else "failed", result))
    orphaned = [folder.name for folder in _folders(plan.tests) if plan.complete and folder.name not in plan.rules]
    rows += [_test_row(name, "no rule") for name in orphaned]
    if fmt is Format.TABLE:
        for result in results:
            _print_test(result)
        rows = [{name: value for name, value in row.items() if name != "differences"} for row in rows]
    elif fmt is Format.CSV:
        rows = [{**row, "differences": "; ".join(map(str, _listed(row["differences"])))} for row in rows]
    emit(rows, fmt, empty=f"No rules to test in {plan.tests.parent}.")
    if orphaned or not all(result.passed for result in results):
        raise typer.Exit(1)
    if place is not None and plan.rules and not results:
        raise ConfigurationError(
            f"expected a test of {', '.join(plan.rules)} in {plan.tests}, found none; create "
            f"{plan.tests}/ID/events.csv and expected.yml, or name the folder with --tests"
        )


def _plan(settings: Settings, place: str | None, tests: Path | None) -> _Plan:
    own = settings.detection.rules_path
    if place is None and (tests is not None or own is None):
        if tests is None:
            raise ConfigurationError(
                "expected rules to test: name a rule or a folder, set detection.rules_path, or give --tests"
            )
        return _Plan(load_rules(own), tests, complete=True)
    if place is not None and not Path(place).is_dir():
        rule = chosen_rule(settings, place)
        beside = Path(place).parent if place.endswith(".yml") else own
        if tests is None and beside is None:
            raise ConfigurationError(f"expected --tests FOLDER for {rule.id}: shipped rules have no tests beside them")
        return _Plan({rule.id: rule}, tests or Path(beside or ".") / "tests", complete=False)
    folder = Path(place) if place is not None else Path(own or ".")
    return _Plan(RULE_FILES.load(folder), tests or folder / "tests", complete=True)


def _folders(tests: Path) -> list[Path]:
    return sorted(path for path in tests.iterdir() if (path / "expected.yml").exists()) if tests.is_dir() else []


def _test_row(rule: str, outcome: str, result: RuleTestResult | None = None) -> dict[str, object]:
    return {
        "rule": rule,
        "outcome": outcome,
        "expected": len(result.found) - len(result.unexpected) + len(result.missing) if result else None,
        "found": len(result.found) if result else None,
        "differences": _differences(result) if result else [],
    }


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _differences(result: RuleTestResult) -> list[str]:
    return [
        *(f"missing: {one.line()}" for one in result.missing),
        *(f"not expected: {one.line()}" for one in result.unexpected),
        *(f"innocent, but found: {innocent.why}" for innocent in result.wrongly_detected),
        *(
            f"innocent, but events.csv differs ({innocent.events} events expected, {count} there): {innocent.why}"
            for innocent, count in result.absent
        ),
    ]


def _print_test(result: RuleTestResult) -> None:
    out.print(f"[bold]{result.rule}[/]")
    for one in result.found:
        mark = "[green]as expected[/]" if one not in result.unexpected else "[red]not expected[/]"
        out.print(f"  {mark}  {escape(one.line())}", soft_wrap=True)
    for text in _differences(result):
        if not text.startswith("not expected"):
            out.print(f"  [red]{escape(text)}[/]", soft_wrap=True)
    if not result.found and result.passed:
        out.print("  nothing found, as expected")
