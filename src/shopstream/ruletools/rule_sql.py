"""SQL of a window declaration: streaming statements of DuckDB, one batch query, or Flink SQL."""

from enum import StrEnum

import sqlglot

from shopstream.engine.compile import batch_sql
from shopstream.engine.engine import Engine
from shopstream.engine.flink import flink_sql
from shopstream.engine.operators import build_operator
from shopstream.engine.settings import EngineSettings
from shopstream.engine.window import WindowDeclaration

__all__ = ["SqlTarget", "target_sql"]


class SqlTarget(StrEnum):
    """Where a window declaration runs."""

    DUCKDB = "duckdb"
    BATCH = "batch"
    FLINK = "flink"


def target_sql(declaration: WindowDeclaration, target: SqlTarget) -> str:
    """The SQL, formatted.

    Raises:
        RuleError: the declaration does not compile.
    """
    if target is SqlTarget.FLINK:
        return flink_sql(declaration)
    if target is SqlTarget.BATCH:
        return _readable(batch_sql(declaration, "events"))
    operator = build_operator(Engine(EngineSettings(threads=1), ()).connection, declaration)
    return "\n".join(map(_readable, operator.statements()))


def _readable(sql: str) -> str:
    return sqlglot.transpile(sql, read="duckdb", write="duckdb", pretty=True)[0] + ";\n"
