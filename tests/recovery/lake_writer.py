"""A process that appends to, compacts and expires a lakehouse without end, until it is killed.

    python lake_writer.py FOLDER PARQUET [STEP COUNT]

The rows of commit n are those of the Parquet file with n as user_id; its position is n. With STEP, the process kills
itself the COUNT-th time it comes to that step.
"""

import os
import signal
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog

from shopstream.lakehouse import embedded, files, maintenance
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.ports import LakeTable
from shopstream.lakehouse.settings import LakehouseSettings

STEPS = {
    "before the rows are written": (files, "write_file", "before"),
    "after the rows are written": (files, "write_file", "after"),
    "before the metadata is written": (SqlCatalog, "_write_metadata", "before"),
    "between metadata and catalog": (SqlCatalog, "_write_metadata", "after"),
    "after the catalog": (SqlCatalog, "commit_table", "after"),
    "after files are merged": (maintenance, "_merge", "after"),
    "before files are deleted": (embedded.LocalStorage, "remove", "before"),
    "between deletions": (Path, "unlink", "after"),
    "between forgetting and deletion": (embedded.LocalCatalog, "forget", "after"),
}


def die_at(step, count):
    owner, name, when = STEPS[step]
    original = getattr(owner, name)
    calls = []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == count and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, staticmethod(wrapped) if name == "_write_metadata" else wrapped)


def main(folder, template, step="", count="1"):
    lakehouse = EmbeddedLakehouse(Path(folder), LakehouseSettings(keep_snapshots=4))
    rows = pq.read_table(template)
    place = rows.schema.get_field_index("user_id")
    print("ready", flush=True)  # noqa: T201  the parent waits for it
    if step:
        die_at(step, int(count))
    while True:
        turn = lakehouse.positions(LakeTable.EVENTS).get("shard-0", -1) + 1
        numbered = rows.set_column(place, "user_id", pa.array([turn] * rows.num_rows, pa.int64()))
        lakehouse.append(LakeTable.EVENTS, numbered, {"shard-0": turn})
        print("committed", turn, flush=True)  # noqa: T201  what must never be lost
        if turn % 3 == 2:
            lakehouse.compact(LakeTable.EVENTS)
        if turn % 4 == 3:
            lakehouse.expire(LakeTable.EVENTS, 1 + turn % 2)


if __name__ == "__main__":
    main(*sys.argv[1:])
