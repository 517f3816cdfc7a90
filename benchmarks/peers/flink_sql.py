"""Flink SQL as a stream: event-time watermarks, two slots, exactly-once checkpoints every 10 s, committing file sinks.

Tuned as its documentation advises for such a job: window table-valued functions (panes are shared between sliding
windows, local and global aggregation), object reuse, heap state, a 4 GiB heap.

Usage: flink_sql.py INPUT OUTPUT rules|classic
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from java import ensure_java
from windows import WINDOWS, Window

ensure_java()
os.environ["JVM_ARGS"] = "-Xms4g -Xmx4g -XX:+UseParallelGC"

from pyflink.common import Configuration  # noqa: E402  the JVM's options must be set first
from pyflink.table import EnvironmentSettings, TableEnvironment  # noqa: E402  likewise

SETTINGS = {
    "parallelism.default": "2",
    "taskmanager.numberOfTaskSlots": "2",
    "rest.bind-address": "127.0.0.1",
    "rest.address": "127.0.0.1",
    "rest.bind-port": "0",
    "execution.checkpointing.interval": "10 s",
    "execution.checkpointing.mode": "EXACTLY_ONCE",
    "restart-strategy.type": "none",  # a failure must show, not hide in a slower figure
    "state.backend.type": "hashmap",
    "pipeline.object-reuse": "true",
    "table.local-time-zone": "UTC",
    "table.exec.mini-batch.enabled": "true",
    "table.exec.mini-batch.allow-latency": "1 s",
    "table.exec.mini-batch.size": "20000",
    "taskmanager.memory.managed.size": "256m",
    "taskmanager.memory.network.min": "128m",
    "taskmanager.memory.network.max": "128m",
}

SOURCE = """
CREATE TABLE events (
    event_time TIMESTAMP(3), event_type STRING, product_id BIGINT, category_id BIGINT, category_code STRING,
    brand STRING, price DECIMAL(18, 4), user_id BIGINT, user_session STRING,
    WATERMARK FOR event_time AS event_time - INTERVAL '0.001' SECOND  -- others may follow in the same millisecond
) WITH ('connector' = 'filesystem', 'path' = 'file://{path}', 'format' = 'csv')
"""

SINK = """
CREATE TABLE {name} (window_start TIMESTAMP(3), key STRING, n BIGINT) WITH (
    'connector' = 'filesystem', 'path' = 'file://{path}', 'format' = 'csv',
    'sink.rolling-policy.rollover-interval' = '5 s', 'sink.rolling-policy.check-interval' = '1 s'
)
"""


def query(window: Window) -> str:
    """The windowed count as Flink SQL."""
    size, slide = (
        f"INTERVAL '{ms // 1000}' SECOND({len(str(ms // 1000))})" for ms in (window.size_ms, window.slide_ms)
    )
    table = (
        f"TUMBLE(TABLE events, DESCRIPTOR(event_time), {size})"
        if window.size_ms == window.slide_ms
        else f"HOP(TABLE events, DESCRIPTOR(event_time), {slide}, {size})"
    )
    key = f", {window.key}" if window.key else ""
    text = f"CAST({window.key} AS STRING)" if window.key else "'0'"
    return (
        f"INSERT INTO {window.name} SELECT window_start, {text}, COUNT(*) FROM TABLE({table}) "
        f"GROUP BY window_start, window_end{key} HAVING COUNT(*) > {window.more_than}"
    )


def main(source: Path, output: Path, windows: str) -> None:
    """Run the job to the end of its input."""
    configuration = Configuration()
    for name, value in SETTINGS.items():
        configuration.set_string(name, value)
    configuration.set_string("execution.checkpointing.dir", f"file://{(output / '.checkpoints').resolve()}")
    settings = EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(configuration).build()
    tables = TableEnvironment.create(settings)
    tables.execute_sql(SOURCE.format(path=source.resolve()))
    statements = tables.create_statement_set()
    for window in WINDOWS[windows]:
        tables.execute_sql(SINK.format(name=window.name, path=(output / window.name).resolve()))
        statements.add_insert_sql(query(window))
    statements.execute().wait()


main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
