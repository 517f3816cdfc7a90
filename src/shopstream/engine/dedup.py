"""Which events were seen before.

Two events are the same when time and id agree; the id is remembered as DuckDB's 64-bit hash, so that two different
events of one millisecond are taken for one once in some 10^15 pairs. Remembered is what lies within a horizon of event
time, and the newest events whatever their time: a producer that died sends its last puts again.
"""

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["SEEN", "Deduplicator"]

SEEN = "seen"
"""The state table."""

_Times = npt.NDArray[np.int64]


class Deduplicator:
    """Remembers events in a table of the engine's database.

    Args:
        connection: of that database.
        horizon_ms: how far behind the watermark duplicates are recognised.
        newest: this many newest events are remembered in any case.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, horizon_ms: int, newest: int) -> None:
        self._connection = connection
        self._horizon_ms = horizon_ms
        self._newest = newest
        self._rows = 0
        self._limit = 0
        connection.execute(f"CREATE TABLE {SEEN} (t BIGINT, h UBIGINT)")

    def fresh(self, times_ms: _Times, event_ids: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """Remember events; returns a flag for each: False where it was seen before, here or in an earlier call."""
        rows = pa.table({"t": pa.array(times_ms), "event_id": event_ids, "i": pa.array(np.arange(len(times_ms)))})
        self._connection.register("incoming_ids", rows)
        self._connection.execute(
            "CREATE OR REPLACE TEMP TABLE ids AS SELECT t, hash(event_id) AS h, i FROM incoming_ids"
        )
        self._connection.unregister("incoming_ids")
        since_ms = int(times_ms.min()) if len(times_ms) else 0
        again = self._connection.execute(f"""
            WITH twice AS (SELECT t, h FROM ids GROUP BY t, h HAVING count(*) > 1)
            SELECT i FROM (SELECT i, row_number() OVER (PARTITION BY t, h ORDER BY i) AS nth
                           FROM ids SEMI JOIN twice USING (t, h)) WHERE nth > 1
            UNION
            SELECT i FROM ids JOIN {SEEN} USING (t, h) WHERE {SEEN}.t >= {since_ms}
            """).fetchnumpy()["i"]
        fresh = np.ones(len(times_ms), dtype=np.bool_)
        fresh[again] = False
        self._connection.execute(f"INSERT INTO {SEEN} SELECT t, h FROM ids")
        self._rows += len(times_ms)
        return fresh

    def forget(self, watermark_ms: int) -> None:
        """Drop what need not be remembered, each time the rows have doubled: that costs the same for each event."""
        if self._rows > self._limit:
            self._connection.execute(f"""
                CREATE OR REPLACE TABLE {SEEN} AS SELECT * FROM {SEEN}
                WHERE t >= {watermark_ms - self._horizon_ms} OR rowid >= {self._rows - self._newest}""")
            self.resume()

    def resume(self) -> None:
        """Go on after the table was replaced."""
        self._rows = int(self._connection.execute(f"SELECT count(*) FROM {SEEN}").fetchall()[0][0])
        self._limit = 2 * max(self._rows, self._newest)
