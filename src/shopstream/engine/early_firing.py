"""Which open windows have fired already: a window fires early once, and once more when it closes."""

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from shopstream.engine.signal import Signal

__all__ = ["EarlyWindows"]


class EarlyWindows:
    """A table (key, start_ms) in the engine's database, so that checkpoints hold it.

    Args:
        connection: of that database.
        table: its name.
        key: key columns.
        like: query that has the key columns, for their types.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, table: str, key: Sequence[str], like: str) -> None:
        self._connection = connection
        self.table = table
        self._key = tuple(key)
        self._columns = ", ".join([*(f'"{column}"' for column in key), "start_ms"])
        keys = "".join(f'"{column}", ' for column in key)
        connection.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT {keys}0::BIGINT AS start_ms FROM {like} LIMIT 0")
        self._rows = 0

    def unseen(self, hits: str) -> str:
        """Query: of windows that meet their condition, the final ones and those that have not fired yet."""
        if not self._rows:
            return hits
        return f"""
            WITH hits AS MATERIALIZED ({hits}) SELECT * FROM hits WHERE final
            UNION ALL SELECT hits.* FROM hits ANTI JOIN {self.table} USING ({self._columns}) WHERE NOT final"""

    def remember(self, signals: Sequence[Signal]) -> None:
        """Note those that fire early; forget those that close."""
        for final, change in (
            (True, f"DELETE FROM {self.table} WHERE ({self._columns}) IN (SELECT ({self._columns}) FROM fired)"),
            (False, f"INSERT INTO {self.table} SELECT {self._columns} FROM fired"),
        ):
            some = [signal for signal in signals if signal.final is final]
            if not some or (final and not self._rows):
                continue
            columns: dict[str, list[object]] = {
                **{column: [signal.key[column] for signal in some] for column in self._key},
                "start_ms": [signal.start_ms for signal in some],
            }
            self._connection.register("fired", pa.table(columns))
            self._connection.execute(change)
            self._connection.unregister("fired")
            self.resume()

    def resume(self) -> None:
        """Go on after the table was changed or restored."""
        self._rows = self._connection.execute(f"SELECT count(*) FROM {self.table}").fetchall()[0][0]
