"""Keeps the newest events, to describe incidents: actors, products, examples.

The tables of the micro-batches are kept by reference, without copies. They are not checkpointed; after a restart they
accumulate again.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from shopstream.clock import MINUTE_MS
from shopstream.engine.derived_columns import stateful, stateless
from shopstream.events.schema import EVENT_FIELDS

_SHOWN: Final = 5
_EXAMPLES: Final = 10
_US: Final = 1_000
_COLUMNS: Final = (
    *("event_time", "event_type", "product_id", "category_id", "category_code", "brand", "user_id", "user_session"),
    *("event_id", "ip", "user_agent"),
)
_SCHEMA: Final = pa.schema([(field.name, field.arrow) for field in EVENT_FIELDS if field.name in _COLUMNS])


class _Piece(NamedTuple):
    events: pa.Table
    from_us: int
    to_us: int


class RecentEvents:
    """Events of the last ten minutes of event time, up to a number of rows.

    Args:
        connection: of the engine; used for queries only.
        kept_ms: length of event time to keep.
        kept_rows: rows to keep, plus or minus a micro-batch.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, kept_ms: int = 10 * MINUTE_MS, kept_rows: int = 300_000
    ) -> None:
        self._connection = connection
        self._kept_us = kept_ms * _US
        self._kept_rows = kept_rows
        self._pieces: deque[_Piece] = deque()
        self._rows = 0
        self._newest_us = -(1 << 62)

    def keep(self, events: pa.Table) -> None:
        """Add a micro-batch, in any order, with the columns of the lake; text may be dictionary-encoded."""
        if not events.num_rows:
            return
        events = events.select(_COLUMNS)
        if events.num_rows > self._kept_rows:
            events = events.slice(events.num_rows - self._kept_rows)
        times = pc.min_max(events.column("event_time").cast(pa.int64())).as_py()
        self._pieces.append(_Piece(events, times["min"], times["max"]))
        self._rows += events.num_rows
        self._newest_us = max(self._newest_us, times["max"])
        oldest_us = self._newest_us - self._kept_us
        while self._pieces and (self._rows > self._kept_rows or self._pieces[0].to_us < oldest_us):
            self._rows -= self._pieces.popleft().events.num_rows

    def describe(self, key: Mapping[str, str], from_ms: int, to_ms: int) -> dict[str, object] | None:
        """A JSON-ready description of a key's events in [from, to]; None if none is kept.

        Args:
            key: column → value as text: event columns and stateless derived ones; empty for the site.
            from_ms: event time.
            to_ms: event time.

        Returns:
            `from_ms`, `to_ms`: the part of that time that is kept. `events`, `users`, `sessions`, `buyers`: counts.
            `top_actors`: up to five of kind, value, events, share. `top_products`: up to five of product_id, category,
            brand, events, share. `composition`: event type → [share, share in other events], which are those of all
            other keys in that time, or for the site those before it. `genuine_share`: buyers' share of the events
            relative to that of other events, 0 to 1; None if unknown. `examples`: event ids.
        """
        if stateful(key):
            return None
        pieces = [piece for piece in self._pieces if piece.to_us >= from_ms * _US and piece.from_us <= to_ms * _US]
        if not pieces:
            return None
        if not key:
            pieces = list(self._pieces)
        table = pa.concat_tables(piece.events.cast(_SCHEMA) for piece in pieces)
        parameters: dict[str, object] = {f"key_{place}": value for place, value in enumerate(key.values())}
        parameters |= {"from": from_ms, "to": to_ms}
        self._connection.register("recent_events", table)
        try:
            return self._described(key, parameters)
        finally:
            self._connection.execute("DROP TABLE IF EXISTS recent_hit")
            self._connection.unregister("recent_events")

    def _described(self, key: Mapping[str, str], parameters: Mapping[str, object]) -> dict[str, object] | None:
        derived = "".join(f", {field.sql} AS {field.name}" for field in stateless(key))
        inside = "t BETWEEN $from AND $to"
        hit = " AND ".join([inside, *(f"CAST({column} AS VARCHAR) = $key_{place}" for place, column in enumerate(key))])
        other = f"{inside} AND NOT coalesce({hit}, false)" if key else "t < $from"
        self._connection.execute(
            f"""
            CREATE OR REPLACE TEMP TABLE recent_hit AS
            SELECT *, coalesce({hit}, false) AS is_hit,
                   bool_or(event_type = 'purchase') OVER (PARTITION BY user_id) AS buys
            FROM (SELECT *{derived} FROM (SELECT *, epoch_ms(event_time) AS t FROM recent_events))
            WHERE coalesce({hit}, false) OR {other}""",
            dict(parameters),
        )
        (totals,) = self._rows_of(
            """SELECT count(*) AS events, min(t) AS from_ms, max(t) AS to_ms, count(DISTINCT user_id) AS users,
                      count(DISTINCT user_session) AS sessions, count(DISTINCT user_id) FILTER (buys) AS buyers,
                      coalesce(avg(buys::INT), 0) AS buying FROM recent_hit WHERE is_hit"""
        )
        if not totals["events"]:
            return None
        buying = totals.pop("buying")
        (others,) = self._rows_of(
            "SELECT count(*) AS events, avg(buys::INT) AS buying FROM recent_hit WHERE NOT is_hit"
        )
        actor = "user_session" if "user_id" in key else "user_id"
        share = f"count(*) AS events, round(count(*) / {totals['events']}, 4) AS share FROM recent_hit WHERE is_hit"
        return {
            **totals,
            "top_actors": self._rows_of(
                f"SELECT '{actor}' AS kind, CAST({actor} AS VARCHAR) AS value, {share} AND {actor} IS NOT NULL "
                f"GROUP BY ALL ORDER BY events DESC, value LIMIT {_SHOWN}"
            ),
            "top_products": self._rows_of(
                "SELECT product_id, any_value(category_code) AS category, any_value(brand) AS brand, "
                f"{share} GROUP BY product_id ORDER BY events DESC, product_id LIMIT {_SHOWN}"
            ),
            "composition": self._composition(totals["events"], others["events"]),
            "genuine_share": min(1.0, round(buying / others["buying"], 4)) if others["buying"] else None,
            "examples": [
                row["event_id"]
                for row in self._rows_of(
                    "SELECT event_id FROM recent_hit WHERE is_hit AND event_id IS NOT NULL "
                    f"ORDER BY t, event_id LIMIT {_EXAMPLES}"
                )
            ],
        }

    def _composition(self, events: int, others: int) -> dict[str, list[float | None]]:
        rows = self._rows_of(
            "SELECT event_type, count(*) FILTER (is_hit) AS hit, count(*) FILTER (NOT is_hit) AS other "
            "FROM recent_hit GROUP BY event_type ORDER BY event_type"
        )
        return {
            row["event_type"]: [round(row["hit"] / events, 4), round(row["other"] / others, 4) if others else None]
            for row in rows
        }

    def _rows_of(self, query: str) -> list[dict[str, Any]]:
        result = self._connection.execute(query)
        names: Sequence[str] = [column[0] for column in result.description]
        rows: Iterable[tuple[Any, ...]] = result.fetchall()
        return [dict(zip(names, row, strict=True)) for row in rows]
