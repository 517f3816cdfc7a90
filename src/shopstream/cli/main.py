"""`shopstream`: the command groups, and how errors look."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from shopstream.cli import deadletters, incidents, journeys, lake, notify, rules
from shopstream.cli.build import build
from shopstream.cli.config import config as show_config
from shopstream.cli.dashboard import dashboard
from shopstream.cli.demo import demo
from shopstream.cli.doctor import doctor
from shopstream.cli.output import err
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


@app.callback()
def root(
    ctx: typer.Context,
    home: Annotated[
        Path | None, typer.Option(help="Folder of all data.", envvar="SHOPSTREAM_HOME", show_default=".shopstream")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings file.", envvar="SHOPSTREAM_CONFIG", show_default="shopstream.toml")
    ] = None,
) -> None:
    """Live shopper journeys, alarms on attacks and trusted reports from one event stream."""
    ctx.obj = load_settings(config, {"home": home} if home else None)


app.command()(demo)
app.command()(simulate)
app.command()(synthesise)
app.command()(shards)
app.command()(run)
app.command()(status)
app.add_typer(journeys.app, name="journeys")
app.add_typer(incidents.app, name="incidents")
app.add_typer(notify.app, name="notify")
app.add_typer(rules.app, name="rules")
app.add_typer(lake.app, name="lake")
app.add_typer(deadletters.app, name="deadletters")
app.command()(build)
app.command()(query)
app.command()(report)
app.command()(dashboard)
app.command(name="config")(show_config)
app.command()(doctor)


def main() -> None:
    """Run the program; errors that shopstream raises on purpose end in one sentence, not in a traceback."""
    try:
        app()
    except ShopstreamError as error:
        err.print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        if os.environ.get("SHOPSTREAM_DEBUG"):
            raise
        sys.exit(75 if isinstance(error, RetryableError) else 1)
