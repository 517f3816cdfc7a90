"""`shopstream rules`."""

from pathlib import Path
from typing import Annotated

import typer

from shopstream.cli import allowlist
from shopstream.cli.backtest import backtest
from shopstream.cli.explain import explain
from shopstream.cli.output import Format, FormatOption, emit, err, out, settings_of
from shopstream.cli.rule_tests import run_tests

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Look at rules; check, test and try your own.")
app.add_typer(allowlist.app, name="allowlist")


@app.command("list")
def list_rules(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    """List the rules that are in force: the shipped ones, and yours over them.

    Your own live in the folder that detection.rules_path names, one file a rule; a file with the id of a shipped rule
    replaces it, and `status: unsupported` in it switches the rule off.

    Examples:
      shopstream rules list
      shopstream rules list --format json
    """
    from shopstream.detection import load_rules  # noqa: PLC0415  start-up time
    from shopstream.detection.duration import format_duration  # noqa: PLC0415  likewise

    rows: list[dict[str, object]] = []
    for rule in load_rules(settings_of(ctx).detection.rules_path).values():
        window = rule.window
        lengths = (window.size, window.slide, window.gap)
        row: dict[str, object] = {
            "id": rule.id,
            "level": str(rule.level),
            "status": str(rule.status),
            "key": rule.key_kind,
            "window": f"{window.kind} " + " by ".join(format_duration(ms) for ms in lengths if ms),
            "condition": rule.condition,
        }
        if fmt is not Format.TABLE:
            row |= {
                "title": rule.title,
                "enabled": rule.enabled,
                "filter": rule.filter,
                "measures": dict(rule.measures),
                "suppress_for": format_duration(rule.suppress_for),
                "verdict": rule.verdict,
                "tags": list(rule.tags),
                "falsepositives": list(rule.falsepositives),
                "description": rule.description.strip(),
                "version": rule.version,
                "source": rule.source,
            }
        rows.append(row)
    emit(rows, fmt)


@app.command()
def check(
    ctx: typer.Context,
    path: Annotated[
        Path | None, typer.Argument(help="A rule file or a folder of them.", show_default="detection.rules_path")
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Check rule files: words, values, expressions, types. Ends with status 1 when something is wrong.

    Each problem is one line: file:line: rule: what was expected, what came, what to do.

    Examples:
      shopstream rules check
      shopstream rules check my_rules/
      shopstream rules check my_rules/night_crawler.yml --format json
    """
    from shopstream.detection.loader import read_rule, read_rules, shipped_rules  # noqa: PLC0415  start-up time

    place = path or settings_of(ctx).detection.rules_path or shipped_rules()
    if place.is_file():
        rule, problems = read_rule(place)
        good = [rule.id] if rule else []
    else:
        rules, problems = read_rules(place)
        good = list(rules)
    if fmt is Format.TABLE:
        for problem in problems:
            out.print(str(problem), highlight=False, markup=False, soft_wrap=True)
        out.print(
            f"{len(good)} good, {len(problems)} {'problem' if len(problems) == 1 else 'problems'}", highlight=False
        )
    else:
        emit(
            [
                {"file": problem.file, "line": problem.line, "rule": problem.rule, "problem": problem.problem}
                for problem in problems
            ],
            fmt,
        )
    if path is None:
        for entry in allowlist.expired_entries(settings_of(ctx)):
            err.print(
                f"{entry.file}:{entry.line}: warning: allow-list entry {entry.id} expired on {entry.expires:%Y-%m-%d}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
    if problems:
        raise typer.Exit(1)


app.command("test")(run_tests)
app.command()(explain)
app.command()(backtest)
