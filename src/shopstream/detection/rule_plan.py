"""Plans a rule with DuckDB, which finds types that do not fit."""

from functools import cache

import duckdb

from shopstream.detection.rule import Rule
from shopstream.engine.compile import batch_sql
from shopstream.events.schema import EVENT_FIELDS, duckdb_columns


def type_problem(rule: Rule) -> str | None:
    """DuckDB's message about types of the rule's expressions that do not match; None if they do.

    Raises:
        RuleError: the window is not possible.
    """
    with _planner().cursor() as cursor:
        try:
            cursor.execute("EXPLAIN " + batch_sql(rule.window_declaration(), "events"))
        except duckdb.Error as error:
            return str(error).splitlines()[0]
    return None


@cache
def _planner() -> duckdb.DuckDBPyConnection:
    """An empty table of events in memory; one for all rules, as a database takes longer to open than to plan."""
    columns = ", ".join(f"{name} {kind}" for name, kind in duckdb_columns(EVENT_FIELDS).items())
    connection = duckdb.connect(config={"threads": 1})
    connection.execute(f"CREATE TABLE events ({columns})")
    return connection
