"""`shopstream`: the command groups, and how errors look."""

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from shopstream.cli import (
    baselines,
    blocklist,
    deadletters,
    incidents,
    journeys,
    lake,
    notify,
    rules,
    scenarios,
    verdicts,
)
from shopstream.cli.archive import archive
from shopstream.cli.build import build
from shopstream.cli.config import config as show_config
from shopstream.cli.dashboard import dashboard
from shopstream.cli.demo import demo
from shopstream.cli.doctor import doctor
from shopstream.cli.evaluate import evaluate
from shopstream.cli.help_text import flow_help
from shopstream.cli.output import err
from shopstream.cli.plan import plan
from shopstream.cli.query import query
from shopstream.cli.report import report
from shopstream.cli.run import run
from shopstream.cli.shards import shards
from shopstream.cli.simulate import simulate
from shopstream.cli.status import status
from shopstream.cli.synthesise import synthesise
from shopstream.config import load_settings
from shopstream.errors import RetryableError, ShopstreamError

__all__ = ["app", "main"]

app = typer.Typer(
    name="shopstream",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # locals may hold shopper data or tokens
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"shopstream {version('shopstream')}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    home: Annotated[
        Path | None, typer.Option(help="Folder of all data.", envvar="SHOPSTREAM_HOME", show_default=".shopstream")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings file.", envvar="SHOPSTREAM_CONFIG", show_default="shopstream.toml")
    ] = None,
    _asked: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Live shopper journeys, alarms on attacks and trusted reports from one event stream.

    Examples:
      shopstream demo
      shopstream --home /tmp/try demo --no-serve
      shopstream simulate --help
    """
    ctx.obj = load_settings(config, {"home": home} if home else None)


_START, _EVENTS, _LIVE = "Start here", "Events in", "Live"
_REPORTS, _SETUP = "Lake and reports", "Set-up"

app.command(rich_help_panel=_START)(demo)
app.command(rich_help_panel=_START)(status)
app.command(rich_help_panel=_START)(doctor)
app.command(rich_help_panel=_EVENTS)(simulate)
app.command(rich_help_panel=_EVENTS)(synthesise)
app.add_typer(scenarios.app, name="scenarios", rich_help_panel=_EVENTS)
app.command(rich_help_panel=_EVENTS)(shards)
app.command(rich_help_panel=_LIVE)(run)
app.command(rich_help_panel=_LIVE)(archive)
app.command(rich_help_panel=_LIVE)(dashboard)
app.add_typer(journeys.app, name="journeys", rich_help_panel=_LIVE)
app.add_typer(incidents.app, name="incidents", rich_help_panel=_LIVE)
app.add_typer(verdicts.app, name="verdicts", rich_help_panel=_LIVE)
app.add_typer(blocklist.app, name="blocklist", rich_help_panel=_LIVE)
app.add_typer(rules.app, name="rules", rich_help_panel=_LIVE)
app.add_typer(baselines.app, name="baselines", rich_help_panel=_LIVE)
app.command(rich_help_panel=_LIVE)(evaluate)
app.add_typer(notify.app, name="notify", rich_help_panel=_LIVE)
app.command(rich_help_panel=_REPORTS)(build)
app.command(rich_help_panel=_REPORTS)(report)
app.command(rich_help_panel=_REPORTS)(query)
app.add_typer(lake.app, name="lake", rich_help_panel=_REPORTS)
app.add_typer(deadletters.app, name="deadletters", rich_help_panel=_REPORTS)
app.command(name="config", rich_help_panel=_SETUP)(show_config)
app.command(rich_help_panel=_SETUP)(plan)
flow_help(app)


def main() -> None:
    """Run the program; errors that shopstream raises on purpose end in one sentence, not in a traceback."""
    try:
        app()
    except ShopstreamError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        if os.environ.get("SHOPSTREAM_DEBUG"):
            raise
        sys.exit(75 if isinstance(error, RetryableError) else 1)
