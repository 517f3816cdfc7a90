"""The system under test: engine, all rules, all detectors and the incident store, fed with the events of a shop.

Events come decoded and in time slices, so the speed of the stream is not measured. Detections reach the incident store
in steps of ten seconds of event time, as they do live, so the number of notifications does not depend on the size of
batches.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self

import duckdb
import numpy as np
import pyarrow as pa

from shopstream.clock import ManualClock, to_ms
from shopstream.detection.baseline_builder import build_baselines
from shopstream.detection.detection import Detection
from shopstream.detection.detector_runner import DetectorRunner
from shopstream.detection.rule import Rule
from shopstream.detection.rule_matcher import detect
from shopstream.engine.engine import Engine
from shopstream.engine.settings import EngineSettings
from shopstream.evaluation.plan import Shop
from shopstream.events.codec import REJECT_SCHEMA, Decoded
from shopstream.events.columns import REES46_COLUMNS
from shopstream.events.schema import EVENT_ID_SQL
from shopstream.incidents.embedded import EmbeddedIncidentStore
from shopstream.incidents.recorder import IncidentRecorder
from shopstream.incidents.settings import IncidentSettings, NotifySettings
from shopstream.simulation.injection import Scenario, World
from shopstream.simulation.synthesis import Synthesis, SynthesisSettings
from shopstream.stream.ports import Record

BATCH_EVENTS = 300_000
_BATCH_TIME = timedelta(hours=6)


def synthesis_of(
    shop: Shop, between: tuple[datetime, datetime] | None = None, scenarios: Iterable[Scenario] = ()
) -> Synthesis:
    """The traffic of a shop in a time range; None: history and test days."""
    return Synthesis(_settings(shop, scenarios), between)


def batches(synthesis: Synthesis) -> Iterator[pa.Table]:
    """Its events in tables of at most six hours and BATCH_EVENTS events: each table has a fixed cost."""
    held: list[pa.Table] = []
    since: datetime | None = None
    for table in synthesis.batches(BATCH_EVENTS):
        first, last = (
            (table.column("event_time")[place].as_py() for place in (0, -1)) if table.num_rows else (None, None)
        )
        if first is None or last is None:
            continue
        if held and (sum(map(len, held)) + len(table) > BATCH_EVENTS or (since and last - since > _BATCH_TIME)):
            yield pa.concat_tables(held)
            held, since = [], None
        held.append(table)
        since = since or first
    if held:
        yield pa.concat_tables(held)


def world_of(shop: Shop) -> World:
    """A new world of the shop, to draw and build one attack."""
    return _settings(shop, ()).world()


def _settings(shop: Shop, scenarios: Iterable[Scenario]) -> SynthesisSettings:
    days = shop.history_days + shop.days
    return SynthesisSettings(
        start=shop.history_from,
        days=days,
        events=shop.events_a_day * days,
        products=shop.products,
        seed=shop.seed,
        tracker=shop.tracker,
        scenarios=tuple(scenarios),
    )


def cut(tables: Iterable[pa.Table], moments: Iterable[datetime]) -> Iterator[tuple[pa.Table, datetime | None]]:
    """Tables cut at moments, in order of time, each with the moment at its end (None: no moment).

    Each moment comes once, with the last events before it, which may be none.
    """
    waiting = sorted(moments)
    for table in tables:
        rest = table
        while waiting and rest.num_rows:
            times = rest.column("event_time").cast(pa.int64()).to_numpy() // 1000
            place = int(np.searchsorted(times, to_ms(waiting[0])))
            if place == len(times):
                break
            yield rest.slice(0, place), waiting.pop(0)
            rest = rest.slice(place)
        if rest.num_rows:
            yield rest, None
    for moment in waiting:
        yield pa.table({}), moment


def learn(shop: Shop, path: Path) -> None:
    """Build the shop's baselines from its history, as `shopstream baselines build` does, and save them."""
    columns = list(REES46_COLUMNS)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET threads = 1; SET memory_limit = '3GB'")
        connection.execute("SET enable_progress_bar = false")
        connection.execute("SET temp_directory = ?", [str(path.parent / "spill")])
        made = False
        until = shop.history_from + timedelta(days=shop.history_days)
        for table in synthesis_of(shop, (shop.history_from, until)).batches(BATCH_EVENTS):
            connection.register("incoming", table.select(columns))
            connection.execute("INSERT INTO events FROM incoming" if made else "CREATE TABLE events AS FROM incoming")
            connection.unregister("incoming")
            made = True
        build_baselines(connection, "events").save(path)


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
