"""AWS Glue (Spark) job: loads months of CSV from S3 into the lake's tables `events` and `dead_letters`.

    spark-submit glue/backfill.py --sources s3://bucket/raw/ --warehouse s3://bucket/warehouse --database shopstream

Spark only distributes the work: each task reads one block of a file from S3, decodes it with shopstream's own code and
writes its events as Parquet files of the lake. The driver commits them in order with PyIceberg, together with the
progress of the file; Spark's own Iceberg writer cannot commit rows and progress in one atomic step. So a stopped job
resumes where it stopped, and a file that is already in the lake is skipped.

docs/lake-on-aws.md describes arguments and requirements. Prints one line of JSON per file.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

import fsspec
from pyspark.sql import SparkSession

from shopstream.clock import SystemClock
from shopstream.lakehouse.aws import AwsLakehouse
from shopstream.lakehouse.ingest import LoadedBlock, Piece, in_waves, ingest
from shopstream.lakehouse.settings import GlueSettings, LakehouseSettings

_PIECES_PER_CORE = 4


def main(arguments: Sequence[str]) -> None:
    """Load every source, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sources", required=True, help="files, and prefixes that end in /, separated by commas")
    parser.add_argument("--warehouse", required=True, help="setting aws.glue.warehouse: s3://bucket/prefix")
    parser.add_argument("--database", required=True, help="setting aws.glue.database")
    given, _ = parser.parse_known_args(arguments)  # Glue adds its own, such as --JOB_NAME
    lakehouse = AwsLakehouse(LakehouseSettings(), GlueSettings(warehouse=given.warehouse, database=given.database))
    spark = SparkSession.builder.appName("shopstream-backfill").getOrCreate()
    context = spark.sparkContext

    def spread(load: Callable[[Piece], list[LoadedBlock]], pieces: Sequence[Piece]) -> list[list[LoadedBlock]]:
        return context.parallelize(pieces, len(pieces)).map(load).collect()

    at_once = _PIECES_PER_CORE * context.defaultParallelism
    try:
        for file in _files(given.sources):
            result = ingest(lakehouse, file, SystemClock(), loader=in_waves(spread, at_once))
            sys.stdout.write(json.dumps(asdict(result)) + "\n")
    finally:
        spark.stop()


def _files(sources: str) -> Iterator[str]:
    for source in filter(None, map(str.strip, sources.split(","))):
        if not source.endswith("/"):
            yield source
            continue
        files, folder = fsspec.url_to_fs(source)
        yield from sorted(files.unstrip_protocol(path) for path in files.find(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
