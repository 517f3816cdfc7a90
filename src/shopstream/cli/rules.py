"""`shopstream rules`."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shopstream.adapters.ports import adapters_of
from shopstream.cli import allowlist
from shopstream.cli.backtest import backtest
from shopstream.cli.explain import explain
from shopstream.cli.output import Format, FormatOption, emit, emit_problems, err, settings_of
from shopstream.cli.rule_tests import run_tests
from shopstream.cli.show import show
from shopstream.config import Settings

if TYPE_CHECKING:
    from shopstream.detection.detector import Detector
    from shopstream.detection.rule import Rule

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Look at rules; check, test and try your own.")
app.add_typer(allowlist.app, name="allowlist")


@app.command("list")
def list_rules(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    """List what is in force: the shipped rules, yours over them, and the detectors.

    Your own rules live in the folder that detection.rules_path names, one file a rule; a file with the id of a shipped
    rule replaces it, and `status: unsupported` in it switches the rule off. Detectors are code: what their docstring
    says is shown, and detection.detectors_off switches them off. Precision is the share of judged incidents that were
    real, once somebody has judged some (`shopstream incidents resolve`, `incidents false-positive`).

    Examples:
      shopstream rules list
      shopstream rules list --format json
    """
    settings = settings_of(ctx)
    judged = _judged(settings)
    rules = [_rule_row(rule, judged.get(rule.id)) for rule in _rules(settings).values()]
    detectors = [_detector_row(one, on=on, judged=judged) for one, on in _detectors(settings)]
    if fmt is not Format.TABLE:
        emit([*rules, *({name: row.get(name) for name in rules[0]} for row in detectors)], fmt)
        return
    for row in rules:
        row["fires_when"] = f"{row['condition']} ({row['window']})" if row["enabled"] else f"never: {row['status']}"
    last = ["precision"] if judged else []
    emit(
        [{name: row[name] for name in ("id", "level", "key", "fires_when", *last)} for row in rules], fmt, title="Rules"
    )
    emit([{name: row[name] for name in ("id", "status", "title", *last)} for row in detectors], fmt, title="Detectors")


def _rules(settings: Settings) -> "dict[str, Rule]":
    """The rules in force."""
    from shopstream.detection.rule import load_rules  # noqa: PLC0415

    return load_rules(settings.detection.rules_path)


def _judged(settings: Settings) -> dict[str, str]:
    """Rule or detector → its precision in words, for those that people have judged."""
    from shopstream.incidents.queries import read_precision  # noqa: PLC0415  start-up time

    with closing(adapters_of(settings).open_incidents()) as store:
        judged = read_precision(store.list())
    return {
        row.rule: f"{row.precision:.0%} of {row.right + row.wrong:,}" for row in judged if row.precision is not None
    }


def _rule_row(rule: "Rule", precision: str | None) -> dict[str, object]:
    from shopstream.detection.duration import format_duration  # noqa: PLC0415  start-up time

    window = rule.window
    lengths = (window.size, window.slide, window.gap)
    return {
        "id": rule.id,
        "kind": "rule",
        "level": str(rule.level),
        "status": str(rule.status),
        "key": rule.key_kind,
        "window": f"{window.kind} " + " by ".join(format_duration(ms) for ms in lengths if ms),
        "condition": rule.condition,
        "precision": precision,
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


def _detectors(settings: Settings) -> "list[tuple[Detector, bool]]":
    """Each detector that there is, and whether it is on."""
    from shopstream.detection.detectors.shipped import shipped_detectors  # noqa: PLC0415
    from shopstream.detection.settings import DetectionSettings  # noqa: PLC0415  likewise

    off = settings.detection.detectors_off
    return [(one, one.id not in off) for one in shipped_detectors(DetectionSettings())]


def _detector_row(detector: "Detector", *, on: bool, judged: Mapping[str, str]) -> dict[str, object]:
    summary = (detector.__doc__ or "").strip().splitlines()[0].rstrip(".")
    own = [text for rule, text in judged.items() if rule == detector.id or rule.startswith(f"{detector.id}_")]
    return {
        "id": detector.id,
        "kind": "detector",
        "status": "on" if on else "off",
        "precision": "; ".join(own) or None,
        "title": summary,
        "enabled": on,
    }


@app.command()
def check(
    ctx: typer.Context,
    path: Annotated[
        Path | None, typer.Argument(help="A rule file or a folder of them.", show_default="detection.rules_path")
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Check rule files: words, values, expressions, types. Ends with status 1 when something is wrong.

    Each problem is one line: file:line: rule: what was expected, what the file has, what to do.

    Examples:
      shopstream rules check
      shopstream rules check my_rules/
      shopstream rules check my_rules/night_crawler.yml --format json
    """
    from shopstream.detection.rule import RULE_FILES, shipped_rules  # noqa: PLC0415  start-up time

    rules, problems = RULE_FILES.read(path or settings_of(ctx).detection.rules_path or shipped_rules())
    emit_problems(problems, fmt, f"{len(rules)} good, {len(problems)} wrong")
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
app.command()(show)
