"""`shopstream rules test`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from shopstream.cli.output import Format, FormatOption, emit, out, settings_of
from shopstream.config import Settings
from shopstream.errors import ConfigurationError

if TYPE_CHECKING:
    from shopstream.detection.rule import Rule
    from shopstream.ruletools.rule_test import Trial

__all__ = ["run_tests"]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Rules to test, and the folder that has their tests."""

    rules: "dict[str, Rule]"
    tests: Path
    complete: bool
    """Whether tests without a rule are a mistake: all rules of a folder are tested."""


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
    """Run the tests of rules: what each must find, and whom it must leave alone. Ends with 1 on a difference.

    The test of a rule is a folder tests/ID/ beside the rule, with events.csv and expected.yml.

    Examples:
      shopstream rules test
      shopstream rules test my_rules/
      shopstream rules test my_rules/cart_hoarder.yml
      shopstream rules test --tests tests/rules
    """
    from shopstream.ruletools.rule_test import read_test, try_rule  # noqa: PLC0415

    plan = _plan(settings_of(ctx), place, tests)
    trials: list[Trial] = []
    rows: list[dict[str, object]] = []
    for rule in plan.rules.values():
        folder = plan.tests / rule.id
        if not folder.is_dir():
            rows.append(_row(rule.id, "no test"))
            continue
        trial = try_rule(rule, read_test(folder))
        trials.append(trial)
        rows.append(_row(rule.id, "passed" if trial.passed else "failed", trial))
    astray = [folder.name for folder in _folders(plan.tests) if plan.complete and folder.name not in plan.rules]
    rows += [_row(name, "no rule") for name in astray]
    if fmt is Format.TABLE:
        for trial in trials:
            _print(trial)
        rows = [{name: value for name, value in row.items() if name != "differences"} for row in rows]
    elif fmt is Format.CSV:
        rows = [{**row, "differences": "; ".join(map(str, _listed(row["differences"])))} for row in rows]
    emit(rows, fmt, empty=f"No rules to test in {plan.tests.parent}.")
    if astray or not all(trial.passed for trial in trials):
        raise typer.Exit(1)
    if place is not None and plan.rules and not trials:
        raise ConfigurationError(
            f"expected a test of {', '.join(plan.rules)} in {plan.tests}, found none; make {plan.tests}/ID/events.csv "
            "and expected.yml, or name the folder with --tests"
        )


def _plan(settings: Settings, place: str | None, tests: Path | None) -> _Plan:
    from shopstream.detection.rule import RULE_FILES, load_rules  # noqa: PLC0415

    own = settings.detection.rules_path
    if place is None and (tests is not None or own is None):
        if tests is None:
            raise ConfigurationError(
                "expected rules to test: name a rule or a folder, set detection.rules_path, or give --tests"
            )
        return _Plan(load_rules(own), tests, complete=True)
    if place is not None and not Path(place).is_dir():
        from shopstream.cli.rule_options import chosen_rule  # noqa: PLC0415  start-up time

        rule = chosen_rule(settings, place)
        beside = Path(place).parent if place.endswith(".yml") else own
        if tests is None and beside is None:
            raise ConfigurationError(
                f"expected --tests FOLDER for {rule.id}: it is a shipped rule, without tests beside it"
            )
        return _Plan({rule.id: rule}, tests or Path(beside or ".") / "tests", complete=False)
    folder = Path(place) if place is not None else Path(own or ".")
    return _Plan(RULE_FILES.load(folder), tests or folder / "tests", complete=True)


def _folders(tests: Path) -> list[Path]:
    return sorted(path for path in tests.iterdir() if (path / "expected.yml").exists()) if tests.is_dir() else []


def _row(rule: str, outcome: str, trial: "Trial | None" = None) -> dict[str, object]:
    return {
        "rule": rule,
        "outcome": outcome,
        "expected": len(trial.found) - len(trial.unexpected) + len(trial.missing) if trial else None,
        "found": len(trial.found) if trial else None,
        "differences": _differences(trial) if trial else [],
    }


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _differences(trial: "Trial") -> list[str]:
    return [
        *(f"missing: {one.line()}" for one in trial.missing),
        *(f"not expected: {one.line()}" for one in trial.unexpected),
        *(f"innocent, but found: {innocent.why}" for innocent in trial.accused),
        *(
            f"innocent, but not in events.csv as said ({innocent.events} events expected, {count} there): "
            f"{innocent.why}"
            for innocent, count in trial.absent
        ),
    ]


def _print(trial: "Trial") -> None:
    out.print(f"[bold]{trial.rule}[/]", highlight=False)
    for one in trial.found:
        mark = "[green]as expected[/]" if one not in trial.unexpected else "[red]not expected[/]"
        out.print(f"  {mark}  {escape(one.line())}", highlight=False, soft_wrap=True)
    for text in _differences(trial):
        if not text.startswith("not expected"):
            out.print(f"  [red]{escape(text)}[/]", highlight=False, soft_wrap=True)
    if not trial.found and trial.passed:
        out.print("  nothing found, as expected", highlight=False)
