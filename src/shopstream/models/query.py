"""A user's own SQL over marts and lake: read-only, without access to anything else."""

import math
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import duckdb

from shopstream.errors import ConfigurationError
from shopstream.lakehouse.ports import LakeReader, LakeTable
from shopstream.lakehouse.tables import create_views
from shopstream.models.reports import open_reports

_READS = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}
_OUTPUT_TYPES = (bool, int, str, Decimal, datetime, date, bytes)


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Rows of a query; `cut` if the limit dropped some."""

    rows: list[dict[str, object]]
    cut: bool


def query(sql: str, lakehouse: LakeReader, reports_path: Path, limit: int = 0) -> QueryResult:
    """Run one SELECT.

    The marts and the lake's tables `events`, `dead_letters` and `detections` are available by name. Other files,
    extensions, the network and settings are not.

    Args:
        sql: one statement in DuckDB's SQL.
        lakehouse: with the tables.
        reports_path: the marts; the file may not exist yet.
        limit: maximum number of rows; 0: all.

    Raises:
        ConfigurationError: not a single read-only statement, or DuckDB cannot run it (with DuckDB's message).
    """
    _check(sql)
    with open_reports(reports_path) if reports_path.exists() else duckdb.connect() as connection:
        _open(connection, lakehouse, reports_path)
        try:
            cursor = connection.execute(sql)
            columns = _distinct([column[0] for column in cursor.description or []])
            found = cursor.fetchmany(limit + 1) if limit else cursor.fetchall()
        except duckdb.Error as error:
            raise ConfigurationError(f"the query cannot run: {error}{_hint(error, reports_path)}") from error
    kept = found[:limit] if limit else found
    rows = [{name: _output_value(value) for name, value in zip(columns, row, strict=True)} for row in kept]
    return QueryResult(rows, cut=len(kept) < len(found))


def _check(sql: str) -> None:
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise ConfigurationError(f"the query cannot be read: {error}") from error
    if len(statements) != 1:
        raise ConfigurationError(f"expected one statement, got {len(statements)}; give one SELECT")
    if statements[0].type not in _READS:
        raise ConfigurationError(
            f"expected a statement that reads (SELECT, DESCRIBE, SHOW, EXPLAIN), got {statements[0].type.name}; "
            "to keep a result, redirect --format csv into a file"
        )


def _open(connection: duckdb.DuckDBPyConnection, lakehouse: LakeReader, reports_path: Path) -> None:
    """Create views of everything that may be read, then disable all other access and lock that configuration."""
    connection.execute("set timezone = 'UTC'")
    if reports_path.exists():
        marts = connection.execute(
            "select table_name from information_schema.tables where table_catalog = 'reports' and table_schema = 'main'"
        ).fetchall()
        for (mart,) in marts:
            connection.execute(f'create temporary view "{mart}" as select * from reports.main."{mart}"')
    create_views(connection, lakehouse)
    spill = reports_path.resolve().parent / "build" / "query-spill"
    files = [file for table in LakeTable for file in lakehouse.data_files(table)]
    connection.execute("set temp_directory = ?", [str(spill)])
    connection.execute("set allowed_paths = ?", [files])
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def _hint(error: duckdb.Error, reports_path: Path) -> str:
    if isinstance(error, duckdb.CatalogException) and not reports_path.exists():
        return "; there are no marts yet: run `shopstream build`"
    return ""


def _distinct(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return result


def _output_value(value: object) -> object:
    """Values that every output format supports; DuckDB's own types become text."""
    if value is None or isinstance(value, _OUTPUT_TYPES):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return [_output_value(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _output_value(item) for key, item in value.items()}
    return str(value)
