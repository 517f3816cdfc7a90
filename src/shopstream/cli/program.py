"""`shopstream`: the table of all commands, and how errors are shown."""

import gc
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from shopstream.cli.lazy_group import Command, Group, LazyGroup, Panels
from shopstream.errors import RetryableError, ShopstreamError

_SCENARIOS = Group(
    "Attacks, faults and surges to inject into synthetic traffic.",
    {
        "list": Command("synthesise:list_scenarios", "List scenarios with their detection goals."),
        "show": Command(
            "synthesise:show_scenario", "Show one scenario: what happens, and the ranges its cases are drawn from."
        ),
        "check": Command("synthesise:check_scenarios", "Check scenario files. Exits 1 if a file is invalid."),
    },
)
_INCIDENTS = Group(
    "List, inspect and triage incidents.",
    {
        "list": Command("incidents:list_incidents", "List incidents, those with the newest events first."),
        "show": Command(
            "incident_events:show",
            "Show one incident: evidence, parts, notifications, and the command that shows its events.",
        ),
        "events": Command(
            "incident_events:events", "Show the events behind an incident, from the lake, in order of time."
        ),
        "export": Command(
            "incidents:export", "Export incidents for other systems, one JSON object per line, newest first."
        ),
        "ack": Command("incidents:ack", "Acknowledge an incident: somebody is working on it."),
        "resolve": Command(
            "incidents:resolve", "Resolve an incident: the detection was right, and nothing is left to do."
        ),
        "false-positive": Command(
            "incidents:false_positive",
            "Mark the incident as a false positive. Its actors count as human again in reports and blocklists.",
        ),
        "reopen": Command("incidents:reopen", "Undo acknowledge, resolve or false-positive."),
        "precision": Command(
            "incidents:precision", "Show the precision of each rule, from resolved incidents and false positives."
        ),
    },
)
_VERDICTS = Group(
    "Verdicts on actors: which are bots or human, and for which period.",
    {"list": Command("verdicts:list_verdicts", "List verdicts on actors, newest first.")},
)
_BLOCKLIST = Group(
    "Blocklists of bots, for the edge.",
    {
        "export": Command(
            "verdicts:export_blocklist", "Write a blocklist of the actors that rules call bots, each with an expiry."
        )
    },
)
_RULES = Group(
    "List, check, test and tune rules.",
    {
        "allowlist": Group(
            "Known harmless actors and planned sales.",
            {
                "list": Command(
                    "rules:list_allow_lists", "List allow-list entries: what each allows, why, and until when."
                ),
                "check": Command(
                    "rules:check_allow_lists",
                    "Check allow-list files, and list expired entries. Exits 1 if a file is invalid.",
                ),
            },
        ),
        "list": Command("rules:list_rules", "List the rules and detectors in force."),
        "check": Command("rules:check_rules", "Check rule files. Exits 1 if a file is invalid."),
        "test": Command("rule_tools:run_tests", "Run rule tests. Exits 1 if a test fails."),
        "explain": Command("rule_tools:explain", "Explain why a rule did or did not fire for an actor."),
        "backtest": Command("rule_tools:backtest", "Count how often a rule would have fired on past events."),
        "show": Command("rule_tools:show_rule", "Show the SQL that a rule compiles to."),
    },
)
_BASELINES = Group(
    "Learn and show baselines: what normal traffic looks like.",
    {
        "build": Command(
            "baselines:build", "Learn baselines from past events, so that detectors start without a week of learning."
        ),
        "show": Command("baselines:show", "Show the baselines, their forecast error, and their age."),
    },
)
_NOTIFY = Group(
    "Test, list and retry notifications.",
    {
        "test": Command("notify:send_test", "Send a test message to every notification target. Exits 1 if one fails."),
        "list": Command("notify:list_notifications", "List notifications, newest first: sent, pending, failed."),
        "retry": Command("notify:retry", "Queue failed notifications again; a running engine sends them."),
    },
)
_LAKE = Group(
    "Inspect, load and maintain the Iceberg tables.",
    {
        "status": Command("lake:lake_status", "Show rows, files, size, snapshots and positions of each table."),
        "ingest": Command(
            "lake:ingest", "Load files straight into the lake: history for reports, no live windows, no incidents."
        ),
        "compact": Command(
            "lake:compact", "Merge small files within each day, and sort rows by time. Readers and writers continue."
        ),
        "expire": Command(
            "lake:expire", "Expire old snapshots, and delete the files that only they need. No row is lost."
        ),
        "orphans": Command(
            "lake:orphans", "List files that no snapshot references, e.g. those of an interrupted commit."
        ),
    },
)
_DEAD_LETTERS = Group(
    "Inspect and replay rejected records.",
    {
        "list": Command("lake:list_dead_letters", "List rejected records, newest first, with the reason."),
        "show": Command(
            "lake:show_dead_letter", r"Show one dead letter with its bytes; bytes that are not text appear as \xNN."
        ),
        "replay": Command(
            "lake:replay_dead_letters",
            "Replay dead letters into the stream, each once: after a fix, or with corrected bytes.",
        ),
    },
)
_PANELS: Panels = {
    "Start here": {
        "demo": Command("demo:demo", "Run one shop day through the whole pipeline, and show the results."),
        "status": Command("status:status", "Show events read and stored, consumer lag, and problems."),
        "doctor": Command("status:doctor", "Check the installation and suggest fixes. Exits 1 if any check fails."),
    },
    "Events in": {
        "simulate": Command(
            "simulate:simulate", "Replay a file of events into the stream: at once, at a rate, or at its own pace."
        ),
        "synthesise": Command(
            "synthesise:synthesise", "Write realistic synthetic shop traffic, with attacks whose ground truth is known."
        ),
        "scenarios": _SCENARIOS,
        "shards": Command(
            "simulate:shards", "Compare partition keys: how evenly each spreads events, how many users it splits."
        ),
    },
    "Live": {
        "run": Command("run:run", "Process the stream: windows, incidents, live journeys, lake."),
        "archive": Command(
            "run:archive", "Store the events of a Kinesis stream in the lake, while Flink runs the windows."
        ),
        "dashboard": Command(
            "dashboard:dashboard", "Serve the dashboard: incidents, shoppers, reports, and pipeline health."
        ),
        "journeys": Command(
            "journeys:app", "Show what shoppers do now: active sessions, funnel, open carts and top lists."
        ),
        "incidents": _INCIDENTS,
        "verdicts": _VERDICTS,
        "blocklist": _BLOCKLIST,
        "rules": _RULES,
        "baselines": _BASELINES,
        "evaluate": Command(
            "evaluate:evaluate", "Measure detection on synthetic shops, with and without injected attacks."
        ),
        "notify": _NOTIFY,
    },
    "Lake and reports": {
        "build": Command("reports:build", "Build the reports from the lake."),
        "report": Command("reports:report", "Print one of the four reports, as of the last `shopstream build`."),
        "query": Command("reports:query", "Query the marts and the lake in SQL."),
        "lake": _LAKE,
        "deadletters": _DEAD_LETTERS,
    },
    "Set-up": {
        "config": Command(
            "status:config", "Print every setting: value, environment variable, and meaning. Secrets are hidden."
        ),
        "plan": Command(
            "plan:plan", "Estimate what a shop of a given size needs on AWS, and what that costs per month."
        ),
    },
}


_GC_THRESHOLD = 50_000
"""Objects between two garbage collections: imports create many and drop none, and would start hundreds."""


class _Root(LazyGroup):
    default_panels = _PANELS


app = typer.Typer(
    name="shopstream",
    cls=_Root,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals may hold shopper data or tokens
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415  no other command needs it

        typer.echo(f"shopstream {version('shopstream')}")
        raise typer.Exit


@app.callback()
def root(
    home: Annotated[
        Path | None, typer.Option(help="Folder of all data.", envvar="SHOPSTREAM_HOME", show_default=".shopstream")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings file.", envvar="SHOPSTREAM_CONFIG", show_default="shopstream.toml")
    ] = None,
    _asked: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Live shopper journeys, alarms on attacks and trusted reports from one event stream.

    Examples:
      shopstream demo
      shopstream --home /tmp/try demo --no-serve
      shopstream simulate --help
    """
    del home, config  # `output.settings_of` reads them, so that --help needs no settings


def main() -> None:
    """Run the program; an error that shopstream raises on purpose is printed as a sentence, without a traceback."""
    gc.set_threshold(_GC_THRESHOLD)
    try:
        app()
    except ShopstreamError as error:
        typer.echo(f"{typer.style('error:', fg='red', bold=True)} {error}", err=True)
        if os.environ.get("SHOPSTREAM_DEBUG"):
            raise
        sys.exit(75 if isinstance(error, RetryableError) else 1)
    except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        if os.environ.get("SHOPSTREAM_DEBUG") or error.filename is None:
            raise
        typer.echo(
            f"{typer.style('error:', fg='red', bold=True)} {error.filename} cannot be used: {error.strerror}; "
            "check the path and its permissions",
            err=True,
        )
        sys.exit(1)
    finally:
        if "duckdb" not in sys.modules:  # DuckDB would report its objects as leaks
            gc.freeze()  # spares the interpreter a search of all modules for garbage when it ends
