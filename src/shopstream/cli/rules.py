"""`shopstream rules`: lists and checks rules and allow-lists."""

from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit, emit_problems, err, settings_of
from shopstream.clock import format_duration
from shopstream.config import Settings
from shopstream.detection.allowlist import ALLOW_LIST_FILES, Entry, load_allow_list
from shopstream.detection.detector import Detector
from shopstream.detection.detectors.shipped import shipped_detectors
from shopstream.detection.rule import RULE_FILES, Rule, load_rules, shipped_rules
from shopstream.detection.settings import DetectionSettings
from shopstream.errors import ConfigurationError
from shopstream.incidents.incident import read_precision
from shopstream.yaml_files import Problem


def list_rules(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    """List the rules and detectors in force.

    Your own rules are files in the folder detection.rules_path, one rule per file. A file with the id of a shipped rule
    replaces it; `status: unsupported` switches the rule off. Detectors are code; detection.detectors_off switches them
    off. Precision is the share of judged incidents that were right (see `shopstream incidents resolve` and
    `false-positive`).

    Examples:
      shopstream rules list
      shopstream rules list --format json
    """
    settings = settings_of(ctx)
    judged = _judged(settings)
    rules = [
        _rule_row(rule, judged.get(rule.id))
        for rule in load_rules(settings.detection.rules_path, planned=False).values()
    ]
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


def _judged(settings: Settings) -> dict[str, str]:
    """Rule or detector → its precision as text, for those with judged incidents."""
    with closing(adapters_of(settings).open_incidents()) as store:
        judged = read_precision(store.list())
    return {
        row.rule: f"{row.precision:.0%} of {row.right + row.wrong:,}" for row in judged if row.precision is not None
    }


def _rule_row(rule: Rule, precision: str | None) -> dict[str, object]:
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


def _detectors(settings: Settings) -> list[tuple[Detector, bool]]:
    """Every detector, and whether it is on."""
    off = settings.detection.detectors_off
    return [(one, one.id not in off) for one in shipped_detectors(DetectionSettings())]


def _detector_row(detector: Detector, *, on: bool, judged: Mapping[str, str]) -> dict[str, object]:
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


def check_rules(
    ctx: typer.Context,
    path: Annotated[
        Path | None, typer.Argument(help="A rule file, or a folder of rule files.", show_default="detection.rules_path")
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Check rule files. Exits 1 if a file is invalid.

    Each problem is one line: file:line: rule: what was expected, what the file has, how to fix it.

    Examples:
      shopstream rules check
      shopstream rules check my_rules/
      shopstream rules check my_rules/night_crawler.yml --format json
    """
    rules, problems = RULE_FILES.read(path or settings_of(ctx).detection.rules_path or shipped_rules())
    emit_problems(problems, fmt, f"{len(rules)} good, {len(problems)} wrong")
    if path is None:
        for entry in expired_entries(settings_of(ctx)):
            err.print(
                f"{entry.file}:{entry.line}: warning: allow-list entry {entry.id} expired on {entry.expires:%Y-%m-%d}",
                markup=False,
                soft_wrap=True,
            )
    if problems:
        raise typer.Exit(1)


def expired_entries(settings: Settings) -> list[Entry]:
    """Expired entries of the allow-lists in force.

    Raises:
        RuleError: a file is invalid.
    """
    now = datetime.now(UTC)
    return [entry for entry in load_allow_list(settings.detection.allow_lists_path).entries if entry.expires <= now]


def list_allow_lists(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    """List allow-list entries: what each allows, why, and until when.

    The files are in the folder detection.allow_lists_path. The engine reads them when it starts.

    Examples:
      shopstream rules allowlist list
      shopstream rules allowlist list --format json
    """
    now = datetime.now(UTC)
    rows: list[dict[str, object]] = []
    for entry in load_allow_list(settings_of(ctx).detection.allow_lists_path).entries:
        days = (entry.expires - now).days
        row: dict[str, object] = {
            "entry": entry.name,
            "allows": _allows(entry, short=fmt is Format.TABLE),
            "rules": ", ".join(entry.rules) or "all",
            "reason": entry.reason,
            "expires": entry.expires,
            "state": "expired" if entry.expires <= now else f"{days} days left",
        }
        if fmt is not Format.TABLE:
            row |= {"file": entry.file, "line": entry.line}
        rows.append(row)
    emit(rows, fmt, empty="No allow-list entries; see detection.allow_lists_path.")


def _allows(entry: Entry, *, short: bool) -> str:
    if entry.sale:
        sale = entry.sale
        where = f" {', '.join(map(str, sale.category_id))}" if sale.category_id else ""
        return f"sale, {sale.start:%Y-%m-%d %H:%M} to {sale.until:%Y-%m-%d %H:%M}, {', '.join(sale.kinds)}{where}"
    parts = []
    for word in entry.actors.given() if entry.actors else ():
        values = [str(value) for value in getattr(entry.actors, word)]
        few = f"{len(values):,} values" if short and len(values) > 3 else ", ".join(values)  # noqa: PLR2004  fit a cell
        parts.append(f"{word} {few}")
    return "; ".join(parts)


def check_allow_lists(
    ctx: typer.Context,
    path: Annotated[
        Path | None,
        typer.Argument(help="An allow-list file, or a folder of them.", show_default="detection.allow_lists_path"),
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Check allow-list files, and list expired entries. Exits 1 if a file is invalid.

    Each problem is one line: file:line: allow-list: what was expected, what the file has, how to fix it.

    Examples:
      shopstream rules allowlist check
      shopstream rules allowlist check allow/
      shopstream rules allowlist check allow/crawlers.yml --format json
    """
    place = path or settings_of(ctx).detection.allow_lists_path
    if place is None:
        raise ConfigurationError(
            "expected an allow-list or a folder of them; name one, or set detection.allow_lists_path"
        )
    files, problems = ALLOW_LIST_FILES.read(place)
    entries = [entry for entries in files.values() for entry in entries]
    now = datetime.now(UTC)
    warnings = [
        Problem(
            entry.file,
            entry.line,
            f"expired entry {entry.id}",
            f"suppresses nothing since {entry.expires:%Y-%m-%d}; review it, then renew or remove it",
        )
        for entry in entries
        if entry.expires <= now
    ]
    summary = f"{len(entries)} good, {len(problems)} wrong, {len(warnings)} expired"
    emit_problems([*problems, *warnings], fmt, summary)
    if problems:
        raise typer.Exit(1)
