"""Plain DuckDB over the finished CSV files: no stream, no state; one answer after the last event.

Usage: duckdb_batch.py INPUT OUTPUT rules|classic
"""

import sys
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).parents[1]))
from windows import WINDOWS, batch_sql

COLUMNS = (
    "{'event_time': 'TIMESTAMP', 'event_type': 'VARCHAR', 'product_id': 'BIGINT', 'category_id': 'BIGINT', "
    "'category_code': 'VARCHAR', 'brand': 'VARCHAR', 'price': 'DECIMAL(18,4)', 'user_id': 'BIGINT', "
    "'user_session': 'VARCHAR'}"
)


def main(source: Path, output: Path, windows: str) -> None:
    """Read all files, write one CSV file per window definition."""
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
    con.execute(
        "CREATE TABLE events AS SELECT event_time, event_type, user_id "
        f"FROM read_csv(?, header = false, columns = {COLUMNS})",
        [str(source / "*.csv")],
    )
    for window in WINDOWS[windows]:
        folder = output / window.name
        folder.mkdir(parents=True)
        con.execute(
            f"COPY (SELECT make_timestamp_ms(window_start), key, n FROM ({batch_sql(window, 'events')})) "
            "TO ? (HEADER false)",
            [str(folder / "all.csv")],
        )


main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
