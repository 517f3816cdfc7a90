"""One shopper's events, in order."""

from typing import Any

import duckdb

from shopstream.engine.tables import fetch_dicts

__all__ = ["timeline"]


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
