"""`shopstream rules show`."""

from enum import StrEnum
from typing import Annotated

import typer

from shopstream.cli.output import settings_of
from shopstream.cli.rule_options import RuleArgument, chosen_rule
from shopstream.ruletools.rule_sql import Target, target_sql

__all__ = ["show_rule"]


class _Target(StrEnum):
    """As `engine.target.Target`, which is too heavy to load for --help."""

    DUCKDB = "duckdb"
    BATCH = "batch"
    FLINK = "flink"


def show_rule(
    ctx: typer.Context,
    rule: RuleArgument,
    sql: Annotated[_Target, typer.Option(help="Where it is to run.")] = _Target.BATCH,
) -> None:
    """Show the SQL that a rule becomes.

    `batch` is one query over a table `events`; it gives what the stream gives. `duckdb` are the two statements that
    the engine runs, as events come in and as the watermark moves. `flink` are statements for Apache Flink 2: the last
    is the query, those before it make the derived columns.

    Examples:
      shopstream rules show user_burst
      shopstream rules show user_regular --sql flink
      shopstream rules show my_rules/hot.yml --sql duckdb
    """
    chosen = chosen_rule(settings_of(ctx), rule)
    typer.echo(target_sql(chosen.window_declaration(), Target(sql.value)), nl=False)
