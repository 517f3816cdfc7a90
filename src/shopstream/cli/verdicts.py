"""`shopstream verdicts`.

`shopstream blocklist`.
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit, err, settings_of
from shopstream.detection.duration import parse_duration
from shopstream.errors import ConfigurationError
from shopstream.incidents.verdicts import read_verdicts
from shopstream.response.blocklist import BlocklistFormat, read_blocklist, render

__all__ = ["export_blocklist", "list_verdicts"]

_SHOWN = 50


def _per_incident(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """For people: what several rules of one incident say of an actor is one line."""
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        place = row["actor_kind"], row["actor"], row["incident_id"]
        line = lines.setdefault(
            place,
            {"actor": f"{row['actor_kind']} {row['actor']}", "verdict": row["verdict"], "from": row["from_time"],
             "until": row["until_time"], "rules": 0, "incident": row["incident_id"]},
        )  # fmt: skip
        line["from"] = min(line["from"], row["from_time"])
        line["until"] = max(line["until"], row["until_time"])
        line["rules"] += 1
    return list(lines.values())


def list_verdicts(
    ctx: typer.Context,
    *,
    actor: Annotated[str | None, typer.Option(help="Only of this user id, session, address …")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=0, help="At most so many, 0 for all.", show_default=f"{_SHOWN} for a table, else all"),
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """List verdicts on actors, newest first.

    A verdict holds from the first to the last event of an incident. Where somebody called the incident a false
    positive, the actor is human in that time.

    Examples:
      shopstream verdicts list
      shopstream verdicts list --actor 526725566 --format json
    """
    with closing(adapters_of(settings_of(ctx)).open_incidents()) as store:
        found = read_verdicts(store).to_pylist()
    rows = [row for row in found if actor in {None, row["actor"]}]
    rows.reverse()
    if fmt is Format.TABLE:
        rows = _per_incident(rows)
    most = limit if limit is not None else _SHOWN if fmt is Format.TABLE else 0
    emit(rows[:most] if most else rows, fmt, empty="No verdicts: no rule has called anybody a bot.")
    if most and len(rows) > most:
        err.print(f"These are the newest {most:,} of {len(rows):,}; --limit 0 shows all.")


def export_blocklist(
    ctx: typer.Context,
    *,
    fmt: Annotated[BlocklistFormat, typer.Option("--format", help="Who is to read it.")],
    ttl: Annotated[str, typer.Option(help="Block this long after the last event, e.g. 30m, 24h, 7d.")] = "24h",
    left_out: Annotated[Path | None, typer.Option(help="CSV file for those left out, each with its reason.")] = None,
) -> None:
    """Write a blocklist of the actors that rules call bots, each with an expiry.

    Never one of whose traffic more than incidents.blocklist_genuine_share is estimated to be genuine, nor one that may
    be shared and is not known well enough, nor one whose incident is resolved or a false positive. Time is that of the
    events: of a replay of last year, what was blocked then. nginx, AWS WAF and CrowdSec know addresses and networks;
    an event stream without `ip` gives user ids and sessions only, which are in the csv for the shop itself to block.

    Examples:
      shopstream blocklist export --format nginx > shopstream-blocked.conf
      shopstream blocklist export --format crowdsec --ttl 4h > decisions.json
      shopstream blocklist export --format csv --left-out kept.csv
    """
    settings = settings_of(ctx)
    try:
        length = timedelta(milliseconds=parse_duration(ttl))
    except ValueError as error:
        raise ConfigurationError(f"--ttl: {error}") from error
    with closing(adapters_of(settings).open_incidents()) as store:
        found = read_blocklist(store, length, settings.incidents.blocklist_genuine_share)
    text, others = render(found, fmt)
    sys.stdout.write(text)
    reasons: dict[str, int] = {}
    for one in others:
        reasons[one.reason] = reasons.get(one.reason, 0) + 1
    kept = len(found.blocked) - (len(others) - len(found.left_out))
    err.print(
        f"{kept:,} to block as of {found.as_of:%Y-%m-%d %H:%M:%S} UTC, {len(others):,} left out.", highlight=False
    )
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
        err.print(f"  {count:,}: {reason}", highlight=False, soft_wrap=True)
    if left_out is not None:
        with left_out.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("kind", "actor", "incident", "reason"))
            writer.writerows((*one.actor, one.incident_id, one.reason) for one in others)
    elif others:
        err.print("--left-out FILE names them.")
