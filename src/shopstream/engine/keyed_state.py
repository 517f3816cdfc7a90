"""State by key: the last event of each key, and known events for deduplication."""

from collections.abc import Sequence

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

NEVER_MS = -(1 << 61)
"""Time of an unknown key: further back than any horizon."""

_LEAST_ROWS = 100_000

Ints = npt.NDArray[np.int64]


class KeyedState:
    """Key → time last seen, and values at that time.

    Rows lie in sorted runs that are merged as they grow, like in a log-structured store. A lookup is a binary search in
    each run; a `put` adds a run. Runs of similar size are merged, so both cost the logarithm of the keys. Keys not seen
    within the horizon disappear when their run is merged, at the latest when the rows have doubled.

    Args:
        horizon_ms: keys last seen longer ago than this are forgotten.
        values: names of the values, whole numbers; the time is `t`.
    """

    def __init__(self, horizon_ms: int, values: Sequence[str] = ()) -> None:
        self._horizon_ms = horizon_ms
        self._names = ("key", "t", *values)
        self._runs: list[tuple[Ints, ...]] = []
        self._limit = _LEAST_ROWS

    def __len__(self) -> int:
        """Number of rows; a key may have one in each run."""
        return sum(len(run[0]) for run in self._runs)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(column.nbytes for run in self._runs for column in run)

    def get(self, keys: Ints) -> tuple[Ints, ...]:
        """Time and values of each key, all NEVER_MS for unknown keys. Ascending keys are faster."""
        found = tuple(np.full(len(keys), NEVER_MS, dtype=np.int64) for _ in self._names[1:])
        left = np.arange(len(keys))
        for run in reversed(self._runs):  # the newest run that has a key wins
            if not len(left) or not len(run[0]):
                continue
            place = np.minimum(np.searchsorted(run[0], keys[left]), len(run[0]) - 1)
            hit = run[0][place] == keys[left]
            for target, column in zip(found, run[1:], strict=True):
                target[left[hit]] = column[place[hit]]
            left = left[~hit]
        return found

    def put(self, keys: Ints, t: Ints, *values: Ints, now_ms: int) -> None:
        """Store keys, ascending and unique, none older than its stored row."""
        if not len(keys):
            return
        self._runs.append((keys, t, *values))
        while len(self._runs) > 1 and len(self._runs[-2][0]) <= 2 * len(self._runs[-1][0]):
            newer = self._runs.pop()
            self._runs[-1] = self._merge([self._runs[-1], newer], now_ms)
        if len(self) > self._limit:
            self._runs = [self._merge(self._runs, now_ms)]
            self._limit = max(2 * len(self), _LEAST_ROWS)

    def _merge(self, runs: Sequence[tuple[Ints, ...]], now_ms: int) -> tuple[Ints, ...]:
        """Merge runs, oldest first: the newest row of each key stays unless it is past the horizon."""
        keys = np.concatenate([run[0] for run in runs])
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        last = np.append(keys[1:] != keys[:-1], True)
        t = np.concatenate([run[1] for run in runs])[order]
        kept = last & (t >= now_ms - self._horizon_ms)
        rest = (np.concatenate(columns)[order][kept] for columns in list(zip(*runs, strict=True))[2:])
        return keys[kept], t[kept], *rest

    def table(self) -> pa.Table:
        """All rows, for a checkpoint."""
        run = self._merge(self._runs, NEVER_MS) if self._runs else tuple(np.zeros(0, np.int64) for _ in self._names)
        return pa.table(dict(zip(self._names, map(pa.array, run), strict=True)))

    def restore(self, columns: dict[str, Ints]) -> None:
        """Restore from a table's columns, by name."""
        run = tuple(np.asarray(columns[name], dtype=np.int64) for name in self._names)
        self._runs = [run] if len(run[0]) else []
        self._limit = max(2 * len(self), _LEAST_ROWS)


SEEN = "seen"
"""The table of known events."""

_Times = npt.NDArray[np.int64]


class Deduplicator:
    """Finds duplicates, with known events in a table of the engine's database.

    Events with the same time and id are duplicates. The table holds DuckDB's 64-bit hash of the id, so two different
    events of one millisecond count as duplicates in one of some 10^15 pairs. It remembers events within a horizon of
    event time, and the newest events of any time: a producer that died repeats its last puts.

    Args:
        connection: of that database.
        horizon_ms: how far behind the watermark duplicates are found.
        newest: number of newest events that are always remembered.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, horizon_ms: int, newest: int) -> None:
        self._connection = connection
        self._horizon_ms = horizon_ms
        self._newest = newest
        self._rows = 0
        self._limit = 0
        connection.execute(f"CREATE TABLE {SEEN} (t BIGINT, h UBIGINT)")

    def fresh(self, times_ms: _Times, event_ids: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """Remember events; returns one flag per event: False for duplicates, of this call or an earlier one."""
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
        """Drop old rows each time the rows have doubled, which costs a constant time per event."""
        if self._rows > self._limit:
            self._connection.execute(f"""
                CREATE OR REPLACE TABLE {SEEN} AS SELECT * FROM {SEEN}
                WHERE t >= {watermark_ms - self._horizon_ms} OR rowid >= {self._rows - self._newest}""")
            self.resume()

    def resume(self) -> None:
        """Continue after the table was replaced."""
        self._rows = int(self._connection.execute(f"SELECT count(*) FROM {SEEN}").fetchall()[0][0])
        self._limit = 2 * max(self._rows, self._newest)
