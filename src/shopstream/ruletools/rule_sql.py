"""One declaration, three targets: the streaming statements of DuckDB, one batch query, Flink SQL."""

from enum import StrEnum

import sqlglot

from shopstream.engine.compile import batch_sql
from shopstream.engine.engine import Engine
from shopstream.engine.flink import flink_sql
from shopstream.engine.operators import build_operator
from shopstream.engine.settings import EngineSettings
from shopstream.engine.window import WindowDeclaration

__all__ = ["Target", "target_sql"]


class Target(StrEnum):
    """Where a declaration runs."""

    DUCKDB = "duckdb"
    BATCH = "batch"
    FLINK = "flink"


def target_sql(declaration: WindowDeclaration, target: Target) -> str:
    """SQL text, for people to read.

    Raises:
        RuleError: the declaration does not compile.
    """
    if target is Target.FLINK:
        return flink_sql(declaration)
    if target is Target.BATCH:
        return _readable(batch_sql(declaration, "events"))
    operator = build_operator(Engine(EngineSettings(threads=1), ()).connection, declaration)
    return "\n".join(map(_readable, operator.statements()))


def _readable(sql: str) -> str:
    return sqlglot.transpile(sql, read="duckdb", write="duckdb", pretty=True)[0] + ";\n"
