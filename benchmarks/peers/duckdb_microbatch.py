"""The upper bound: hand-written DuckDB micro-batches over in-order events, with pane counts as state.

It has no checkpoint, no late data, no duplicates, no incidents: what is left when everything that makes a stream
processor safe is taken away. Panes are kept as long as the longest window; a key is expanded to all its windows only
where its count over all panes that could matter passes.

Usage: duckdb_microbatch.py INPUT.parquet OUTPUT rules|classic
"""

import sys
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))
from windows import WINDOWS, Window

BATCH = 100_000


class Counter:
    """One window definition: its panes, and the end of its closed windows."""

    def __init__(self, con: duckdb.DuckDBPyConnection, window: Window, output: Path) -> None:
        self._con = con
        self._window = window
        self._panes = window.size_ms // window.slide_ms
        self._closed: int | None = None  # panes before this one are in closed windows
        folder = output / window.name
        folder.mkdir(parents=True)
        self._out = (folder / "all.csv").open("w")
        kind = "VARCHAR" if window.key == "event_type" else "BIGINT"
        con.execute(f"CREATE TABLE {window.name} (key {kind}, pane BIGINT, n BIGINT)")

    def add(self, last_ms: int) -> None:
        """Count the table `batch`, then close all windows that end at or before the last event."""
        window = self._window
        self._con.execute(
            f"INSERT INTO {window.name} "
            f"SELECT {window.key or '0'}, epoch_ms(event_time) // {window.slide_ms}, count(*) FROM batch GROUP BY ALL"
        )
        self.close(last_ms // window.slide_ms)

    def close(self, upto: int) -> None:
        """Write and drop windows whose last pane is before `upto`."""
        name, panes = self._window.name, self._panes
        if self._closed is None:
            self._closed = self._con.execute(f"SELECT min(pane) FROM {name}").fetchall()[0][0]
        if upto <= self._closed:
            return
        hits = self._con.execute(
            f"""
            WITH near AS (FROM {name} WHERE pane < $upto),
            passing AS (SELECT key FROM near GROUP BY key HAVING sum(n) > {self._window.more_than})
            SELECT make_timestamp_ms((last_pane - {panes - 1}) * {self._window.slide_ms}), key, sum(n)
            FROM (FROM near SEMI JOIN passing USING (key)), range($closed, $upto) AS ends(last_pane)
            WHERE pane BETWEEN last_pane - {panes - 1} AND last_pane
            GROUP BY ALL HAVING sum(n) > {self._window.more_than}
            """,
            {"closed": self._closed, "upto": upto},
        ).fetchall()
        self._out.writelines(f"{start},{key},{n}\n" for start, key, n in hits)
        # A fresh table costs less than deleting from a table whose dead rows stay in memory.
        self._con.execute(f"CREATE OR REPLACE TABLE {name} AS FROM {name} WHERE pane >= {upto - panes + 1}")
        self._closed = upto

    def end(self) -> None:
        """Close all open windows."""
        last = self._con.execute(f"SELECT max(pane) FROM {self._window.name}").fetchall()[0][0]
        self.close(last + self._panes)
        self._out.close()


def main(source: Path, output: Path, windows: str) -> None:
    """Feed the file batch by batch."""
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
    counters = [Counter(con, window, output) for window in WINDOWS[windows]]
    file = pq.ParquetFile(source)
    for batch in file.iter_batches(BATCH, columns=["event_time", "event_type", "user_id"]):
        con.register("batch", batch)
        last = batch.column("event_time")[-1].value // 1000
        for counter in counters:
            counter.add(last)
    for counter in counters:
        counter.end()


main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
