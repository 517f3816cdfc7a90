"""The system under test: engine, all rules, all detectors and the incident store, in event time.

Events come decoded, so the speed of the stream is not measured. Detections reach the incident store in steps of ten
seconds of event time, as they do live, so the number of notifications does not depend on the size of batches.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, Self

import duckdb
import numpy as np
import pyarrow as pa

from shopstream.clock import ManualClock
from shopstream.detection.detection import Detection
from shopstream.detection.detector_runner import DetectorRunner
from shopstream.detection.rule import Rule
from shopstream.detection.rule_matcher import detect
from shopstream.engine.engine import Engine
from shopstream.engine.settings import EngineSettings
from shopstream.events.codec import REJECT_SCHEMA, Decoded
from shopstream.events.schema import EVENT_ID_SQL
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.incidents.recorder import IncidentRecorder
from shopstream.incidents.settings import IncidentSettings, NotifySettings
from shopstream.stream.ports import Record

__all__ = ["INCIDENTS", "SystemUnderTest"]

INCIDENTS: Final = "incidents.db"
"""File of the incident store, in the folder of a run."""

_SHARD = "evaluation"
_TARGET = "evaluation"
_STEP_MS = 10_000
_GENERATION = 1
"""Of the rows that a run writes before it is saved."""
_NO_REJECTS = REJECT_SCHEMA.empty_table()


class SystemUnderTest:
    """One run over events in order of time.

    Args:
        folder: holds the incident store; made if it is missing.
        rules: rule id → enabled rule.
        detectors: all detectors, run per bin.
    """

    def __init__(self, folder: Path, rules: Mapping[str, Rule], detectors: DetectorRunner) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._rules = rules
        self._detectors = detectors
        clock = ManualClock()
        self.store = EmbeddedIncidentStore(folder / INCIDENTS, clock)
        self.incidents = IncidentRecorder(self.store, IncidentSettings(), NotifySettings(), clock, (_TARGET,))
        windows = [*(rule.window_declaration() for rule in rules.values()), *detectors.declarations]
        self.engine = Engine(EngineSettings(threads=1), windows, folder / "spill")
        self.engine.connection.execute("SET enable_progress_bar = false")
        detectors.attach(self.engine)
        self._identities = duckdb.connect()
        self._identities.execute("SET TimeZone = 'UTC'; SET threads = 1; SET enable_progress_bar = false")
        self._records = 0
        self._applied_ms: int | None = None
        self.detections = 0

    def feed(self, events: pa.Table) -> None:
        """Process WIRE_SCHEMA events, in order of time, through engine, detection and incidents."""
        if not events.num_rows:
            return
        self.engine.process(*self._decoded(events))
        signals = self.engine.advance()
        watermark_ms = self.engine.watermarks.current_ms
        self._apply([*detect(signals, self._rules), *self._detectors.advance(signals, watermark_ms)], watermark_ms)

    def _decoded(self, events: pa.Table) -> tuple[list[Record], Decoded]:
        column = events.schema.get_field_index("event_id")
        if events.column(column).null_count:
            ids = self._identities.from_arrow(events).project(f"{EVENT_ID_SQL} AS event_id").to_arrow_table()
            events = events.set_column(column, "event_id", ids["event_id"])
        newest = events.column("event_time")[-1].cast(pa.int64()).as_py() // 1000
        events = events.append_column("record", pa.array(np.zeros(len(events), np.int32)))
        events = events.append_column("place", pa.array(np.arange(len(events), dtype=np.int32)))
        self._records += 1
        return [Record(b"", "", _SHARD, self._records, newest)], Decoded(events, _NO_REJECTS)

    def _apply(self, detections: Sequence[Detection], watermark_ms: int) -> None:
        self.detections += len(detections)
        steps: dict[int, list[Detection]] = defaultdict(list)
        for detection in detections:
            steps[min(-(-detection.end_ms // _STEP_MS) * _STEP_MS, watermark_ms)].append(detection)
        begin_ms = min([self._applied_ms or watermark_ms, *steps])
        for end_ms in sorted({*range(begin_ms, watermark_ms, _STEP_MS), watermark_ms, *steps}):
            self.incidents.apply(steps[end_ms], end_ms)
        self._applied_ms = watermark_ms - watermark_ms % _STEP_MS

    def save(self, folder: Path) -> None:
        """Save the whole state into a new folder."""
        folder.mkdir(parents=True)
        self.engine.save(folder / "state.duckdb")
        watermarks = self.engine.watermarks
        manifest = {
            "tables": self.engine.state_tables(),
            "watermark_ms": watermarks.current_ms,
            "newest_ms": watermarks.newest(),
            "detectors": self._detectors.snapshot(),
            "incidents": self.incidents.snapshot(),
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))
        _copy(self.folder / INCIDENTS, folder / INCIDENTS)

    @classmethod
    def restored(cls, saved: Path, folder: Path, rules: Mapping[str, Rule], detectors: DetectorRunner) -> Self:
        """A new run from a saved state."""
        folder.mkdir(parents=True, exist_ok=True)
        _copy(saved / INCIDENTS, folder / INCIDENTS)
        system = cls(folder, rules, detectors)
        manifest = json.loads((saved / "manifest.json").read_text())
        system.engine.restore(
            saved / "state.duckdb", manifest["tables"], manifest["watermark_ms"], manifest["newest_ms"]
        )
        detectors.restore(manifest["detectors"])
        system.incidents.restore(manifest["incidents"], _GENERATION)
        return system

    def close(self) -> None:
        """Close files and databases."""
        self.store.close()
        self.engine.connection.close()
        self._identities.close()


def _copy(source: Path, target: Path) -> None:
    """Copy a SQLite store, with what is still in its log."""
    with closing(sqlite3.connect(source)) as reader, closing(sqlite3.connect(target)) as writer:
        reader.backup(writer)
