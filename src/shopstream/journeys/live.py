"""Live journeys: active sessions, the funnel, open carts, top lists; and the timeline of one shopper from the lake.

All panels are computed from window state that the engine keeps anyway, never from single events. "Now" is the engine's
watermark, so a replay of last year shows last year's afternoon.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import duckdb

from shopstream.clock import HOUR_MS, MILLISECOND, MINUTE_MS, from_ms
from shopstream.engine.engine import Engine
from shopstream.engine.operators import SessionOperator, SlidingOperator, WindowOperator
from shopstream.engine.signals import Signal
from shopstream.engine.tables import BATCH, fetch_dicts
from shopstream.engine.watermark import BEGINNING
from shopstream.engine.window import WindowDeclaration, WindowKind
from shopstream.journeys.store import LiveStore

SPANS: Final = (timedelta(minutes=15), timedelta(minutes=60))
"""Time spans of the funnel and the top lists."""


_COUNTS: Final = {
    "views": "count(*) filter (where event_type = 'view')",
    "carts": "count(*) filter (where event_type = 'cart')",
    "purchases": "count(*) filter (where event_type = 'purchase')",
}

SESSIONS: Final = WindowDeclaration(
    name="journey_sessions",
    kind=WindowKind.SESSION,
    gap_ms=30 * MINUTE_MS,
    key=("user_id", "user_session"),
    measures={
        "events": "count(*)",
        **_COUNTS,
        "spent": "sum(price) filter (where event_type = 'purchase')",
    },
)
"""One shopper's visit: the tracker's session id, cut after 30 minutes of silence since ids may live for months."""

PRODUCTS: Final = WindowDeclaration(
    name="journey_products",
    kind=WindowKind.SLIDING,
    size_ms=HOUR_MS,
    slide_ms=MINUTE_MS,
    key=("product_id",),
    measures={
        **_COUNTS,
        "revenue": "sum(price) filter (where event_type = 'purchase')",
    },
)
"""Views, carts and purchases by product; categories and brands are sums of products."""

CART_LINES: Final = WindowDeclaration(
    name="journey_cart_lines",
    kind=WindowKind.SLIDING,
    size_ms=24 * HOUR_MS,
    slide_ms=HOUR_MS,
    key=("user_id", "product_id"),
    filter="event_type <> 'view'",
    measures={
        "carted_at": "max(event_time) filter (where event_type = 'cart')",
        "removed_at": "max(event_time) filter (where event_type = 'remove_from_cart')",
        "bought_at": "max(event_time) filter (where event_type = 'purchase')",
        "worth": "max(price)",
    },
)
"""The cart ledger of the last 24 hours."""


class _ProductNames:
    """A window operator that keeps category and brand once per product, in the table `product_names`.

    The table grows with the catalogue.

    Args:
        connection: of the engine's database.
        declaration: the window over products.
    """

    columns: tuple[str, ...] = ("brand", "category_code", "category_id", "product_id")
    ordered = False

    def __init__(self, connection: duckdb.DuckDBPyConnection, declaration: WindowDeclaration) -> None:
        self.declaration = declaration
        self._connection = connection
        connection.execute("CREATE TABLE product_names (product_id BIGINT, category VARCHAR, brand VARCHAR)")

    def absorb(self) -> None:
        """Add the names of new products."""
        self._connection.execute(f"""
            INSERT INTO product_names
            SELECT product_id, coalesce(max(category_code), '(no code) ' || max(category_id)), max(brand)
            FROM {BATCH} ANTI JOIN product_names USING (product_id) GROUP BY product_id""")

    def advance(self, watermark_ms: int) -> list[Signal]:  # noqa: ARG002  names have no time
        """Names produce no signals."""
        return []

    def forget(self, watermark_ms: int) -> None:
        """Keep all names: a catalogue is bounded."""

    def state_tables(self) -> tuple[str, ...]:
        """The table of names."""
        return ("product_names",)

    def resume(self, watermark_ms: int) -> None:
        """Do nothing: the table is all the state."""


_SHOWN = 50
_TOP = 10


class LiveJourneys:
    """Keeps the journey windows of an engine and publishes panels from them.

    Args:
        engine: runs the journey windows beside those of the rules.
        store: receives the panels.
    """

    def __init__(self, engine: Engine, store: LiveStore) -> None:
        self._engine = engine
        self._store = store
        self._connection = engine.connection
        self._sessions = SessionOperator(self._connection, SESSIONS, retain_ms=max(SPANS) // MILLISECOND)
        self._products = SlidingOperator(self._connection, PRODUCTS)
        self._cart_lines = SlidingOperator(self._connection, CART_LINES)
        operators: tuple[WindowOperator, ...] = (
            self._sessions,
            self._products,
            _ProductNames(self._connection, PRODUCTS),
            self._cart_lines,
        )
        for operator in operators:
            engine.attach(operator)

    def publish(self) -> None:
        """Drop expired state, and publish the panels."""
        now_ms = self._engine.watermarks.current_ms
        if now_ms == BEGINNING:
            return
        for operator in (self._sessions, self._products, self._cart_lines):
            operator.forget(now_ms)
        self._store.publish(self.panels(now_ms), now_ms)

    def panels(self, now_ms: int) -> dict[str, object]:
        """Panel name → JSON-ready value, as of `now_ms` of event time."""
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE live_sessions AS {self._sessions.sessions()}")
        return {
            "sessions": self._session_panel(now_ms),
            "funnel": [self._funnel(now_ms, span) for span in SPANS],
            "top": {f"{span // timedelta(minutes=1)}m": self._top(now_ms, span) for span in SPANS},
            "carts": self._cart_panel(now_ms),
        }

    def _rows(self, query: str, parameters: Mapping[str, object]) -> list[dict[str, Any]]:
        return fetch_dicts(self._connection.execute(query, dict(parameters)))

    def _session_panel(self, now_ms: int) -> dict[str, object]:
        active = "FROM live_sessions WHERE end_ms > $now"
        totals = self._rows(
            f"""SELECT count(*) AS active, count(DISTINCT user_id) AS shoppers,
                       count(*) FILTER (carts > 0 AND purchases = 0) AS with_cart,
                       count(*) FILTER (purchases > 0) AS bought {active}""",
            {"now": now_ms},
        )[0]
        newest = self._rows(
            f"""SELECT user_id, user_session, start_ms, last_event_ms, events, views, carts, purchases,
                       coalesce(spent, 0) AS spent,
                       CASE WHEN purchases > 0 THEN 'bought' WHEN carts > 0 THEN 'cart' ELSE 'browsing' END AS stage
                {active} ORDER BY last_event_ms DESC, user_id LIMIT {_SHOWN}""",
            {"now": now_ms},
        )
        for row in newest:
            row["started"] = from_ms(row.pop("start_ms")).isoformat()
            row["last_event"] = from_ms(row.pop("last_event_ms")).isoformat()
        return {**totals, "newest": newest}

    def _funnel(self, now_ms: int, span: timedelta) -> dict[str, object]:
        """Stages that the sessions active in the span have reached."""
        row = self._rows(
            """SELECT count(*) AS sessions,
                      count(*) FILTER (views > 0) AS viewed,
                      count(*) FILTER (views > 0 AND carts > 0) AS carted,
                      count(*) FILTER (views > 0 AND carts > 0 AND purchases > 0) AS bought_from_cart,
                      count(*) FILTER (purchases > 0 AND carts = 0) AS bought_without_cart,
                      count(*) FILTER (purchases > 0) AS bought
               FROM live_sessions WHERE last_event_ms >= $since""",
            {"since": now_ms - span // MILLISECOND},
        )[0]
        return {"minutes": span // timedelta(minutes=1), **row}

    def _top(self, now_ms: int, span: timedelta) -> dict[str, object]:
        self._connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE live_products AS
                SELECT * FROM ({self._products.current(span // MILLISECOND, now_ms)})
                JOIN product_names USING (product_id)"""
        )
        sums = """sum(views)::BIGINT AS views, sum(carts)::BIGINT AS carts, sum(purchases)::BIGINT AS purchases,
                  coalesce(sum(revenue), 0) AS revenue"""
        order = f"ORDER BY views DESC, revenue DESC, 1 LIMIT {_TOP}"
        return {
            "products": self._rows(
                f"""SELECT product_id, category, brand, views, carts, purchases,
                           coalesce(revenue, 0) AS revenue FROM live_products {order}""",
                {},
            ),
            "categories": self._rows(f"SELECT category, {sums} FROM live_products GROUP BY category {order}", {}),
            "brands": self._rows(
                f"SELECT brand, {sums} FROM live_products WHERE brand IS NOT NULL GROUP BY brand {order}", {}
            ),
        }

    def _cart_panel(self, now_ms: int) -> dict[str, object]:
        self._connection.execute(f"""
            CREATE OR REPLACE TEMP TABLE live_carts AS
            SELECT user_id, product_id, carted_at, worth
            FROM ({self._cart_lines.current(CART_LINES.size_ms, now_ms)})
            WHERE carted_at > coalesce(greatest(removed_at, bought_at), '-infinity'::TIMESTAMPTZ)""")
        totals = self._rows(
            """SELECT count(DISTINCT user_id) AS carts, count(*) AS lines, coalesce(sum(worth), 0) AS value
               FROM live_carts""",
            {},
        )[0]
        largest = self._rows(
            f"""SELECT user_id, count(*) AS lines, sum(worth) AS value, max(epoch_ms(carted_at)) AS last_ms
                FROM live_carts GROUP BY user_id ORDER BY value DESC, user_id LIMIT {_SHOWN}""",
            {},
        )
        for row in largest:
            row["last_cart"] = from_ms(row.pop("last_ms")).isoformat()
        return {**totals, "largest": largest}


def timeline(connection: duckdb.DuckDBPyConnection, user_id: int, limit: int) -> list[dict[str, Any]]:
    """The newest `limit` events of a shopper, oldest first; `visit` numbers sessions cut at 30 minutes of silence.

    Args:
        connection: with the view `events` over the lake.
        user_id: the shopper.
        limit: maximum number of rows.
    """
    cursor = connection.execute(
        """
        WITH mine AS (
            SELECT DISTINCT ON (event_time, event_id) *
            FROM events WHERE user_id = $user_id
        ), spaced AS (
            SELECT *, event_time - lag(event_time) OVER (ORDER BY event_time, event_id) AS pause FROM mine
        ), visits AS (
            SELECT *, count(*) FILTER (pause IS NULL OR pause > INTERVAL 30 MINUTES)
                      OVER (ORDER BY event_time, event_id) AS visit
            FROM spaced
        ), newest AS (
            SELECT * FROM visits ORDER BY event_time DESC, event_id DESC LIMIT $limit
        )
        SELECT event_time, visit,
               CASE WHEN pause <= INTERVAL 30 MINUTES THEN round(epoch(pause))::BIGINT END AS pause_s,
               event_type, product_id::VARCHAR AS product_id, category_code, brand, price, user_session
        FROM newest ORDER BY event_time, event_id
        """,
        {"user_id": user_id, "limit": limit},
    )
    return fetch_dicts(cursor)
