"""The events of one run, in a database, to verify what incidents claim."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Final

import duckdb
import pyarrow as pa

from shopstream.engine.derived_columns import stateless
from shopstream.evaluation.results import FoundIncident

_COLUMNS: Final = (
    *("event_time", "event_type", "product_id", "category_id", "brand", "price"),
    *("user_id", "user_session", "ip", "user_agent"),
)
Claim = tuple[int, int, frozenset[int]]
"""Events of an incident's key and time, events of the attack among them, and its users among them."""
Series = tuple[list[int], list[int], list[int]]
"""Start of each bin (ms), events, and events of the attack."""


class RunEvents:
    """Events in an in-memory database; close it after use.

    Args:
        tables: WIRE_SCHEMA events.
        hostile: user ids of the attack.
    """

    def __init__(self, tables: Iterable[pa.Table], hostile: Iterable[int] = ()) -> None:
        self._sql = duckdb.connect()
        self._sql.execute("SET TimeZone = 'UTC'; SET threads = 1; SET enable_progress_bar = false")
        users = pa.table({"user_id": pa.array(sorted(hostile), pa.int64())})
        self._sql.register("hostile_users", users)
        self._sql.execute("CREATE TABLE hostile AS FROM hostile_users")
        for number, table in enumerate(tables):
            self._sql.register("incoming", table.select(_COLUMNS))
            query = "SELECT epoch_ms(event_time) AS t, *, user_id IN (FROM hostile) AS hit FROM incoming"
            self._sql.execute(f"INSERT INTO events {query}" if number else f"CREATE TABLE events AS {query}")
            self._sql.unregister("incoming")

    def close(self) -> None:
        """Close the database."""
        self._sql.close()

    def claims(self, found: Sequence[FoundIncident]) -> list[Claim]:
        """The claim of each incident."""
        claims: list[Claim] = [(0, 0, frozenset())] * len(found)
        kinds: dict[tuple[str, ...], list[int]] = {}
        for place, one in enumerate(found):
            kinds.setdefault(tuple(sorted(one.key)), []).append(place)
        for columns, places in kinds.items():
            wanted = pa.table(
                {"place": pa.array(places), "from_ms": [found[place].first_ms for place in places]}
                | {"until_ms": [found[place].last_ms for place in places]}
                | {f"k_{column}": [found[place].key[column] for place in places] for column in columns}
            )
            source = self._with(columns)
            fits = "".join(f" AND {column}::VARCHAR = k_{column}" for column in columns)
            rows = self._rows(
                wanted,
                f"""SELECT place, sum(n)::BIGINT, coalesce(sum(n) FILTER (hit), 0)::BIGINT,
                           coalesce(list(user_id) FILTER (hit), [])
                    FROM (SELECT place, user_id, hit, count(*) AS n
                          FROM wanted JOIN {source} ON t BETWEEN from_ms AND until_ms{fits}
                          GROUP BY ALL) GROUP BY place""",
            )
            for at, events, hits, users in rows:
                claims[int(str(at))] = (int(str(events)), int(str(hits)), frozenset(_ints(users)))
        return claims

    def _with(self, columns: Iterable[str]) -> str:
        """The events, with the derived columns of a key."""
        derived = [field for field in stateless(columns) if field.sql]
        extra = "".join(f", {field.sql} AS {field.name}" for field in derived)
        return f"(SELECT *{extra} FROM events)"

    def _rows(self, wanted: pa.Table, query: str) -> list[tuple[object, ...]]:
        with closing(self._sql.cursor()) as cursor:
            cursor.register("wanted", wanted)
            rows = cursor.execute(query).fetchall()
            cursor.unregister("wanted")
            return rows

    def firsts(self) -> dict[int, int]:
        """User of the attack → ms of the first event."""
        return dict(self._sql.execute("SELECT user_id, min(t) FROM events WHERE hit GROUP BY 1").fetchall())

    def counts_until(self, moments: Mapping[int, int]) -> dict[int, int]:
        """User → number of events up to a moment."""
        wanted = pa.table(
            {"user_id": pa.array(list(moments), pa.int64()), "until_ms": pa.array(list(moments.values()), pa.int64())}
        )
        rows = self._rows(
            wanted,
            "SELECT user_id, count(*) FROM wanted JOIN events USING (user_id) WHERE t <= until_ms GROUP BY 1",
        )
        return {int(str(user)): int(str(count)) for user, count in rows}

    def totals(self, from_ms: int, until_ms: int) -> tuple[int, int]:
        """Events, and events of the attack among them, [from, until)."""
        row = self._sql.execute(
            "SELECT count(*), count(*) FILTER (hit) FROM events WHERE t >= ? AND t < ?", [from_ms, until_ms]
        ).fetchall()[0]
        return int(row[0]), int(row[1])

    def key_totals(self, key: Mapping[str, str], from_ms: int, until_ms: int) -> tuple[int, int]:
        """Events of a key, and events of the attack among them, [from, until]."""
        fits = "".join(f" AND {column}::VARCHAR = ?" for column in key)
        row = self._sql.execute(
            f"SELECT count(*), count(*) FILTER (hit) FROM {self._with(key)} WHERE t BETWEEN ? AND ?{fits}",
            [from_ms, until_ms, *key.values()],
        ).fetchall()[0]
        return int(row[0]), int(row[1])

    def habits(self, users: Iterable[int]) -> str:
        """What the busiest of some users did, without an id."""
        wanted = pa.table({"user_id": pa.array(list(users), pa.int64())})
        rows = self._rows(
            wanted,
            """SELECT count(*), (max(t) - min(t)) // 60000, count(DISTINCT product_id),
                      count(*) FILTER (event_type = 'cart'), count(*) FILTER (event_type = 'purchase')
               FROM events JOIN wanted USING (user_id) GROUP BY user_id ORDER BY 1 DESC LIMIT 1""",
        )
        if not rows:
            return "no events"
        events, minutes, products, carts, purchases = rows[0]
        return f"{events} events in {minutes} min, {products} products, {carts} carts, {purchases} purchases"

    def series(self, key: Mapping[str, str], from_ms: int, until_ms: int, bin_ms: int) -> Series:
        """Events of a key in bins, also empty bins."""
        source = self._with(key)
        fits = "".join(f" AND {column}::VARCHAR = ?" for column in key)
        rows = self._sql.execute(
            f"SELECT (t - ?) // ? AS bin, count(*), count(*) FILTER (hit) FROM {source} "
            f"WHERE t >= ? AND t < ?{fits} GROUP BY 1",
            [from_ms, bin_ms, from_ms, until_ms, *key.values()],
        ).fetchall()
        counts = {place: (events, hits) for place, events, hits in rows}
        places = range(-(-(until_ms - from_ms) // bin_ms))
        return (
            [from_ms + place * bin_ms for place in places],
            [counts.get(place, (0, 0))[0] for place in places],
            [counts.get(place, (0, 0))[1] for place in places],
        )


def _ints(values: object) -> list[int]:
    return [int(value) for value in values] if isinstance(values, list) else []
