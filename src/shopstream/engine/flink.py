"""Compiles window declarations to Apache Flink SQL (2.x): views with derived columns, then one windowed query.

The source is a table with the event columns and `t` (BIGINT, event time in epoch milliseconds), with the time attribute

    event_time AS TO_TIMESTAMP_LTZ(t, 3), WATERMARK FOR event_time AS event_time - INTERVAL '5' SECOND

Flink's limits shape the text. All OVER windows of one SELECT must be equal and end at the current row, so each lookback
is a view of its own. LAG and running maxima keep a row or two per key, which `table.exec.state.ttl` drops. The argument
of a window function is a table, hence the views. Two things differ from DuckDB: events of one shopper in the same
millisecond keep their order of arrival, and windows fire only when they close.
"""

from typing import Final

import sqlglot
from sqlglot import exp, generator, tokens
from sqlglot.dialects.dialect import Dialect

from shopstream.engine.compile import compile_window
from shopstream.engine.derived_columns import ACTOR_HORIZON_MS, VISIT_HORIZON_MS, stateful, stateless
from shopstream.engine.sql_rewrite import INEXACT
from shopstream.engine.window import WindowDeclaration, WindowKind

STATE_TTL_MS: Final = 2 * ACTOR_HORIZON_MS
"""Unused state of derived columns expires after this time: both gaps are null then."""

_STATELESS: Final = {
    "ip_net": "CASE WHEN POSITION(':' IN ip) > 0 "
    "THEN TRIM(TRAILING ':' FROM REGEXP_EXTRACT(LOWER(ip), '^([0-9a-f]+:[0-9a-f]+:[0-9a-f]*)', 1)) || '::/48' "
    "ELSE REGEXP_EXTRACT(ip, '^([0-9]+[.][0-9]+[.][0-9]+)[.]', 1) || '.0/24' END",
    "agent_hash": "LEFT(MD5(user_agent), 16)",
    "hour_of_day": "MOD(t / 3600000, 24)",
    "hour": "t / 3600000",
}
_SOURCE: Final = "{source}"
_ACTOR: Final = "user_id"
_VISIT: Final = "user_id, user_session, product_id"
_PRODUCT: Final = "user_id, product_id"
_ALL: Final = " ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
_GAP: Final = f"t - before1_t <= {ACTOR_HORIZON_MS}"
_STATEFUL: Final = {
    "gap_ms": f"CASE WHEN {_GAP} THEN t - before1_t END",
    "previous_gap_ms": f"CASE WHEN {_GAP} AND before1_t - before2_t <= {ACTOR_HORIZON_MS} "
    "THEN before1_t - before2_t END",
    "previous_product_id": f"CASE WHEN {_GAP} THEN before1_product END",
    "new_user": f"NOT COALESCE({_GAP}, FALSE)",
    "first_visit": f"NOT COALESCE(t - visit_t <= {VISIT_HORIZON_MS}, FALSE)",
    "viewed": f"COALESCE(t - view_t <= {VISIT_HORIZON_MS}, FALSE)",
}
_GAPS: Final = frozenset({"gap_ms", "previous_gap_ms", "previous_product_id", "new_user"})
_BEFORE: Final = """LAG(t, 1) OVER w AS before1_t, LAG(t, 2) OVER w AS before2_t,
  LAG(product_id, 1) OVER w AS before1_product"""
_NEWEST_VIEW: Final = "MAX(CASE WHEN event_type = 'view' THEN t END) OVER w AS newest_view_t"
_LOOKS: Final = (
    (_GAPS, _ACTOR, "", _BEFORE),
    (frozenset({"first_visit"}), _VISIT, "", "LAG(t, 1) OVER w AS visit_t"),
    (frozenset({"viewed"}), _PRODUCT, _ALL, _NEWEST_VIEW),
    (frozenset({"viewed"}), _PRODUCT, "", "LAG(newest_view_t, 1) OVER w AS view_t"),
)
"""(Derived columns, partition, frame, expressions) of the views, in order."""


class _Flink(Dialect):
    """Flink's SQL as far as rules need it: identifiers in backticks."""

    class Tokenizer(tokens.Tokenizer):
        IDENTIFIERS = ["`"]  # noqa: RUF012  sqlglot's interface

    class Generator(generator.Generator):
        pass


def flink_sql(declaration: WindowDeclaration, source: str = "events") -> str:
    """Statements, each with `;`: settings, temporary views, and the query.

    The query has the columns of `batch_sql`, but timestamps as window borders: `window_start`, `window_end`.

    Raises:
        RuleError: the declaration does not compile.
    """
    parts = compile_window(declaration)
    name = declaration.name
    statements = [
        "SET 'table.local-time-zone' = 'UTC'",
        *([f"SET 'table.exec.state.ttl' = '{STATE_TTL_MS} ms'"] if stateful(parts.columns) else []),
    ]
    table = before = source
    for place, query in enumerate(_derived(parts.columns), start=1):
        table = f"{name}_{place}"
        statements.append(f"CREATE TEMPORARY VIEW `{table}` AS\n{query.replace(_SOURCE, _quote(before))}")
        before = table
    filters = [f"{_quote(column)} IS NOT NULL" for column in declaration.key]
    if declaration.filter is not None:
        filters.append(f"({_expression(declaration.filter)})")
    if filters:
        statements.append(
            f"CREATE TEMPORARY VIEW `{name}_events` AS\nSELECT * FROM {_quote(table)}\nWHERE {' AND '.join(filters)}"
        )
        table = f"{name}_events"
    statements.append(_query(declaration, table))
    return "".join(f"{statement};\n\n" for statement in statements).rstrip("\n") + "\n"


def _derived(columns: tuple[str, ...]) -> list[str]:
    """Queries of the views with derived columns; _SOURCE stands for the previous view."""
    wanted = {field.name for field in stateful(columns)}
    queries = [
        f"SELECT *, {looks}\nFROM {_SOURCE}\nWINDOW w AS (PARTITION BY {partition} ORDER BY event_time{frame})"
        for names, partition, frame, looks in _LOOKS
        if names & wanted
    ]
    made = [(field.name, _STATEFUL[field.name]) for field in stateful(columns)]
    made += [(field.name, _STATELESS[field.name]) for field in stateless(columns)]
    if made:
        queries.append("SELECT *,\n" + ",\n".join(f"  {sql} AS `{name}`" for name, sql in made) + f"\nFROM {_SOURCE}")
    return queries


def _query(declaration: WindowDeclaration, table: str) -> str:
    keys = [_quote(column) for column in declaration.key]
    window = ["`window_start`", "`window_end`"]
    measures = [f"{_expression(text)} AS {_quote(name)}" for name, text in declaration.measures.items()]
    selected = ",\n    ".join(
        [*keys, *window, "MIN(`t`) AS `first_event_ms`", "MAX(`t`) AS `last_event_ms`", *measures]
    )
    inner = f"""SELECT
    {selected}
  FROM TABLE({_window(declaration, table)})
  GROUP BY {", ".join([*keys, *window])}"""
    where = "" if declaration.condition is None else f"\nWHERE {_expression(declaration.condition)}"
    return f"SELECT * FROM (\n  {inner}\n){where}"


def _window(declaration: WindowDeclaration, table: str) -> str:
    data, time = f"TABLE {_quote(table)}", "DESCRIPTOR(`event_time`)"
    if declaration.kind is WindowKind.SESSION:
        by = f" PARTITION BY ({', '.join(map(_quote, declaration.key))})" if declaration.key else ""
        return f"SESSION({data}{by}, {time}, {_interval(declaration.gap_ms)})"
    size = _interval(declaration.size_ms)
    if declaration.slide_ms == declaration.size_ms:
        return f"TUMBLE({data}, {time}, {size})"
    return f"HOP({data}, {time}, {_interval(declaration.slide_ms)}, {size})"


_UNITS: Final = (("DAY", 86_400_000), ("HOUR", 3_600_000), ("MINUTE", 60_000), ("SECOND", 1_000))
_DIGITS: Final = 2
"""An interval with more leading digits needs an explicit precision."""


def _interval(ms: int) -> str:
    """An interval literal such as `INTERVAL '10' SECOND`."""
    for unit, length in _UNITS:
        if ms % length == 0:
            text = str(ms // length)
            return f"INTERVAL '{text}' {unit}" + (f"({len(text)})" if len(text) > _DIGITS else "")
    text = str(ms // 1_000)
    precision = f"({len(text)}, 3)" if len(text) > _DIGITS else ""
    return f"INTERVAL '{text}.{ms % 1_000:03d}' SECOND{precision}"


def _expression(text: str) -> str:
    """A rule expression in Flink's SQL, with the meaning of `sql_rewrite.null_safe`."""
    root = exp.Paren(this=sqlglot.parse_one(text, dialect="duckdb"))
    for aggregate in list(root.find_all(exp.Sum, exp.Avg)):
        _sum_exactly(aggregate)
    for node in reversed(list(root.find_all(exp.Ln, exp.Sqrt, exp.Div, exp.Mod, exp.Least, exp.Greatest))):
        node.replace(_null_safe(node))
    for column in list(root.find_all(exp.Column)):
        column.this.set("quoted", True)
    return str(root.this.sql(dialect=_Flink))


def _sum_exactly(node: exp.Expr) -> None:
    """Write AVG as a quotient, because Flink averages whole numbers to whole numbers; sum fractions as decimals."""
    if node.this.find(*INEXACT):
        node.set("this", exp.TryCast(this=node.this.copy(), to=exp.DataType.build("DECIMAL(38, 9)")))
    whole = node.parent if isinstance(node.parent, exp.Filter) else node
    if isinstance(node, exp.Sum):
        if isinstance(node.this, exp.TryCast):
            whole.replace(exp.cast(whole.copy(), "DOUBLE"))
        return
    total, count = (_replaced(whole, node, kind) for kind in (exp.Sum, exp.Count))
    whole.replace(exp.paren(exp.Div(this=total, expression=count)))


def _replaced(whole: exp.Expr, node: exp.Expr, kind: type[exp.Sum | exp.Count]) -> exp.Expr:
    """The aggregate, with its filter, as another kind."""
    other: exp.Expr = kind(this=node.this.copy())
    return exp.Filter(this=other, expression=whole.expression.copy()) if isinstance(whole, exp.Filter) else other


def _divisor(node: exp.Expr) -> exp.Expr:
    divisor = node.unnest().copy()
    known = isinstance(divisor, exp.Literal) and float(divisor.this) != 0
    return divisor if known else exp.Nullif(this=divisor, expression=exp.Literal.number(0))


def _null_safe(node: exp.Expr) -> exp.Expr:
    """The node with null for undefined values; LEAST and GREATEST ignore nulls, as in DuckDB."""
    if isinstance(node, exp.Ln | exp.Sqrt):
        compare = exp.GT if isinstance(node, exp.Ln) else exp.GTE
        met = compare(this=exp.paren(node.this.copy()), expression=exp.Literal.number(0))
        return exp.Case(ifs=[exp.If(this=met, true=type(node)(this=node.this.copy()))])
    if isinstance(node, exp.Div):  # Flink divides whole numbers without a fraction
        return exp.Div(this=exp.cast(node.left.copy(), "DOUBLE"), expression=_divisor(node.right), typed=True)
    if isinstance(node, exp.Mod):
        return exp.Anonymous(this="MOD", expressions=[node.left.unnest().copy(), _divisor(node.right)])
    chosen: exp.Expr = node.this.copy()
    for other in node.expressions:
        pair = exp.Anonymous(this=node.key.upper(), expressions=[chosen.copy(), other.copy()])
        chosen = exp.Coalesce(this=pair, expressions=[chosen, other.copy()])
    return chosen


def _quote(name: str) -> str:
    return f"`{name}`"
