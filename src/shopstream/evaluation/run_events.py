"""The events of one run, to be asked who sent what: the counterpart of what the product claims."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Final, Self

import duckdb
import pyarrow as pa

from shopstream.engine.derived_columns import stateless
from shopstream.evaluation.results import Found

__all__ = ["Claim", "Series", "Traffic"]

_COLUMNS: Final = (
    *("event_time", "event_type", "product_id", "category_id", "brand", "price"),
    *("user_id", "user_session", "ip", "user_agent"),
)
Claim = tuple[int, int, frozenset[int]]
"""Events that fit an incident's key and time, those of the attack among them, and the attack's users among them."""
Series = tuple[list[int], list[int], list[int]]
"""Start of each bin (ms), events, events of the attack."""


class Traffic:
    """A stretch of events in a database of its own.

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
        self._made = False
        for table in tables:
            self.add(table)

    def add(self, table: pa.Table) -> None:
        """Take more events."""
        self._sql.register("incoming", table.select(_COLUMNS))
        query = "SELECT epoch_ms(event_time) AS t, *, user_id IN (FROM hostile) AS hit FROM incoming"
        self._sql.execute(f"INSERT INTO events {query}" if self._made else f"CREATE TABLE events AS {query}")
        self._sql.unregister("incoming")
        self._made = True

    def __enter__(self) -> Self:
        """Itself; the end of the block gives the memory back."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the memory back."""
        self._sql.close()

    def claims(self, found: Sequence[Found], slack_ms: int) -> list[Claim]:
        """What each incident is about, in the order given.

        Args:
            found: incidents.
            slack_ms: their time is taken that much longer at its end.
        """
        claims: list[Claim] = [(0, 0, frozenset())] * len(found)
        kinds: dict[tuple[str, ...], list[int]] = {}
        for place, one in enumerate(found):
            kinds.setdefault(tuple(sorted(one.key)), []).append(place)
        for columns, places in kinds.items():
            wanted = pa.table(
                {"place": pa.array(places), "from_ms": [found[place].first_ms for place in places]}
                | {"until_ms": [found[place].last_ms + slack_ms for place in places]}
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
        """The events, with those derived columns that a key asks for."""
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
        """Hostile user → ms of the first event."""
        return dict(self._sql.execute("SELECT user_id, min(t) FROM events WHERE hit GROUP BY 1").fetchall())

    def counts_until(self, moments: Mapping[int, int]) -> dict[int, int]:
        """User → number of events up to the moment given for each."""
        wanted = pa.table(
            {"user_id": pa.array(list(moments), pa.int64()), "until_ms": pa.array(list(moments.values()), pa.int64())}
        )
        rows = self._rows(
            wanted,
            "SELECT user_id, count(*) FROM wanted JOIN events USING (user_id) WHERE t <= until_ms GROUP BY 1",
        )
        return {int(str(user)): int(str(count)) for user, count in rows}

    def totals(self, from_ms: int, until_ms: int) -> tuple[int, int]:
        """Events and events of the attack, [from, until)."""
        row = self._sql.execute(
            "SELECT count(*), count(*) FILTER (hit) FROM events WHERE t >= ? AND t < ?", [from_ms, until_ms]
        ).fetchall()[0]
        return int(row[0]), int(row[1])

    def key_totals(self, key: Mapping[str, str], from_ms: int, until_ms: int) -> tuple[int, int]:
        """Events of a key and those of the attack among them, [from, until]."""
        fits = "".join(f" AND {column}::VARCHAR = ?" for column in key)
        row = self._sql.execute(
            f"SELECT count(*), count(*) FILTER (hit) FROM {self._with(key)} WHERE t BETWEEN ? AND ?{fits}",
            [from_ms, until_ms, *key.values()],
        ).fetchall()[0]
        return int(row[0]), int(row[1])

    def habits(self, users: Iterable[int]) -> str:
        """What the busiest of some users did, in words; names nobody."""
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
        """Events of a key in bins, empty ones too."""
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
