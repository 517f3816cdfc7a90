"""`shopstream verdicts` and `shopstream blocklist`: bots and humans, and blocklists for the edge."""

import csv
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, LimitOption, emit, err, limit_of, settings_of
from shopstream.clock import parse_duration
from shopstream.errors import ConfigurationError
from shopstream.incidents.verdicts import read_verdicts
from shopstream.response.blocklist import BlocklistFormat, read_blocklist, render


def _per_incident(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """One line per actor and incident, for people."""
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
    actor: Annotated[str | None, typer.Option(help="Only this user id, session, address, ...")] = None,
    limit: LimitOption = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """List verdicts on actors, newest first.

    A verdict is valid from the first to the last event of an incident. After a false positive, the actor counts as
    human for that time. Reports exclude what bots did.

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
    most = limit_of(limit, fmt)
    emit(rows[:most] if most else rows, fmt, empty="No verdicts: no rule has called an actor a bot.")
    if most and len(rows) > most:
        err.print(f"These are the newest {most:,} of {len(rows):,}; --limit 0 shows all.")


def export_blocklist(
    ctx: typer.Context,
    *,
    fmt: Annotated[BlocklistFormat, typer.Option("--format", help="Consumer of the list.")],
    ttl: Annotated[str, typer.Option(help="How long to block after the last event, e.g. 30m, 24h, 7d.")] = "24h",
    left_out: Annotated[
        Path | None, typer.Option(help="CSV file for actors that are not blocked, with reasons.")
    ] = None,
) -> None:
    """Write a blocklist of the actors that rules call bots, each with an expiry.

    The list goes to stdout. It never contains actors with an estimated genuine share of traffic above
    incidents.blocklist_genuine_share, actors that many people may share, or actors of resolved and false-positive
    incidents. Expiry is in event time: a replay of last year lists what was blocked then. nginx, AWS WAF and CrowdSec
    block addresses and networks; without `ip` events have only user ids and sessions, which the csv format contains.

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
    err.print(f"{kept:,} to block as of {found.as_of:%Y-%m-%d %H:%M:%S} UTC, {len(others):,} left out.")
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
        err.print(f"  {count:,}: {reason}", soft_wrap=True)
    if left_out is not None:
        with left_out.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("kind", "actor", "incident", "reason"))
            writer.writerows((*one.actor, one.incident_id, one.reason) for one in others)
    elif others:
        err.print("--left-out FILE lists them.")
