"""What is kept: Iceberg tables of events, dead letters and detections."""

from shopstream.lakehouse.ports import Lakehouse, LakeTable, TableStatus

__all__ = ["LakeTable", "Lakehouse", "TableStatus"]
