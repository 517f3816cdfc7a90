"""Compares each event with what is known of its product: its usual prices, and how often it is viewed.

An operator of the engine, because no window declaration can look products up. It emits three kinds of signals: prices
far from all usual prices of the product, the number of shoppers who view products of the *tail* (the rarely viewed
ones), and the number of duplicates that the engine dropped.
"""

from typing import Final

import duckdb
import pyarrow as pa

from shopstream.clock import MINUTE_MS
from shopstream.detection.detector import (
    DUPLICATE_SIGNAL,
    PRICE_FACTOR,
    PRICE_SIGNAL,
    TAIL_10S,
    TAIL_60S,
)
from shopstream.engine.signals import Signal
from shopstream.engine.tables import BATCH, REPEATED
from shopstream.engine.watermark import BEGINNING
from shopstream.engine.window import WindowDeclaration, WindowKind

PRODUCT_SCHEMA: Final = pa.schema(
    [("product_id", pa.int64()), ("low", pa.float64()), ("high", pa.float64()), ("tail", pa.bool_())]
)
"""One row per product."""

_TEN_MS: Final = 10_000
_PRUNE_MS: Final = 5 * MINUTE_MS
_KNOWN: Final = "detect_products"
_LEARNED: Final = "detect_products_learned"
_TAIL: Final = "detect_tail_events"
_PANES: Final = "detect_tail_panes"
_PRICES: Final = "detect_prices"
_DUPLICATES: Final = "detect_duplicates"


def tail_sql(rows: str, length_ms: int) -> str:
    """Query over events on tail products (t, category_id, product_id, user_id): measures by window of that length.

    Columns: w (its start), tail_users, tail_products, spread_users, spread_products.
    """
    return f"""
        SELECT w, count(DISTINCT user_id) AS tail_users, count(DISTINCT product_id) AS tail_products,
               count(DISTINCT user_id) FILTER (NOT busiest) AS spread_users,
               count(DISTINCT product_id) FILTER (NOT busiest) AS spread_products
        FROM (SELECT *, category_id = first_value(category_id) OVER (
                            PARTITION BY w ORDER BY n DESC, category_id) AS busiest
              FROM (SELECT *, t - t % {length_ms} AS w,
                           count(*) OVER (PARTITION BY t - t % {length_ms}, category_id) AS n FROM {rows}))
        GROUP BY w"""


class ProductReference:
    """See the module.

    Args:
        connection: of the engine's database.
        products: PRODUCT_SCHEMA rows of the baselines. None learns each price from the product's first event; the tail
            is unknown then.
    """

    columns: tuple[str, ...] = ("category_id", "price", "product_id", "user_id")
    ordered: bool = False
    declaration = WindowDeclaration(
        name="detect_reference", kind=WindowKind.TUMBLING, key=(), size_ms=MINUTE_MS, measures={"events": "count(*)"}
    )
    """Identifies the form of the state, so that a changed one is not restored."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, products: pa.Table | None = None) -> None:
        self._connection = connection
        self._tails = products is not None
        self._watermark_ms = BEGINNING
        self._pruned_ms = BEGINNING
        rows = PRODUCT_SCHEMA.empty_table() if products is None else products.select(PRODUCT_SCHEMA.names)
        connection.register("detect_given", rows)
        connection.execute(f"CREATE TABLE {_KNOWN} AS FROM detect_given")
        connection.unregister("detect_given")
        connection.execute(f"""
            CREATE TABLE {_LEARNED} (product_id BIGINT, price DOUBLE);
            CREATE TABLE {_TAIL} (t BIGINT, category_id BIGINT, product_id BIGINT, user_id BIGINT);
            CREATE TABLE {_PANES} (t BIGINT);
            CREATE TABLE {_DUPLICATES} (pane BIGINT, n BIGINT);
            CREATE TABLE {_PRICES} (t BIGINT, product_id BIGINT, price DOUBLE, low DOUBLE, high DOUBLE)""")

    def absorb(self) -> None:
        """Look up the products of the batch."""
        run = self._connection.execute
        run(f"INSERT INTO {_DUPLICATES} SELECT t - t % {_TEN_MS} AS pane, count(*) FROM {REPEATED} GROUP BY pane")
        run(f"""
            INSERT INTO {_LEARNED}
            SELECT product_id, arg_min(price, place)::DOUBLE
            FROM (SELECT product_id, price, row_number() OVER () AS place FROM {BATCH} WHERE price > 0)
            ANTI JOIN {_KNOWN} USING (product_id) ANTI JOIN {_LEARNED} USING (product_id)
            GROUP BY product_id""")
        run(f"""
            INSERT INTO {_PRICES}
            SELECT t, product_id, {BATCH}.price::DOUBLE AS seen, coalesce(low, learned.price) AS lowest,
                   coalesce(high, learned.price) AS highest
            FROM {BATCH} LEFT JOIN {_KNOWN} USING (product_id)
            LEFT JOIN {_LEARNED} AS learned USING (product_id)
            WHERE {BATCH}.price > 0 AND (seen < lowest / {PRICE_FACTOR} OR seen > highest * {PRICE_FACTOR})""")
        if self._tails:
            run(f"""
                INSERT INTO {_TAIL}
                SELECT t, category_id, product_id, user_id FROM {BATCH}
                LEFT JOIN {_KNOWN} USING (product_id) WHERE tail IS DISTINCT FROM FALSE""")
            run(f"INSERT INTO {_PANES} SELECT DISTINCT t - t % {_TEN_MS} FROM {BATCH}")

    def advance(self, watermark_ms: int) -> list[Signal]:
        """Signals of the windows that the watermark closes."""
        closed_ms, self._watermark_ms = self._watermark_ms, max(watermark_ms, self._watermark_ms)
        until_ms = self._watermark_ms // _TEN_MS * _TEN_MS
        signals = [*self._price_signals(until_ms), *self._duplicate_signals(until_ms)]
        for name, length_ms in ((TAIL_10S, _TEN_MS), (TAIL_60S, MINUTE_MS)):
            until_ms = self._watermark_ms // length_ms * length_ms
            if self._tails and until_ms > closed_ms // length_ms * length_ms:
                signals += self._tail_signals(name, length_ms, until_ms, closed_ms // length_ms * length_ms)
        self.forget(self._watermark_ms)
        return signals

    def _price_signals(self, until_ms: int) -> list[Signal]:
        rows = self._connection.execute(f"""
            SELECT product_id, t - t % {_TEN_MS} AS w, min(t), max(t), count(*), min(price), max(price),
                   min(low), max(high)
            FROM {_PRICES} WHERE t < {until_ms} GROUP BY product_id, w ORDER BY w, product_id""").fetchall()
        if rows:
            self._connection.execute(f"DELETE FROM {_PRICES} WHERE t < {until_ms}")
        names = ("events", "lowest", "highest", "low", "high")
        return [
            Signal(
                window=PRICE_SIGNAL,
                key={"product_id": row[0]},
                start_ms=row[1],
                end_ms=row[1] + _TEN_MS,
                first_event_ms=row[2],
                last_event_ms=row[3],
                measures=dict(zip(names, row[4:], strict=True)),
                final=True,
            )
            for row in rows
        ]

    def _duplicate_signals(self, until_ms: int) -> list[Signal]:
        rows = self._connection.execute(
            f"SELECT pane, sum(n)::BIGINT FROM {_DUPLICATES} WHERE pane < {until_ms} GROUP BY pane ORDER BY pane"
        ).fetchall()
        if rows:
            self._connection.execute(f"DELETE FROM {_DUPLICATES} WHERE pane < {until_ms}")
        return [
            Signal(DUPLICATE_SIGNAL, {}, pane, pane + _TEN_MS, pane, pane + _TEN_MS - 1, {"duplicates": count}, True)
            for pane, count in rows
        ]

    def _tail_signals(self, name: str, length_ms: int, until_ms: int, since_ms: int) -> list[Signal]:
        inside = f"t >= {since_ms} AND t < {until_ms}"
        names = ("tail_users", "tail_products", "spread_users", "spread_products")
        rows = self._connection.execute(f"""
            SELECT panes.w, {", ".join(f"coalesce({column}, 0)" for column in names)}
            FROM (SELECT DISTINCT t - t % {length_ms} AS w FROM {_PANES} WHERE {inside}) AS panes
            LEFT JOIN ({tail_sql(f"(FROM {_TAIL} WHERE {inside})", length_ms)}) USING (w)
            ORDER BY w""").fetchall()
        return [
            Signal(
                window=name,
                key={},
                start_ms=row[0],
                end_ms=row[0] + length_ms,
                first_event_ms=row[0],
                last_event_ms=row[0] + length_ms - 1,
                measures=dict(zip(names, row[1:], strict=True)),
                final=True,
            )
            for row in rows
        ]

    def forget(self, watermark_ms: int) -> None:
        """Drop rows older than any open minute, some minutes at a time."""
        self._watermark_ms = max(watermark_ms, self._watermark_ms)
        limit_ms = self._watermark_ms // MINUTE_MS * MINUTE_MS
        if self._tails and limit_ms - self._pruned_ms >= _PRUNE_MS:
            self._pruned_ms = limit_ms
            for table in (_TAIL, _PANES):
                self._connection.execute(f"CREATE OR REPLACE TABLE {table} AS FROM {table} WHERE t >= {limit_ms}")

    def state_tables(self) -> tuple[str, ...]:
        """Learned prices and rows of open windows; the baselines' products come from their file."""
        return _LEARNED, _TAIL, _PANES, _PRICES, _DUPLICATES

    def resume(self, watermark_ms: int) -> None:
        """Continue from restored tables."""
        self._watermark_ms = watermark_ms
