"""Tables of the engine's database that several modules share, and results of queries as dictionaries.

| table | written by | read by |
|---|---|---|
| `batch` | `engine.Engine.process` | window operators, `detection.product_reference`, `journeys.live` |
| `repeated` | `engine.Engine.process` | `detection.product_reference` |
| `ordered` | `sort_buffer.SortBuffer` | window operators that read stateful derived columns |
| `product_names` | `journeys.live` | `journeys.live` |

All other tables belong to one module, and have a prefix of their own: `window_` and `fired_` to the window operators,
`seen` and `derive_` to deduplication and derived columns, `detect_` to detection, `live_` to journeys, `recent_` to
`recent`, `batch_` to `batch`.
"""

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import duckdb

BATCH: Final = "batch"
"""The current micro-batch without late events and duplicates: the columns that operators read, texts derived from one
event, and `t`, event time in epoch milliseconds."""

REPEATED: Final = "repeated"
"""Dropped duplicates of the current micro-batch: `t`, the shard's newest event time on their arrival."""

ORDERED: Final = "ordered"
"""Events that the watermark has passed, with `t` and the stateful derived columns."""


def fetch_dicts(cursor: "duckdb.DuckDBPyConnection") -> list[dict[str, Any]]:
    """All rows of a result, as column → value."""
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
