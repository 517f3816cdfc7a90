"""The one command that shows the events of a key and a time."""

import re
import shlex
from collections.abc import Iterable, Mapping
from datetime import datetime

__all__ = ["actors_condition", "events_command", "events_condition", "events_query", "query_command"]

_COLUMNS = "event_time, event_type, product_id, category_code, brand, price, user_id"


def events_condition(keys: Mapping[str, str], first: datetime, last: datetime) -> str:
    """SQL over the columns of `events`: which events have these keys and lie between first and last, both included."""
    conditions = [_condition(column, value) for column, value in keys.items()]
    conditions.append(f"event_time between '{_text(first)}' and '{_text(last)}'")
    return " and ".join(conditions)


def actors_condition(actors: Iterable[tuple[str, str]], first: datetime, last: datetime) -> str:
    """SQL over the columns of `events`: which events are of one of these actors (kind, value) and lie in that time."""
    kinds: dict[str, list[str]] = {}
    for kind, value in actors:
        kinds.setdefault(kind, []).append(value)
    made = []
    for kind, values in kinds.items():
        left, numeric = _left(kind)
        made.append(f"{left} in ({', '.join(value if numeric else _quote(value) for value in values)})")
    return f"({' or '.join(made)}) and event_time between '{_text(first)}' and '{_text(last)}'"


def events_query(condition: str) -> str:
    """The query that shows the events that meet a condition, at most a thousand."""
    return f"select {_COLUMNS} from events where {condition} order by event_time limit 1000"


def events_command(keys: Mapping[str, str], first: datetime, last: datetime) -> str:
    """The command that shows the events of a key and a time, safe to paste into a shell."""
    return query_command(events_condition(keys, first, last))


def query_command(condition: str) -> str:
    """The command that shows the events that meet a condition, safe to paste into a shell."""
    sql = events_query(condition)
    plain = not set(sql) & set('"$`\\!')  # double quotes keep the single ones of SQL readable
    return f'shopstream query "{sql}"' if plain else f"shopstream query {shlex.quote(sql)}"


def _condition(column: str, value: str) -> str:
    if column == "ip_net" and value.endswith(".0/24"):  # easier on the eye than the expression
        return f"ip like {_quote(value.removesuffix('0/24') + '%')}"
    left, numeric = _left(column)
    return f"{left} = {value if numeric else _quote(value)}"


def _left(column: str) -> tuple[str, bool]:
    """The expression that gives a column's value, and whether that is a number."""
    from shopstream.engine.derived_columns import DERIVED_FIELDS  # noqa: PLC0415  start-up time: every command imports this
    from shopstream.events.schema import EVENT_FIELDS  # noqa: PLC0415  likewise

    field = next((field for field in DERIVED_FIELDS if field.name == column and field.sql is not None), None)
    if field is not None and field.sql is not None:
        made = " ".join(re.sub(r"\bt\b", "epoch_ms(event_time)", field.sql).split())
        return f"({made})", field.duckdb == "BIGINT"
    return column, column in {field.name for field in EVENT_FIELDS if field.duckdb == "BIGINT"}


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _text(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="milliseconds")
