"""`shopstream rules allowlist`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shopstream.cli.output import Format, FormatOption, emit, emit_problems, settings_of
from shopstream.config import Settings
from shopstream.errors import ConfigurationError

if TYPE_CHECKING:
    from shopstream.detection.allowlist import Entry

__all__ = ["app", "expired_entries"]

app = typer.Typer(no_args_is_help=True, help="Who and what is known to be harmless.")


def expired_entries(settings: Settings) -> "list[Entry]":
    """Entries of the allow-lists in force that no longer suppress anything.

    Raises:
        RuleError: a file is wrong.
    """
    from shopstream.detection.allowlist import load_allow_list  # noqa: PLC0415

    now = datetime.now(UTC)
    return [entry for entry in load_allow_list(settings.detection.allow_lists_path).entries if entry.expires <= now]


@app.command("list")
def list_entries(ctx: typer.Context, fmt: FormatOption = Format.TABLE) -> None:
    """List what is allowed, by whom it is meant, why, and until when.

    The files are in the folder that detection.allow_lists_path names. A running engine reads them when it starts.

    Examples:
      shopstream rules allowlist list
      shopstream rules allowlist list --format json
    """
    from shopstream.detection.allowlist import load_allow_list  # noqa: PLC0415

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
    emit(rows, fmt, empty="Nothing is allowed; see detection.allow_lists_path.")


def _allows(entry: "Entry", *, short: bool) -> str:
    if entry.sale:
        sale = entry.sale
        where = f" {', '.join(map(str, sale.category_id))}" if sale.category_id else ""
        return f"sale, {sale.start:%Y-%m-%d %H:%M} to {sale.until:%Y-%m-%d %H:%M}, {', '.join(sale.kinds)}{where}"
    parts = []
    for word in entry.actors.words() if entry.actors else ():
        values = [str(value) for value in getattr(entry.actors, word)]
        few = f"{len(values):,} values" if short and len(values) > 3 else ", ".join(values)  # noqa: PLR2004  fit a cell
        parts.append(f"{word} {few}")
    return "; ".join(parts)


@app.command()
def check(
    ctx: typer.Context,
    path: Annotated[
        Path | None,
        typer.Argument(help="An allow-list or a folder of them.", show_default="detection.allow_lists_path"),
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Check allow-list files, and list expired entries. Exits 1 if a file is invalid.

    Each problem is one line: file:line: allow-list: what was expected, what the file has, what to do.

    Examples:
      shopstream rules allowlist check
      shopstream rules allowlist check allow/
      shopstream rules allowlist check allow/crawlers.yml --format json
    """
    from shopstream.detection.allowlist import ALLOW_LIST_FILES  # noqa: PLC0415  start-up time
    from shopstream.yaml_files import Problem  # noqa: PLC0415

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
            f"suppresses nothing since {entry.expires:%Y-%m-%d}; look again, renew or remove it",
        )
        for entry in entries
        if entry.expires <= now
    ]
    summary = f"{len(entries)} good, {len(problems)} wrong, {len(warnings)} expired"
    emit_problems([*problems, *warnings], fmt, summary)
    if problems:
        raise typer.Exit(1)
