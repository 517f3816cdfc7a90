"""PySpark Structured Streaming: event-time watermarks, two local cores, checkpoints, committing file sinks.

One streaming query per window definition, all in one session, as Spark wants it. State is where Spark keeps it by
default, on the heap.

Usage: spark_streaming.py INPUT OUTPUT rules|classic
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from windows import WINDOWS, Window

COLUMNS = (
    "event_time TIMESTAMP, event_type STRING, product_id BIGINT, category_id BIGINT, category_code STRING, "
    "brand STRING, price DECIMAL(18,4), user_id BIGINT, user_session STRING"
)
FILES_PER_BATCH = 4
SETTINGS = {
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "6g",
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.streaming.metricsEnabled": "false",
}


def counted(events: DataFrame, window: Window) -> DataFrame:
    """The windowed count."""
    size, slide = f"{window.size_ms // 1000} seconds", f"{window.slide_ms // 1000} seconds"
    keys = [f.col(window.key)] if window.key else []
    key = f.col(window.key).cast("string") if window.key else f.lit("0")
    return (
        events.groupBy(f.window("event_time", size, slide), *keys)
        .agg(f.count("*").alias("n"))
        .where(f.col("n") > window.more_than)
        .select(f.date_format("window.start", "yyyy-MM-dd HH:mm:ss").alias("window_start"), key.alias("key"), "n")
    )


def main(source: Path, output: Path, windows: str) -> None:
    """Run the queries to the end of their input."""
    builder = SparkSession.builder.master("local[2]").appName("benchmark")
    for name, value in SETTINGS.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    events = (
        spark.readStream.schema(COLUMNS)
        .option("maxFilesPerTrigger", FILES_PER_BATCH)
        .option("timestampFormat", "yyyy-MM-dd HH:mm:ss.SSS")
        .csv(str(source))
        .withWatermark("event_time", "0 seconds")
    )
    queries = [
        counted(events, window)
        .writeStream.format("csv")
        .option("checkpointLocation", str(output / f".{window.name}"))
        .option("path", str(output / window.name))
        .outputMode("append")
        .trigger(availableNow=True)
        .start()
        for window in WINDOWS[windows]
    ]
    for query in queries:
        query.awaitTermination()
    spark.stop()


main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
