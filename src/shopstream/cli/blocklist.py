"""`shopstream blocklist`."""

import csv
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import err, settings_of
from shopstream.response.blocklist import BlocklistFormat

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Bots, as a list that the edge can block.")


@app.callback()
def blocklist() -> None:
    """Bots, as a list that the edge can block."""


@app.command()
def export(
    ctx: typer.Context,
    *,
    fmt: Annotated[BlocklistFormat, typer.Option("--format", help="Who is to read it.")],
    ttl: Annotated[str, typer.Option(help="Block this long after the last event, e.g. 30m, 24h, 7d.")] = "24h",
    left_out: Annotated[Path | None, typer.Option(help="CSV file for those left out, each with its reason.")] = None,
) -> None:
    """Write the actors that rules call bots, each with an expiry, to stdout.

    Never one of whose traffic more than alerting.blocklist_genuine_share is estimated to be genuine, nor one that may
    be shared and is not known well enough, nor one whose incident is resolved or a false positive. Time is that of the
    events: of a replay of last year, what was blocked then. nginx, AWS WAF and CrowdSec know addresses and networks;
    an event stream without `ip` gives user ids and sessions only, which are in the csv for the shop itself to block.

    Examples:
      shopstream blocklist export --format nginx > shopstream-blocked.conf
      shopstream blocklist export --format crowdsec --ttl 4h > decisions.json
      shopstream blocklist export --format csv --left-out kept.csv
    """
    from datetime import timedelta  # noqa: PLC0415  beside what it is for

    from shopstream.detection.duration import parse_duration  # noqa: PLC0415  likewise
    from shopstream.errors import ConfigurationError  # noqa: PLC0415  likewise
    from shopstream.response.blocklist import (  # noqa: PLC0415
        read_blocklist,
        render,
    )

    settings = settings_of(ctx)
    try:
        length = timedelta(milliseconds=parse_duration(ttl))
    except ValueError as error:
        raise ConfigurationError(f"--ttl: {error}") from error
    with closing(adapters_of(settings).open_incidents()) as store:
        found = read_blocklist(store, length, settings.alerting.blocklist_genuine_share)
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
