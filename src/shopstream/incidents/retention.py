"""Forgetting what is over for longer than the retention."""

import sqlite3
from datetime import timedelta
from typing import Final

__all__ = ["forget_old"]

_MS: Final = timedelta(milliseconds=1)


def forget_old(connection: sqlite3.Connection, watermark_ms: int, retention: timedelta) -> None:
    """Forget incidents whose parts all ended before; ids are not given again for another two retentions.

    Args:
        connection: inside a transaction.
        watermark_ms: event time up to which all is judged.
        retention: how long they are kept.
    """
    # Measured from the newest incident: a watermark that is set far ahead to close all must not erase all.
    newest_ms = connection.execute("SELECT max(closes_ms) FROM incidents").fetchone()[0] or 0
    retention_ms = retention // _MS
    old_ms = min(watermark_ms, newest_ms) - retention_ms
    old = (
        "FROM incidents WHERE root IN "
        "(SELECT root FROM incidents GROUP BY root HAVING min(closed) = 1 AND max(closes_ms) < ?1)"
    )
    for statement in (
        f"""INSERT INTO ordinals SELECT scope, max(ordinal), max(end_ms) {old} GROUP BY scope
        ON CONFLICT (scope) DO UPDATE SET ordinal = max(ordinal, excluded.ordinal), end_ms = excluded.end_ms""",
        f"DELETE FROM notifications WHERE incident_id IN (SELECT scope || '-' || ordinal {old})",
        f"DELETE {old}",
        """DELETE FROM heads WHERE last_event_ms < ?1
        AND (scope, ordinal) NOT IN (SELECT scope, ordinal FROM incidents)""",
        f"DELETE FROM ordinals WHERE end_ms < ?1 - {2 * retention_ms}",
    ):
        connection.execute(statement, (old_ms,))
