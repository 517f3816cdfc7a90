"""`make bench ONLY=detection`: the cost of each rule, window and detector, and the size of the state.

One synthetic shop day of `EVENTS` events, with addresses and client software, goes through the engine in micro-batches
of `BATCH`, on one thread, in this process: first without any window, then with each window alone, then with
everything. What a window costs is the CPU time above that of the engine without windows.
"""

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import process_time, process_time_ns

import duckdb
import numpy as np
import pyarrow as pa
from measure import Measurement
from report import Table

from shopstream.detection.detection import Detection
from shopstream.detection.detector import Detector
from shopstream.detection.detector_runner import DetectorRunner, OperatorFactory
from shopstream.detection.detectors.shipped import shipped_runner
from shopstream.detection.rule import load_rules
from shopstream.detection.settings import DetectionSettings
from shopstream.engine.engine import Engine
from shopstream.engine.settings import EngineSettings
from shopstream.engine.signals import Signal
from shopstream.engine.window import WindowDeclaration, WindowKind
from shopstream.events.codec import REJECT_SCHEMA, Decoded
from shopstream.simulation.synthesis import Synthesis, SynthesisSettings
from shopstream.stream.ports import Record

__all__ = ["EVENTS", "INTRODUCTION", "costs", "pack_table"]

INTRODUCTION = """\
# What detection costs

Written by `make bench ONLY=detection`; do not edit. CPU time on one thread, of a synthetic shop at the real shop's
pace, with addresses and client software, from midnight to the evening's peak. A window alone costs what its engine
takes above an engine without windows; together they share the columns that look back. State is what a checkpoint holds
at the peak, as Arrow columns."""

EVENTS = 1_770_000
UNTIL = timedelta(hours=15)
BATCH = 50_000
_ACTORS = ("user_id", "user_session", "ip", "ip_net", "agent_hash")


@dataclass(slots=True)
class Run:
    """One pass over all events.

    Args:
        cpu_s: of everything.
        signals: all that the engine gave.
        steps: signals of each batch with the watermark after it.
        engine: with its state; closed by who asked for it.
    """

    cpu_s: float
    signals: int
    engine: Engine
    steps: list[tuple[list[Signal], int]] = field(default_factory=list)


class Timed(Detector):
    """A detector with measured CPU time."""

    def __init__(self, inner: Detector) -> None:
        self._inner = inner
        self.id, self.version = inner.id, inner.version
        self.windows = inner.windows
        self.other_signals = inner.other_signals
        self.cpu_ns = 0
        self.signals = 0
        self.bins = 0
        self.detections = 0

    def observe(self, end_ms: int, signals: Sequence[Signal]) -> list[Detection]:
        """One bin."""
        begun = process_time_ns()
        found = self._inner.observe(end_ms, signals)
        self.cpu_ns += process_time_ns() - begun
        self.signals += len(signals)
        self.bins += 1
        self.detections += len(found)
        return found

    def snapshot(self) -> Mapping[str, object]:
        """Its state."""
        return self._inner.snapshot()

    def restore(self, state: Mapping[str, object]) -> None:
        """Restore a snapshot."""
        self._inner.restore(state)


def costs() -> list[Table]:
    """Measure, and return the tables; takes a few minutes on one core."""
    batches = _batches()
    events = sum(decoded.events.num_rows for _, decoded in batches)
    bare = _closed(_run(batches, []))
    rules = {rule_id: rule.window_declaration() for rule_id, rule in load_rules().items() if rule.enabled}
    bank = shipped_runner(DetectionSettings())
    windows = [*rules.values(), *bank.declarations]
    alone = {window.name: _closed(_run(batches, [window])) for window in windows}
    reference = _closed(_run(batches, [], bank.operators))
    derived = _closed(_run(batches, [_DERIVED]))
    whole = _run(batches, windows, bank.operators, keep=True)
    try:
        rows = [
            _line("engine without windows (deduplication, watermark)", bare.cpu_s, events, bare.signals),
            _line("columns that look back, kept in order (shared)", derived.cpu_s - bare.cpu_s, events, 0),
            *(_line(f"rule {name}", alone[name].cpu_s - bare.cpu_s, events, alone[name].signals) for name in rules),
            *(
                _line(f"window {w.name}", alone[w.name].cpu_s - bare.cpu_s, events, alone[w.name].signals)
                for w in bank.declarations
            ),
            _line("reference of products (prices, rare ones, copies)", reference.cpu_s - bare.cpu_s, events, 0),
            _line("**everything in one engine**", whole.cpu_s, events, whole.signals),
        ]
        engine = Table(
            f"Cost in the engine: {events:,} events in batches of {BATCH:,}, one thread",
            ("what", "CPU s", "µs/event", "signals"),
            rows,
            [f"Everything: {len(windows)} windows, {events / whole.cpu_s:,.0f} events a second of CPU time."],
        )
        return [engine, _detectors(whole, events), _state(whole.engine, windows)]
    finally:
        whole.engine.connection.close()


_DERIVED = WindowDeclaration(
    name="derived",
    kind=WindowKind.TUMBLING,
    key=(),
    size_ms=3_600_000,
    measures={"events": "count(*) filter (where gap_ms > 0 and first_visit and viewed and previous_product_id > 0)"},
)


def _batches() -> list[tuple[list[Record], Decoded]]:
    start = datetime(2019, 11, 5, tzinfo=UTC)
    settings = SynthesisSettings(start=start, events=EVENTS, seed=1_000, tracker=True)
    rejects = REJECT_SCHEMA.empty_table()
    made = []
    day = Synthesis(settings, (start, start + UNTIL))
    whole = pa.concat_tables(day.batches(), promote_options="default").unify_dictionaries()
    for number, first in enumerate(range(0, len(whole), BATCH)):
        part = whole.slice(first, BATCH)
        newest_ms = part.column("event_time")[-1].cast(pa.int64()).as_py() // 1_000
        part = part.append_column("record", pa.array(np.zeros(len(part), np.int32)))
        part = part.append_column("place", pa.array(np.arange(len(part), dtype=np.int32)))
        made.append(([Record(b"", "", "bench", number, newest_ms)], Decoded(part, rejects)))
    return made


def _run(
    batches: Sequence[tuple[list[Record], Decoded]],
    windows: Iterable[WindowDeclaration],
    operators: Sequence[OperatorFactory] = (),
    *,
    keep: bool = False,
) -> Run:
    engine = Engine(EngineSettings(threads=1), windows)
    for factory in operators:
        engine.attach(factory(engine), advance=True)
    run = Run(0.0, 0, engine)
    begun = process_time()
    for records, decoded in batches:
        engine.process(records, decoded)
        signals = engine.advance()
        run.signals += len(signals)
        if keep:
            run.steps.append((signals, engine.watermarks.current_ms))
    run.cpu_s = process_time() - begun
    return run


def _closed(run: Run) -> Run:
    run.engine.connection.close()
    return run


def _line(what: str, cpu_s: float, events: int, signals: int) -> tuple[str, ...]:
    return what, f"{cpu_s:.2f}", f"{cpu_s / events * 1e6:.2f}", f"{signals:,}" if signals else ""


def _detectors(whole: Run, events: int) -> Table:
    timed = [Timed(detector) for detector in shipped_runner(DetectionSettings()).detectors]
    bank = DetectorRunner(timed)
    begun = process_time()
    for signals, watermark_ms in whole.steps:
        bank.advance(signals, watermark_ms)
    cpu_s = process_time() - begun
    rows = [
        (
            one.id,
            f"{one.signals:,}",
            f"{one.cpu_ns / one.signals / 1e3:.1f}" if one.signals else "",
            f"{one.cpu_ns / one.bins / 1e3:.1f}",
            f"{one.cpu_ns / events / 1e3:.3f}",
            f"{len(json.dumps(one.snapshot())):,}",
            f"{one.detections:,}",
        )
        for one in timed
    ]
    seen = sum(one.signals for one in timed)
    rows.append(
        (
            "**all, with the bank**",
            f"{seen:,}",
            f"{cpu_s / seen * 1e6:.1f}",
            f"{cpu_s / timed[0].bins * 1e6:.1f}",
            f"{cpu_s / events * 1e6:.3f}",
            f"{len(json.dumps(bank.snapshot())):,}",
            f"{sum(one.detections for one in timed):,}",
        )
    )
    return Table(
        "Cost of detectors in Python",
        ("detector", "signals", "µs/signal", "µs/bin", "µs/event", "state, bytes of JSON", "detections"),
        rows,
        ("A bin is 10 s; some detectors read what others gathered, or get signals only when something is wrong.",),
    )


def _state(engine: Engine, windows: Iterable[WindowDeclaration]) -> Table:
    """Size of each table of a checkpoint, as Arrow columns, per actor; without empty tables."""
    keys = {f"window_{window.name}": window.key for window in windows}
    found: list[tuple[int, tuple[str, ...]]] = []
    everybody: set[object] = set()
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as connection:
        path = Path(folder) / "state.duckdb"
        engine.save(path)
        connection.execute(f"ATTACH '{path}' AS saved (READ_ONLY)")
        for name in engine.state_tables():
            table = connection.sql(f"FROM saved.{name}").to_arrow_table()
            if not len(table):
                continue
            actor = next((column for column in keys.get(name, ()) if column in _ACTORS), None)
            actors = set(table.column(actor).unique().to_pylist()) if actor else set()
            if actor == "user_id":
                everybody |= actors
            each = f"{table.nbytes / len(actors):,.0f}" if actors else ""
            row = (
                name,
                f"{len(table):,}",
                actor or "",
                f"{len(actors):,}" if actors else "",
                f"{table.nbytes:,}",
                each,
            )
            found.append((table.nbytes, row))
    total = sum(size for size, _ in found)
    whole = ("**all**", "", "user_id", f"{len(everybody):,}", f"{total:,}", f"{total / max(len(everybody), 1):,.0f}")
    return Table(
        "State at the peak",
        ("table", "rows", "actor", "active actors", "bytes", "bytes/actor"),
        [whole, *(row for _, row in sorted(found, reverse=True))],
        ("An actor is active in a table as long as a window it has events in is open: 10 s to 24 h.",),
    )


def pack_table(events: int, runs: Sequence[Measurement]) -> Table:
    """`shopstream run` over a stream: decoding, all rules and detectors, incidents, checkpoints."""
    return Table(
        "All rules and detectors, from the stream to incidents",
        ("what", "events", "wall s", "events/s", "CPU µs/event", "peak MiB"),
        [
            (
                "`shopstream run --no-lake --no-journeys`",
                f"{events:,}",
                f"{one.wall_s:.1f}",
                f"{events / one.wall_s:,.0f}",
                f"{one.cpu_s / events * 1e6:.2f}",
                f"{one.peak_mb:,.0f}",
            )
            for one in runs
        ],
        ("The workload of the comparison: 10,000 users at once, far denser in time than a shop.",),
    )
