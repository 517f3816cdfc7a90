"""A process that loads a file into a lakehouse in tiny blocks.

python lake_loader.py FOLDER FILE
"""

import sys
from pathlib import Path

from shopstream.clock import SystemClock
from shopstream.events import sources
from shopstream.lakehouse import ingest
from shopstream.lakehouse.embedded import EmbeddedLakehouse

sources.BLOCK_BYTES = 20_000
ingest._BLOCKS_PER_COMMIT = 2

lakehouse = EmbeddedLakehouse(Path(sys.argv[1]))
print("ready", flush=True)  # noqa: T201  the parent waits for it
result = ingest.ingest(lakehouse, sys.argv[2], SystemClock())
print(result.rows, result.events, result.duplicates, result.dead_letters)  # noqa: T201  what the parent checks
