"""The one command that shows the events of a key and a time."""

import re
import shlex
from collections.abc import Mapping
from datetime import datetime

__all__ = ["events_command", "events_condition", "events_query"]

_COLUMNS = "event_time, event_type, product_id, category_code, brand, price, user_id"


def events_condition(keys: Mapping[str, str], first: datetime, last: datetime) -> str:
    """SQL over the columns of `events`: which events have these keys and lie between first and last, both included."""
    conditions = [_condition(column, value) for column, value in keys.items()]
    conditions.append(f"event_time between '{_text(first)}' and '{_text(last)}'")
    return " and ".join(conditions)


def events_query(keys: Mapping[str, str], first: datetime, last: datetime) -> str:
    """The query that shows them, at most a thousand."""
    return f"select {_COLUMNS} from events where {events_condition(keys, first, last)} order by event_time limit 1000"


def events_command(keys: Mapping[str, str], first: datetime, last: datetime) -> str:
    """The command that shows them, safe to paste into a shell."""
    sql = events_query(keys, first, last)
    plain = not set(sql) & set('"$`\\!')  # double quotes keep the single ones of SQL readable
    return f'shopstream query "{sql}"' if plain else f"shopstream query {shlex.quote(sql)}"


def _condition(column: str, value: str) -> str:
    from shopstream.engine.derived import DERIVED_FIELDS  # noqa: PLC0415  start-up time: every command imports this
    from shopstream.events.schema import EVENT_FIELDS  # noqa: PLC0415  likewise

    if column == "ip_net" and value.endswith(".0/24"):  # easier on the eye than the expression
        return f"ip like {_quote(value.removesuffix('0/24') + '%')}"
    field = next((field for field in DERIVED_FIELDS if field.name == column and field.sql is not None), None)
    if field is not None and field.sql is not None:
        made = " ".join(re.sub(r"\bt\b", "epoch_ms(event_time)", field.sql).split())
        return f"({made}) = {value if field.duckdb == 'BIGINT' else _quote(value)}"
    numbers = {field.name for field in EVENT_FIELDS if field.duckdb == "BIGINT"}
    return f"{column} = {value if column in numbers else _quote(value)}"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _text(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="milliseconds")
