"""Explains a rule: why it did or did not fire on a key, and the SQL of its window.

An explanation compares every window with each part of the condition. The SQL is that of DuckDB (streaming statements),
one batch query, or Flink SQL.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlglot
from sqlglot import exp

from shopstream.clock import from_ms
from shopstream.detection.rule import Rule
from shopstream.detection.wording import describe_key
from shopstream.engine.batch import BatchScan
from shopstream.engine.compile import batch_sql, compile_window
from shopstream.engine.derived_columns import DERIVED_FIELDS, derived_rows, stateful, stateless_rows
from shopstream.engine.engine import Engine
from shopstream.engine.flink import flink_sql
from shopstream.engine.operators import build_operator
from shopstream.engine.settings import EngineSettings
from shopstream.engine.window import WindowDeclaration
from shopstream.errors import ConfigurationError, PermanentError
from shopstream.events.schema import EVENT_FIELDS
from shopstream.ruletools.history import EVENTS, History, scanning

_WINDOWS, _OWN = "explained_windows", "explained_events"
_TYPES = {field.name: field.duckdb for field in EVENT_FIELDS} | {field.name: field.duckdb for field in DERIVED_FIELDS}
_ALMOST = 0.999
_COMPARISONS: dict[type[exp.Expr], str] = {exp.GT: "up", exp.GTE: "up", exp.LT: "down", exp.LTE: "down"}


@dataclass(frozen=True, slots=True)
class ConditionPart:
    """One part of the condition, which is their conjunction.

    Args:
        text: its SQL.
        windows: number of windows in which it holds.
        held: whether it holds in the closest window.
        best: value nearest to the threshold in any window, if it compares a measure with a number.
        at_closest: value in the closest window, likewise.
    """

    text: str
    windows: int
    held: bool
    best: object
    at_closest: object


@dataclass(frozen=True, slots=True)
class NearEvent:
    """An event in or around the closest window; `counted`: in the window, and matches the filter."""

    event_time: datetime
    event_type: str
    product_id: int
    category_code: str | None
    brand: str | None
    price: object
    counted: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """One key against one rule.

    Args:
        events, first, last: number and times of the key's events in the time range.
        windows: number of windows with events that match the filter.
        met: number of windows that met the condition.
        first_met: end of the first of them.
        start, end: the closest window; None without windows.
        measures: its values.
        parts: parts of the condition.
        near: events in and around it, in order of time.
    """

    rule: str
    keys: Mapping[str, str]
    condition: str
    events: int
    first: datetime
    last: datetime
    windows: int
    met: int
    first_met: datetime | None
    start: datetime | None
    end: datetime | None
    measures: Mapping[str, object]
    parts: Sequence[ConditionPart]
    near: Sequence[NearEvent]


def explain(
    rule: Rule,
    keys: Mapping[str, str],
    history: History,
    *,
    near: int = 20,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Explanation:
    """Compare one key's windows with a rule.

    The closest window is the one with the best sum over the parts of the condition (1 if a part holds, else how near
    it comes); among equals the strongest, as for an incident's peak.

    Args:
        rule: enabled or not.
        keys: a value for each key column of the rule.
        history: the events.
        near: greatest number of events to show.
        progress: called with steps done, and all steps.

    Raises:
        ConfigurationError: the keys are not the rule's, or a value is not a number.
        PermanentError: there are no such events, or DuckDB fails.
    """
    values = _values(rule, keys)
    with scanning(f"rule {rule.id} cannot be explained"):
        return _Run(rule, keys, values, history).result(near, progress)


def _values(rule: Rule, keys: Mapping[str, str]) -> list[object]:
    if set(keys) != set(rule.key):
        wanted = " ".join(f"--key {column}=VALUE" for column in rule.key) or "no key: it is about the whole site"
        raise ConfigurationError(f"rule {rule.id} takes {wanted}, got {', '.join(keys) or 'none'}")
    values: list[object] = []
    for column in rule.key:
        value: object = keys[column]
        if _TYPES[column] == "BIGINT":
            try:
                value = int(keys[column])
            except ValueError:
                raise ConfigurationError(f"expected a whole number for {column}, got {keys[column]!r}") from None
        values.append(value)
    return values


class _Run:
    """The run for one key."""

    def __init__(self, rule: Rule, keys: Mapping[str, str], values: Sequence[object], history: History) -> None:
        self._rule = rule
        self._keys = {column: keys[column] for column in rule.key}
        self._values = list(values)
        self._history = history
        self._connection = history.connection
        self._declaration = rule.model_copy(update={"condition": "TRUE"}).window_declaration()
        parts = compile_window(rule.window_declaration())
        self._filter, self._columns = parts.filter, parts.columns
        self._is_key = " AND ".join(f'"{column}" = CAST(? AS {_TYPES[column]})' for column in rule.key) or "TRUE"

    def result(self, near: int, progress: Callable[[int, int], None]) -> Explanation:
        history = self._history
        within = f"(SELECT *, epoch_ms(event_time) AS t FROM {EVENTS} WHERE {history.limits()})"
        own = f"SELECT * EXCLUDE (t) FROM ({stateless_rows(within, self._rule.key)}) WHERE {self._is_key}"
        kind = "TABLE" if self._rule.key else "VIEW"  # do not copy the events of the whole site
        self._connection.execute(f"CREATE OR REPLACE TEMP {kind} {_OWN} AS {own}", self._values)
        events, first, last = self._one(f"SELECT count(*), min(event_time), max(event_time) FROM {_OWN}")
        if not events:
            raise PermanentError(
                f"expected events of {describe_key(self._keys)} in that time, found none; check the value, --from and "
                "--to, and that the lake has them (`shopstream lake status`)"
            )
        self._cut(progress)
        total, met, first_met_ms = self._one(f"""
            SELECT count(*), count(*) FILTER (WHERE {self._rule.condition}),
                   min(end_ms) FILTER (WHERE {self._rule.condition}) FROM {_WINDOWS}""")
        conjuncts = _conjuncts(sqlglot.parse_one(self._rule.condition, dialect="duckdb"))
        closest = self._closest(conjuncts) if total else None
        return Explanation(
            rule=self._rule.id,
            keys=self._keys,
            condition=self._rule.condition,
            events=events,
            first=first,
            last=last,
            windows=total,
            met=met,
            first_met=None if first_met_ms is None else from_ms(first_met_ms),
            start=from_ms(closest["start_ms"]) if closest else None,
            end=from_ms(closest["end_ms"]) if closest else None,
            measures={name: closest[name] for name in self._rule.measures} if closest else {},
            parts=[self._part(conjunct, closest) for conjunct in conjuncts] if closest else [],
            near=self._near(closest["start_ms"], closest["end_ms"], near) if closest else [],
        )

    def _one(self, sql: str, values: Sequence[object] = ()) -> Any:  # noqa: ANN401  a row of any columns
        return self._connection.execute(sql, list(values)).fetchall()[0]

    def _cut(self, progress: Callable[[int, int], None]) -> None:
        """Compute every window of the key. Derived columns need a shopper's other events, so for keys without the
        shopper the windows of all keys are computed.
        """
        history = self._history
        alone = not stateful(self._columns)
        limits = {"from_ms": history.from_ms, "until_ms": history.until_ms}
        scan = BatchScan(self._connection, self._declaration, _OWN if alone else self._past(), _WINDOWS, **limits)
        progress(0, len(scan))
        scan.run(lambda done: progress(done, len(scan)))
        if not alone:
            self._connection.execute(f"DELETE FROM {_WINDOWS} WHERE NOT ({self._is_key})", self._values)

    def _past(self) -> str:
        """The events that derived columns need, also before the time range."""
        if "user_id" not in self._keys:
            return EVENTS
        self._connection.execute(
            f"CREATE OR REPLACE TEMP TABLE explained_past AS FROM {EVENTS} WHERE user_id = ?",
            [int(self._keys["user_id"])],
        )
        return "explained_past"

    def _closest(self, conjuncts: Sequence[exp.Expr]) -> dict[str, Any]:
        scores = " + ".join(_nearness(conjunct) for conjunct in conjuncts)
        strongest = "".join(f'"{name}" DESC NULLS LAST, ' for name in self._rule.measures)  # as an incident's peak
        cursor = self._connection.execute(
            f"SELECT * FROM {_WINDOWS} ORDER BY {scores} DESC, {strongest}start_ms LIMIT 1"
        )
        names = [column[0] for column in cursor.description or []]
        return dict(zip(names, cursor.fetchall()[0], strict=True))

    def _part(self, conjunct: exp.Expr, closest: Mapping[str, Any]) -> ConditionPart:
        text = conjunct.sql(dialect="duckdb")
        measure, way = _compared(conjunct)
        best = {"up": f'max("{measure}")', "down": f'min("{measure}")'}.get(way, "NULL")
        held, best_value = self._one(f"SELECT count(*) FILTER (WHERE {text}), {best} FROM {_WINDOWS}")
        same = f"start_ms = ? AND {self._is_key}"
        now = self._one(f"SELECT bool_or({text}) FROM {_WINDOWS} WHERE {same}", [closest["start_ms"], *self._values])
        return ConditionPart(text, held, bool(now[0]), best_value, closest.get(measure))

    def _near(self, start_ms: int, end_ms: int, count: int) -> list[NearEvent]:
        """Events in the window, then the nearest around it."""
        inside = f"t >= {start_ms} AND t < {end_ms}"
        alone = not stateful(self._columns)
        columns = {*self._columns, "event_type", "product_id", "category_code", "brand", "price", *self._rule.key}
        source = _OWN if alone else ("explained_past" if "user_id" in self._keys else EVENTS)
        rows = f"(SELECT * FROM ({derived_rows(source, sorted(columns))}) WHERE {self._is_key})"
        found = self._connection.execute(
            f"""SELECT event_time, event_type, product_id, category_code, brand, price,
                       coalesce({inside} AND {self._filter}, FALSE) AS counted
                FROM {rows} WHERE {self._history.limits()}
                ORDER BY counted DESC, abs(t - {start_ms}), t LIMIT {count}""",
            self._values,
        ).fetchall()
        return sorted((NearEvent(*row) for row in found), key=lambda event: event.event_time)


def _conjuncts(parsed: exp.Expr) -> list[exp.Expr]:
    parsed = parsed.unnest()
    if isinstance(parsed, exp.And):
        return _conjuncts(parsed.left) + _conjuncts(parsed.right)
    return [parsed]


def _compared(conjunct: exp.Expr) -> tuple[str, str]:
    """Measure and direction (up, down or none) of `measure > number` and the like; empty for other forms."""
    left, right = conjunct.args.get("this"), conjunct.args.get("expression")
    if isinstance(left, exp.Column) and isinstance(right, exp.Literal):
        return left.name, _COMPARISONS.get(type(conjunct), "")
    if isinstance(right, exp.Column) and isinstance(left, exp.Literal):
        return right.name, {"up": "down", "down": "up"}.get(_COMPARISONS.get(type(conjunct), ""), "")
    return "", ""


def _nearness(conjunct: exp.Expr) -> str:
    """SQL: 1 if the part holds, else how near the measure is to the threshold, 0 to almost 1."""
    text = conjunct.sql(dialect="duckdb")
    measure, way = _compared(conjunct)
    line = next((part.sql(dialect="duckdb") for part in conjunct.args.values() if isinstance(part, exp.Literal)), None)
    ratio = "0"
    if way and line is not None:
        value = f'CAST("{measure}" AS DOUBLE)'
        ratio = f"{value} / nullif({line}, 0)" if way == "up" else f"{line} / nullif({value}, 0)"
    return f"CASE WHEN {text} THEN 1 ELSE coalesce(least(greatest({ratio}, 0), {_ALMOST}), 0) END"


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
