"""Backtests a rule on past events: windows, incidents and actors, for one threshold or a sweep (`events=10..100:10`).

The windows come from `engine.batch`, so they are those of the stream. SQL counts incidents as `incidents.episode` does
for one rule and key: windows that overlap, or are at most `suppress_for` apart, are one incident.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from time import perf_counter
from typing import Any

import sqlglot
from sqlglot import exp

from shopstream.clock import from_ms
from shopstream.detection.rule import Rule
from shopstream.engine.batch import BatchScan
from shopstream.engine.derived_columns import derived_rows, stateful
from shopstream.errors import ConfigurationError
from shopstream.incidents.incident import events_command
from shopstream.ruletools.history import EVENTS, History, KnownInjection, scanning

MAX_VALUES = 200
"""Greatest number of values of a sweep."""

_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_SHAPE = re.compile(rf"([a-z][a-z0-9_]*)=(-?{_NUMBER})\.\.(-?{_NUMBER})(?::({_NUMBER}))?", re.ASCII)
_MIRRORED: dict[type[exp.Expr], type[exp.Expr]] = {exp.GT: exp.LT, exp.GTE: exp.LTE, exp.LT: exp.GT, exp.LTE: exp.GTE}


@dataclass(frozen=True, slots=True)
class Sweep:
    """A rule's condition with other thresholds for one measure.

    Args:
        measure: name of the measure.
        now: threshold of the rule.
        conditions: threshold → condition, from strict to loose, with the rule's own.
    """

    measure: str
    now: Decimal
    conditions: dict[Decimal, str]

    @property
    def loosest(self) -> str:
        """The loosest condition: windows that meet another one meet it, too."""
        return list(self.conditions.values())[-1]


def parse_sweep(text: str, rule: Rule) -> Sweep:
    """Parse `measure=from..to:step` (the default step is 1) for a rule.

    Raises:
        ConfigurationError: another form, too many values, or the rule does not compare the measure exactly once.
    """
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"expected --sweep measure=from..to:step, e.g. events=10..100:10, got {text!r}")
    measure = match[1]
    first, last, step = (Decimal(part) for part in (match[2], match[3], match[4] or "1"))
    if step <= 0 or last < first:
        raise ConfigurationError(f"expected --sweep to go up by a step above zero, got {text!r}")
    count = int((last - first) / step) + 1
    if count > MAX_VALUES:
        raise ConfigurationError(f"expected at most {MAX_VALUES} values in --sweep, got {count}; take a longer step")
    place, rises = _comparison(rule, measure)
    now = Decimal(str(place.this))
    values = sorted({now, *(first + step * number for number in range(count))}, reverse=rises)
    return Sweep(measure, now, {value: _with(rule.condition, measure, value) for value in values})


def _comparison(rule: Rule, measure: str) -> tuple[exp.Expr, bool]:
    """The threshold of a measure, and whether a larger one is stricter."""
    if measure not in rule.measures:
        known = ", ".join(rule.measures)
        raise ConfigurationError(f"expected a measure of rule {rule.id} in --sweep ({known}), got {measure!r}")
    tree = sqlglot.parse_one(rule.condition, dialect="duckdb")
    found = list(_literals_beside(tree, measure))
    if len(found) != 1:
        raise ConfigurationError(
            f"expected rule {rule.id} to compare {measure} with a number just once (e.g. {measure} > 15), got "
            f"{rule.condition!r}; sweep another measure, or write the condition so"
        )
    return found[0]


def _literals_beside(tree: exp.Expr, measure: str) -> Iterator[tuple[exp.Expr, bool]]:
    """The thresholds of a measure, and whether larger ones are stricter."""
    for column in tree.find_all(exp.Column):
        found = _literal_beside(column) if column.name == measure else None
        if found is not None:
            yield found


def _literal_beside(column: exp.Expr) -> tuple[exp.Expr, bool] | None:
    comparison = column.parent
    if comparison is None or type(comparison) not in _MIRRORED or column.find_ancestor(exp.Not, exp.Case):
        return None
    left = comparison.args["this"] is column
    number = comparison.args["expression" if left else "this"]
    if not isinstance(number, exp.Literal) or number.is_string:
        return None
    kind = type(comparison) if left else _MIRRORED[type(comparison)]
    return number, kind in {exp.GT, exp.GTE}


def _with(condition: str, measure: str, value: Decimal) -> str:
    tree = sqlglot.parse_one(condition, dialect="duckdb")
    number, _ = next(_literals_beside(tree, measure))
    number.replace(exp.Literal.number(f"{value:f}"))
    return tree.sql(dialect="duckdb")


ACTOR_KEYS = frozenset({"user_id", "user_session", "ip", "ip_net", "agent_hash", "user_agent"})
"""Keys with one of these columns are actors, who may also buy."""

_WINDOWS, _EPISODES, _BUYERS = "backtest_windows", "backtest_episodes", "backtest_buyers"


@dataclass(frozen=True, slots=True)
class ConditionResult:
    """The result of one condition.

    Args:
        value: threshold of the sweep; None without a sweep.
        in_force: whether it is the rule's own condition.
        windows: number of windows that met the condition.
        incidents: number of incidents.
        actors: number of different keys; None for the whole site.
        buyers: number of keys with a purchase in the time range; None if the key is not an actor.
        attacks_found: known attacks with an incident; None without ground truth.
        unexplained: incidents without a known attack; None without ground truth.
    """

    value: float | None
    in_force: bool
    condition: str
    windows: int
    incidents: int
    actors: int | None
    buyers: int | None
    attacks_found: int | None = None
    unexplained: int | None = None


@dataclass(frozen=True, slots=True)
class Day:
    """Incidents that began on a UTC day, their windows and keys."""

    day: datetime
    incidents: int
    windows: int
    actors: int | None


@dataclass(frozen=True, slots=True)
class Example:
    """An incident.

    Args:
        keys: key column → value as text.
        first, last: times of its first and last event.
        detected: end of its first window.
        peak: measures of its strongest window.
        buyer: whether the key has a purchase in the time range.
        command: command that shows its events.
    """

    keys: Mapping[str, str]
    first: datetime
    last: datetime
    detected: datetime
    windows: int
    peak: Mapping[str, object]
    buyer: bool | None
    command: str


@dataclass(frozen=True, slots=True)
class Attack:
    """A known attack, and the result of the rule's own condition.

    Args:
        kind: kind of scenario.
        start, until: its time.
        incidents: number of incidents that it explains.
        after_s: seconds from its start to the first detection; None if it was missed.
    """

    kind: str
    start: datetime
    until: datetime
    incidents: int
    after_s: float | None


@dataclass(frozen=True, slots=True)
class Backtest:
    """The result of a backtest.

    Args:
        events, first, last: number (with duplicates) and times of the events.
        outcomes: one, or one per threshold of the sweep, from strict to loose.
        days: days with incidents of the rule's own condition.
        examples: first incidents of the rule's own condition.
        attacks: known attacks.
        elapsed_s: wall-clock time.
    """

    rule: str
    key_kind: str
    events: int
    first: datetime | None
    last: datetime | None
    outcomes: Sequence[ConditionResult]
    days: Sequence[Day]
    examples: Sequence[Example]
    attacks: Sequence[Attack] = field(default_factory=tuple)
    elapsed_s: float = 0.0

    @property
    def own(self) -> ConditionResult:
        """The result of the rule's own condition."""
        return next(outcome for outcome in self.outcomes if outcome.in_force)


def run_backtest(
    rule: Rule,
    history: History,
    *,
    sweep: Sweep | None = None,
    truth: Sequence[KnownInjection] | None = None,
    examples: int = 5,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Backtest:
    """Run a rule on past events.

    Args:
        rule: enabled or not.
        history: the events.
        sweep: further thresholds.
        truth: ground truth of the events.
        examples: number of incidents to show.
        progress: called with steps done, and all steps.

    Raises:
        PermanentError: DuckDB fails, e.g. for lack of memory or disk.
    """
    with scanning(f"the backtest of {rule.id} cannot run"):
        return _Run(rule, history, sweep, truth).result(examples, progress)


def episodes_sql(windows: str, keys: Sequence[str], suppress_ms: int, condition: str = "TRUE") -> str:
    """A query with one row per incident of a table of windows.

    Columns: the keys, start_ms, end_ms, first_event_ms, last_event_ms, detected_ms (end of the first window), windows.
    """
    quoted = "".join(f'"{key}", ' for key in keys)
    by = f"PARTITION BY {quoted[:-2]} " if keys else ""
    order = f"{by}ORDER BY start_ms, end_ms"
    before = f"max(end_ms) OVER ({order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    opens = f"CASE WHEN start_ms - {before} <= {suppress_ms} THEN 0 ELSE 1 END"
    return f"""
        SELECT {quoted}min(start_ms) AS start_ms, max(end_ms) AS end_ms, min(first_event_ms) AS first_event_ms,
               max(last_event_ms) AS last_event_ms, min(end_ms) AS detected_ms, count(*) AS windows
        FROM (SELECT *, sum(opens) OVER ({order} ROWS UNBOUNDED PRECEDING) AS episode
              FROM (SELECT *, {opens} AS opens FROM {windows} WHERE {condition}))
        GROUP BY {quoted}episode"""


class _Run:
    """The run of one rule."""

    def __init__(
        self, rule: Rule, history: History, sweep: Sweep | None, truth: Sequence[KnownInjection] | None
    ) -> None:
        self._rule = rule
        self._history = history
        self._connection = history.connection
        self._sweep = sweep
        self._attacks = None if truth is None else [injection for injection in truth if injection.hostile]
        self._keys = rule.key
        self._quoted = ", ".join(f'"{key}"' for key in rule.key)
        self._buys = bool(ACTOR_KEYS.intersection(rule.key)) and not stateful(rule.key)

    def result(self, examples: int, progress: Callable[[int, int], None]) -> Backtest:
        began = perf_counter()
        declaration = self._rule.window_declaration()
        if self._sweep:
            loose = self._rule.model_copy(update={"condition": self._sweep.loosest})
            declaration = loose.window_declaration()
        history = self._history
        scan = BatchScan(
            self._connection, declaration, EVENTS, _WINDOWS, from_ms=history.from_ms, until_ms=history.until_ms
        )
        steps = len(scan) + 1
        progress(0, steps)
        scan.run(lambda done: progress(done, steps))
        self._find_buyers()
        events, first, last = self._all(
            f"SELECT count(*), min(event_time), max(event_time) FROM {EVENTS} WHERE {history.limits()}"
        )[0]
        conditions = self._sweep.conditions.items() if self._sweep else [(None, self._rule.condition)]
        outcomes = [self._outcome(None if value is None else float(value), text) for value, text in conditions]
        self._find_incidents(self._rule.condition)
        progress(steps, steps)
        return Backtest(
            rule=self._rule.id,
            key_kind=self._rule.key_kind,
            events=events,
            first=first,
            last=last,
            outcomes=outcomes,
            days=self._days(),
            examples=self._examples(examples),
            attacks=self._found() if self._attacks is not None else (),
            elapsed_s=perf_counter() - began,
        )

    def _all(self, sql: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self._connection.execute(sql).fetchall()
        return rows

    def _find_incidents(self, condition: str) -> None:
        query = episodes_sql(_WINDOWS, self._keys, self._rule.suppress_for, condition)
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE {_EPISODES} AS {query}")

    def _find_buyers(self) -> None:
        """Keys of windows that also have a purchase in the time range."""
        if not self._buys:
            return
        # The table must exist also without windows.
        some = "TRUE" if self._all(f"SELECT count(*) FROM {_WINDOWS}")[0][0] else "FALSE"
        bought = f"(SELECT * FROM {EVENTS} WHERE {some} AND event_type = 'purchase' AND {self._history.limits()})"
        self._connection.execute(f"""
            CREATE OR REPLACE TEMP TABLE {_BUYERS} AS
            SELECT DISTINCT {self._quoted} FROM ({derived_rows(bought, self._keys)})
            SEMI JOIN {_WINDOWS} USING ({self._quoted})""")

    def _outcome(self, value: float | None, condition: str) -> ConditionResult:
        self._find_incidents(condition)
        keys = f"SELECT DISTINCT {self._quoted} FROM {_EPISODES}"
        found = unexplained = None
        if self._attacks is not None:
            incidents = self._incidents()
            causes = [[attack for attack in self._attacks if attack.explains(*incident[:3])] for incident in incidents]
            found = len({id(attack) for attacks in causes for attack in attacks})
            unexplained = sum(not attacks for attacks in causes)
        windows, incidents_count = self._all(f"SELECT coalesce(sum(windows), 0), count(*) FROM {_EPISODES}")[0]
        return ConditionResult(
            value=value,
            in_force=value is None or (self._sweep is not None and value == float(self._sweep.now)),
            condition=condition,
            windows=int(windows),
            incidents=int(incidents_count),
            actors=int(self._all(f"SELECT count(*) FROM ({keys})")[0][0]) if self._keys else None,
            buyers=self._count_buyers(keys) if self._buys else None,
            attacks_found=found,
            unexplained=unexplained,
        )

    def _count_buyers(self, keys: str) -> int:
        joined = f"SELECT count(*) FROM ({keys}) SEMI JOIN {_BUYERS} USING ({self._quoted})"
        return int(self._all(joined)[0][0])

    def _incidents(self) -> list[tuple[dict[str, str], int, int, int]]:
        """(keys, first event, last event, detection) of all incidents of the current condition."""
        comma = ", " if self._keys else ""
        rows = self._all(f"SELECT {self._quoted}{comma}first_event_ms, last_event_ms, detected_ms FROM {_EPISODES}")
        width = len(self._keys)
        return [(self._named(row), int(row[width]), int(row[width + 1]), int(row[width + 2])) for row in rows]

    def _named(self, row: Sequence[object]) -> dict[str, str]:
        return {key: str(value) for key, value in zip(self._keys, row, strict=False)}

    def _days(self) -> list[Day]:
        actors = f"count(DISTINCT ({self._quoted}))" if self._keys else "NULL"
        rows = self._all(f"""
            SELECT first_event_ms // 86400000, count(*), sum(windows), {actors}
            FROM {_EPISODES} GROUP BY 1 ORDER BY 1""")
        return [
            Day(
                datetime.fromtimestamp(int(day) * 86_400, UTC),
                int(incidents),
                int(windows),
                None if actors is None else int(actors),
            )
            for day, incidents, windows, actors in rows
        ]

    def _examples(self, count: int) -> list[Example]:
        comma = ", " if self._keys else ""
        measures = tuple(self._rule.measures)
        rank = ", ".join(f'w."{name}" DESC NULLS LAST' for name in measures)
        same = " AND ".join([f'w."{key}" = e."{key}"' for key in self._keys] or ["TRUE"])
        peak = ", ".join(f'w."{name}"' for name in measures)
        buyer = f"({self._quoted}) IN (FROM {_BUYERS})" if self._buys else "NULL"
        rows = self._all(f"""
            SELECT {self._quoted}{comma}first_event_ms, last_event_ms, detected_ms, windows, buyer, p.*
            FROM (SELECT *, {buyer} AS buyer FROM {_EPISODES}
                  ORDER BY first_event_ms, start_ms{comma}{self._quoted} LIMIT {count}) AS e,
            LATERAL (SELECT {peak} FROM {_WINDOWS} AS w
                     WHERE {same} AND w.start_ms >= e.start_ms AND w.end_ms <= e.end_ms AND ({self._rule.condition})
                     ORDER BY {rank}, w.start_ms LIMIT 1) AS p
            ORDER BY first_event_ms, start_ms{comma}{self._quoted}""")
        width = len(self._keys)
        return [
            self._example(row[:width], row[width : width + 5], dict(zip(measures, row[width + 5 :], strict=True)))
            for row in rows
        ]

    def _example(self, key: Sequence[object], row: Sequence[Any], peak: Mapping[str, object]) -> Example:
        keys, (first_ms, last_ms, detected_ms, windows, buyer) = self._named(key), row
        first, last = from_ms(int(first_ms)), from_ms(int(last_ms))
        return Example(
            keys=keys,
            first=first,
            last=last,
            detected=from_ms(int(detected_ms)),
            windows=int(windows),
            peak=peak,
            buyer=None if buyer is None else bool(buyer),
            command=events_command(keys, first, last),
        )

    def _found(self) -> list[Attack]:
        incidents = self._incidents()
        attacks = []
        for attack in self._attacks or ():
            hits = [incident for incident in incidents if attack.explains(*incident[:3])]
            soonest = min((detected for *_, detected in hits), default=None)
            after_s = None if soonest is None else (soonest - attack.from_ms) / 1000
            attacks.append(Attack(attack.kind, from_ms(attack.from_ms), from_ms(attack.until_ms), len(hits), after_s))
        return attacks
