"""A process that appends to a lakehouse on S3, one commit after the other.

    python aws_lake_writer.py WAREHOUSE DATABASE PARQUET SHARD COMMITS STEP

The rows of commit n are those of the Parquet file; its position is n. Where STEP is not empty, the process
kills itself the third time it comes to that step.
"""

import os
import signal
import sys

import pyarrow.parquet as pq

from shopstream.lakehouse import aws, files
from shopstream.lakehouse.aws import AwsLakehouse
from shopstream.lakehouse.ports import LakeTable
from shopstream.lakehouse.settings import GlueSettings, LakehouseSettings

STEPS = {
    "rows are written": (files, "write_file", "after"),
    "metadata is written": (aws._Glue, "_update_glue_table", "before"),
    "the catalog has it": (aws._Glue, "_update_glue_table", "after"),
}


def die_at(step):
    owner, name, when = STEPS[step]
    original, calls = getattr(owner, name), []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)


def main(arguments):
    warehouse, database, template, shard, commits, step = arguments
    lakehouse = AwsLakehouse(LakehouseSettings(), GlueSettings(warehouse=warehouse, database=database))
    rows = pq.read_table(template)
    print("ready", flush=True)  # noqa: T201  the parent waits for it
    sys.stdin.readline()
    if step:
        die_at(step)
    first = lakehouse.positions(LakeTable.EVENTS).get(shard, -1) + 1
    for turn in range(first, first + int(commits)):
        lakehouse.append(LakeTable.EVENTS, rows, {shard: turn})


if __name__ == "__main__":
    main(sys.argv[1:])
