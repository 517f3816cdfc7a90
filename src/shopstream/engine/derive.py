"""Derived columns as SQL: one query over a whole table (`derived_rows`), which is also what they mean.

The stream computes the stateless ones by the same expressions, the stateful ones in `engine.ordering`.
"""

from collections.abc import Iterable

import duckdb
import pyarrow as pa

from shopstream.engine.derived import (
    ACTOR_HORIZON_MS,
    TEXTS,
    VISIT_HORIZON_MS,
    event_columns,
    stateful,
    stateless,
)

__all__ = ["derived_rows", "stateless_rows", "with_texts"]

_ACTOR = "(PARTITION BY user_id ORDER BY event_time, event_id)"
_VISIT = "(PARTITION BY user_id, user_session, product_id ORDER BY event_time, event_id)"
_PRODUCT = """(PARTITION BY user_id, product_id ORDER BY event_time, event_id
               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"""

# What looks at other rows, and what is made of it: the outer expressions are in terms of the inner ones.
_LOOKS = {
    "gap1": f"t - lag(t) OVER {_ACTOR}",
    "gap2": f"lag(t) OVER {_ACTOR} - lag(t, 2) OVER {_ACTOR}",
    "product1": f"lag(product_id) OVER {_ACTOR}",
    "visit1": f"t - lag(t) OVER {_VISIT}",
    "view1": f"t - max(CASE WHEN event_type = 'view' THEN t END) OVER {_PRODUCT}",
}
_MADE_OF = {
    "gap_ms": (("gap1",), f"CASE WHEN gap1 <= {ACTOR_HORIZON_MS} THEN gap1 END"),
    "previous_gap_ms": (
        ("gap1", "gap2"),
        f"CASE WHEN gap1 <= {ACTOR_HORIZON_MS} AND gap2 <= {ACTOR_HORIZON_MS} THEN gap2 END",
    ),
    "previous_product_id": (("gap1", "product1"), f"CASE WHEN gap1 <= {ACTOR_HORIZON_MS} THEN product1 END"),
    "new_user": (("gap1",), f"gap1 IS NULL OR gap1 > {ACTOR_HORIZON_MS}"),
    "first_visit": (("visit1",), f"visit1 IS NULL OR visit1 > {VISIT_HORIZON_MS}"),
    "viewed": (("view1",), f"coalesce(view1 <= {VISIT_HORIZON_MS}, FALSE)"),
}


def stateless_rows(source: str, columns: Iterable[str]) -> str:
    """Query: the rows of `source` (which has `t`) with the stateless ones of the named columns."""
    added = "".join(f", {field.sql} AS {field.name}" for field in stateless(columns))
    return f"SELECT *{added} FROM {source}" if added else f"SELECT * FROM {source}"


def with_texts(connection: duckdb.DuckDBPyConnection, events: pa.Table, columns: Iterable[str]) -> pa.Table:
    """Events with every field of TEXTS: those among the named columns as they are derived, nulls for the others."""
    wanted = set(columns)
    for field in TEXTS:
        made = pa.nulls(events.num_rows, pa.string())
        if field.name in wanted:
            (source,) = field.needs
            encoded = events.column(source).combine_chunks()
            if not pa.types.is_dictionary(encoded.type):
                encoded = encoded.dictionary_encode()
            connection.register("texts", pa.table({source: encoded.dictionary}))
            derived = connection.execute(f"SELECT {field.sql} AS made FROM texts").fetchnumpy()["made"]
            connection.unregister("texts")
            made = pa.array(derived, pa.string(), from_pandas=True).take(encoded.indices)
        events = events.append_column(field.name, made)
    return events


def stateful_rows(source: str, columns: Iterable[str], keep: str = "TRUE") -> str:
    """Query: the rows of `source` (which has `t`) with the stateful ones of the named columns.

    Args:
        source: table or subquery.
        columns: names; others than stateful derived ones are passed over.
        keep: condition on the rows given; all are looked back at.
    """
    fields = stateful(columns)
    if not fields:
        return f"SELECT * FROM {source} WHERE {keep}"
    looks = list(dict.fromkeys(look for field in fields for look in _MADE_OF[field.name][0]))
    inner = "".join(f", {_LOOKS[look]} AS {look}" for look in looks)
    outer = "".join(f", {_MADE_OF[field.name][1]} AS {field.name}" for field in fields)
    return f"SELECT * EXCLUDE ({', '.join(looks)}){outer} FROM (SELECT *{inner} FROM {source}) WHERE {keep}"


def derived_rows(source: str, columns: Iterable[str]) -> str:
    """Query: `t`, `event_time` and the named columns, event columns and derived ones, of a table of events."""
    columns = tuple(columns)
    names = "".join(f', "{column}"' for column in event_columns(columns))
    plain = f"(SELECT event_time, epoch_ms(event_time) AS t{names} FROM {source})"
    return stateless_rows(f"({stateful_rows(plain, columns)})", columns)
