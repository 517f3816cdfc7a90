"""Synthetic traffic: genuine shoppers and injected scenarios, merged by time in slices, with the ground truth."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shopstream.clock import MINUTE_MS, to_ms
from shopstream.errors import ConfigurationError
from shopstream.simulation import calibration as real
from shopstream.simulation.catalogue import Catalogue
from shopstream.simulation.event_batch import EventBatch
from shopstream.simulation.injection import GroundTruth, Injection, Scenario, World
from shopstream.simulation.intensity import TimeRange, TrafficIntensity
from shopstream.simulation.render import Renderer
from shopstream.simulation.shoppers import HeavyUsers, Population, Shoppers

DEFAULT_START = datetime(2019, 11, 5, tzinfo=UTC)
"""An ordinary Tuesday; fixed, so that the same command always gives the same file."""

_SUFFIXES = (".csv", ".csv.gz", ".parquet")
_CHUNK = 65_536
_ROW_GROUP = 131_072
_USERS_PER_DAILY_EVENT = 2.0  # a month of it gives 14 events and 3 sessions per user that came
_MIN_PRODUCTS = 1_000
_MAX_EVENTS_A_DAY = 200_000_000

Progress = Callable[[int, float], None]
"""Called with (events written, share of the period done)."""
_REACH_MS = real.VISIT_MAX_MINUTES * MINUTE_MS
_SURPLUS, _HEAVY, _DISORDER = 2_000_000, 3_000_000, 1_000_000  # sources of events and random numbers
_SURPLUS_NUMBERS = 1 << 55


@dataclass(frozen=True, slots=True)
class OutOfOrder:
    """Out-of-order arrival.

    Args:
        share: share of the events that are delayed, 0 to 1.
        max_seconds: greatest delay; delays are uniform.
    """

    share: float
    max_seconds: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigurationError(f"expected an out-of-order share of 0 to 1, got {self.share}; e.g. 0.05")
        if not 0 < self.max_seconds <= 86_400:  # noqa: PLR2004  a day
            raise ConfigurationError(f"expected an out-of-order delay of 0 to 86400 s, got {self.max_seconds}; e.g. 30")


class _Traffic:
    """The events of one synthesis.

    Args:
        world: genuine shoppers, and the period.
        injections: attacks, faults and surges.
        out_of_order: None keeps the order of event time.
        between: only the events of this time range; they are the same as in the whole period.
    """

    def __init__(
        self, world: World, injections: Sequence[Injection], out_of_order: OutOfOrder | None, between: TimeRange | None
    ) -> None:
        self._seed, self._injections, self._disorder = world.seed, injections, out_of_order
        self._base = intensity = world.intensity
        self._between = between or TimeRange(0, intensity.from_ms, intensity.until_ms)
        factor = np.ones(len(intensity.minutes_ms))
        for injection in injections:
            factor *= injection.surge(intensity.minutes_ms)
        # The usual visits are the same with and without a surge; additional visits are drawn separately.
        self.intensity = intensity.scale(factor)
        self._surplus = intensity.scale(factor - 1)
        self._surges = bool((factor > 1).any())
        self._shoppers = Shoppers(intensity, world.catalogue, world.population)
        self._guests = Shoppers(self._surplus, world.catalogue, world.population)
        self._biases = [bias for bias in (injection.bias() for injection in injections) if bias is not None]
        self._heavy = HeavyUsers(intensity, world.catalogue, world.population, world.seed)
        self.genuine = 0

    def residents(self) -> tuple[int, ...]:
        """User ids of the robots in the genuine traffic so far."""
        return self._heavy.residents()

    def batches(self) -> Iterator[tuple[EventBatch, float]]:
        """Events in order of arrival, with the share of the work done."""
        pending = EventBatch.empty()
        reach = self._between.from_ms - _REACH_MS
        slices = [
            span for span in self._base.slices() if span.until_ms > reach and span.from_ms < self._between.until_ms
        ]
        for number, span in enumerate(slices, 1):
            visits = self._shoppers.events(span, np.random.default_rng([self._seed, 0, span.number]))
            regulars = self._admit(self._heavy.events(span), _HEAVY, span)
            self._heavy.note(regulars)
            pending = EventBatch.concat([pending, self._admit(visits, 0, span), regulars])
            for part in self._parts(span):
                pending = EventBatch.concat([pending, *self._guest_visits(part), *self._attacks(part)])
                due, pending = pending.split(part.until_ms)
                if len(due):
                    yield due, number / len(slices)
        # Nothing happens after the end of the period, but what happened before may arrive late.
        late, _ = pending.split(np.iinfo(np.int64).max)
        yield late, 1.0

    def _parts(self, span: TimeRange) -> Iterator[TimeRange]:
        """The whole slice, or its minutes where events are added, so that a flood of any size fits into memory."""
        adding = (injection.window for injection in self._injections if len(injection.actors))
        surges = self._surges and self._surplus.expected(span).any()
        if not surges and all(span.clip(window.from_ms, window.until_ms).empty for window in adding):
            yield span
        else:
            yield from span.minutes()

    def _guest_visits(self, part: TimeRange) -> Iterator[EventBatch]:
        if self._surges and self._surplus.expected(part).any():
            minute = part.from_ms // MINUTE_MS
            rng = np.random.default_rng([self._seed, _SURPLUS, minute])
            # Visits have more than four events on average, so this many numbers, and a reserve, are enough.
            guest = int(self._surplus.before(part) / 4) + 32 * (minute - self._base.from_ms // MINUTE_MS)
            batch = self._guests.events(part, rng, self._biases, max(guest, 0))
            batch.number += _SURPLUS_NUMBERS + (minute << 28)
            yield self._admit(batch, _SURPLUS, part)

    def _attacks(self, part: TimeRange) -> Iterator[EventBatch]:
        if part.clip(self._between.from_ms, self._between.until_ms).empty:
            return
        minute = part.from_ms // MINUTE_MS
        for place, injection in enumerate(self._injections, 1):
            rng = np.random.default_rng([self._seed, place, minute])
            batch = injection.add(part, self.intensity, rng)
            batch.number = (place << 56) + (minute << 28) + np.arange(len(batch))
            yield self._admit(batch, place, part)

    def _admit(self, batch: EventBatch, source: int, part: TimeRange) -> EventBatch:
        """The events inside the time range, with their arrival, after all injections; `source` counts injections."""
        genuine = source == 0 or source >= _DISORDER
        first, last = self._base.from_ms, self._base.until_ms
        kept = _within(batch, first, last)
        if self._disorder is not None and len(kept):
            rng = np.random.default_rng([self._seed, _DISORDER + source, part.from_ms // MINUTE_MS])
            delay = rng.random(len(kept)) * self._disorder.max_seconds * 1000
            kept.arrival = kept.time + np.where(rng.random(len(kept)) < self._disorder.share, delay, 0).astype(np.int64)
        kept = _within(kept, self._between.from_ms, self._between.until_ms)
        for injection in self._injections:
            kept = injection.alter(kept, genuine=genuine)
        if genuine:
            self.genuine += len(kept)
        else:
            self._injections[source - 1].touch(kept.time)
        return kept


def _within(batch: EventBatch, from_ms: int, until_ms: int) -> EventBatch:
    inside = (batch.time >= from_ms) & (batch.time < until_ms)
    return batch if inside.all() else batch.take(inside)


@dataclass(frozen=True, slots=True)
class SynthesisSettings:
    """What to synthesise. The same settings give the same bytes, with the same numpy and kind of processor.

    Args:
        start: a midnight, UTC.
        days: number of days.
        events: expected genuine events of the whole period, without scenarios; None: 1.77 M a day, as the real shop.
        users: genuine users; None: twice the events of a day, as the real shop.
        products: size of the catalogue.
        seed: seed of all random numbers.
        out_of_order: None keeps the order of event time.
        tracker: adds event_id, ip, user_agent and url.
        scenarios: injected into the genuine traffic, in any order.
    """

    start: datetime = DEFAULT_START
    days: int = 1
    events: int | None = None
    users: int | None = None
    products: int = 166_794
    seed: int = 1
    out_of_order: OutOfOrder | None = None
    tracker: bool = False
    scenarios: tuple[Scenario, ...] = ()

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.start.astimezone(UTC).time() != datetime.min.time():
            raise ConfigurationError(f"expected a start at midnight UTC, got {self.start.isoformat()}; give a date")
        if not 1 <= self.days <= 3660:  # noqa: PLR2004  ten years
            raise ConfigurationError(f"expected 1 to 3660 days, got {self.days}; change --days")
        if not 1 <= self.expected_events <= _MAX_EVENTS_A_DAY * self.days:
            raise ConfigurationError(
                f"expected 1 to {_MAX_EVENTS_A_DAY:,} events a day, got {self.expected_events:,} in {self.days} days; "
                "change --events or --days"
            )
        if not _MIN_PRODUCTS <= self.products <= 5_000_000:  # noqa: PLR2004
            raise ConfigurationError(
                f"expected {_MIN_PRODUCTS:,} to 5,000,000 products, got {self.products:,}; change --products"
            )
        if self.seed < 0:
            raise ConfigurationError(f"expected a seed of 0 or more, got {self.seed}; change --seed")

    @property
    def expected_events(self) -> int:
        """Expected genuine events of the whole period."""
        return real.DAILY_EVENTS * self.days if self.events is None else self.events

    @property
    def expected_users(self) -> int:
        """Number of genuine users."""
        if self.users is not None:
            return self.users
        return min(max(int(self.expected_events / self.days * _USERS_PER_DAILY_EVENT), 100), 30_000_000)

    def world(self) -> World:
        """The shop that scenarios are drawn for and built into."""
        intensity = TrafficIntensity(self.start, self.days, self.expected_events, self.seed)
        catalogue = Catalogue.build(self.products, self.seed)
        return World(intensity, catalogue, Population(self.expected_users), self.seed)


@dataclass(frozen=True, slots=True)
class SynthesisSummary:
    """What was written.

    Args:
        path, truth_path: the files.
        events: number of events, with duplicates and attacks.
        genuine_events: number without attacks.
        first_time, last_time: earliest and latest event time; None without events.
        ground_truth: of each injection.
    """

    path: Path
    truth_path: Path
    events: int
    genuine_events: int
    first_time: datetime | None
    last_time: datetime | None
    ground_truth: tuple[GroundTruth, ...]


class Synthesis:
    """One run of the synthetic shop; `batches` or `write` may be called once.

    Args:
        settings: what to synthesise.
        between: only this time range, [from, until) by event time; its events are the same as in the whole period, and
            it costs no more than the range and the three hours before.

    Raises:
        ConfigurationError: the range or a scenario is outside of the period, or a parameter is out of range.
    """

    def __init__(self, settings: SynthesisSettings, between: tuple[datetime, datetime] | None = None) -> None:
        self._settings = settings
        world = settings.world()
        self._injections: list[Injection] = [scenario.build(world) for scenario in settings.scenarios]
        span = None if between is None else _time_range(world.intensity, *between)
        self._traffic = _Traffic(world, self._injections, settings.out_of_order, span)
        shown = world.catalogue.with_prices(world.reprices)
        self._renderer = Renderer(shown, self._injections, settings.seed, tracker=settings.tracker)
        self._started = False
        self._events = 0
        self._times: tuple[int, int] | None = None

    @property
    def expected_events(self) -> float:
        """Expected genuine events of the whole period, with surges."""
        return self._traffic.intensity.total()

    def batches(self, batch_events: int = _CHUNK) -> Iterator[pa.Table]:
        """Tables of at most that many events in order of arrival; columns of WIRE_SCHEMA, texts dictionary-encoded."""
        for batch, _ in self._batches():
            for first in range(0, len(batch), batch_events):
                yield self._renderer.table(batch.take(slice(first, first + batch_events)))

    def write(self, path: Path, progress: Progress | None = None) -> SynthesisSummary:
        """Write .csv, .csv.gz or .parquet, and the ground truth beside it; the file appears when it is complete.

        Raises:
            ConfigurationError: the suffix is unknown, or the folder is missing.
        """
        if not path.name.endswith(_SUFFIXES):
            raise ConfigurationError(
                f"expected a file name ending in {', '.join(_SUFFIXES)}, got {path.name}; rename it"
            )
        if not path.parent.is_dir():
            raise ConfigurationError(f"expected a folder {path.parent}, found none; create it")
        part = path.with_name(path.name + ".part")
        try:
            if path.suffix == ".parquet":
                self._write_parquet(part, progress)
            else:
                self._write_csv(part, progress, "gzip" if path.suffix == ".gz" else None)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        truth_path(path).write_text(json.dumps(self.truth(), indent=1) + "\n", encoding="utf-8")
        first, last = self._times or (None, None)
        return SynthesisSummary(
            path=path,
            truth_path=truth_path(path),
            events=self._events,
            genuine_events=self._traffic.genuine,
            first_time=None if first is None else datetime.fromtimestamp(first // 1000, UTC),
            last_time=None if last is None else datetime.fromtimestamp(last // 1000, UTC),
            ground_truth=self.ground_truth(),
        )

    def ground_truth(self) -> tuple[GroundTruth, ...]:
        """The ground truth of each injection; complete after the last event."""
        return tuple(truth for injection in self._injections for truth in injection.ground_truth())

    def residents(self) -> tuple[int, ...]:
        """User ids of the robots in the genuine traffic so far; see `HeavyUsers`."""
        return self._traffic.residents()

    def truth(self) -> dict[str, object]:
        """Content of the truth file beside the events."""
        settings = self._settings
        return {
            "version": 2,
            "seed": settings.seed,
            "from": settings.start.isoformat(),
            "until": (settings.start + timedelta(days=settings.days)).isoformat(),
            "events": self._events,
            "genuine_events": self._traffic.genuine,
            "residents": list(self.residents()),
            "injections": [_truth(truth) for truth in self.ground_truth()],
        }

    def _batches(self) -> Iterator[tuple[EventBatch, float]]:
        """Events in order of arrival, with the share of the work done."""
        if self._started:
            raise ConfigurationError(
                "expected one run per Synthesis, got a second; make a new one with the same settings"
            )
        self._started = True
        for batch, done in self._traffic.batches():
            self._events += len(batch)
            if len(batch):
                first, last = int(batch.time.min()), int(batch.time.max())
                known = self._times or (first, last)
                self._times = min(known[0], first), max(known[1], last)
            yield batch, done

    def _write_csv(self, path: Path, progress: Progress | None, compression: str | None) -> None:
        with pa.output_stream(path, compression=compression, buffer_size=1 << 20) as file:
            file.write((",".join(self._renderer.columns) + "\n").encode())
            for batch, done in self._batches():
                for first in range(0, len(batch), _CHUNK):
                    file.write(self._renderer.csv(batch.take(slice(first, first + _CHUNK))))
                if progress is not None:
                    progress(self._events, done)

    def _write_parquet(self, path: Path, progress: Progress | None) -> None:
        columns = list(self._renderer.columns)
        schema = self._renderer.table(EventBatch.empty()).select(columns).schema
        with pq.ParquetWriter(path, schema, compression="zstd") as file:
            for batch, done in _gather(self._batches(), _ROW_GROUP):
                file.write_table(self._renderer.table(batch).select(columns))
                if progress is not None:
                    progress(self._events, done)


def _gather(batches: Iterator[tuple[EventBatch, float]], least: int) -> Iterator[tuple[EventBatch, float]]:
    """The same events in batches of at least that many events, except for the last batch."""
    held: list[EventBatch] = []
    done = 0.0
    for batch, done in batches:
        held.append(batch)
        if sum(map(len, held)) >= least:
            yield EventBatch.concat(held), done
            held.clear()
    if held:
        yield EventBatch.concat(held), done


def _truth(truth: GroundTruth) -> dict[str, object]:
    return {
        "kind": truth.kind,
        "scenario": truth.scenario,
        "nature": str(truth.nature),
        "hostile": truth.hostile,
        "from": truth.from_time.isoformat(),
        "until": truth.until_time.isoformat(),
        "first": truth.first_time and truth.first_time.isoformat(),
        "key": dict(truth.key),
        "parameters": dict(truth.parameters),
        "events": truth.events,
        "actors": list(truth.actors),
    }


def _time_range(intensity: TrafficIntensity, begin: datetime, until: datetime) -> TimeRange:
    if begin.tzinfo is None or until.tzinfo is None:
        raise ConfigurationError(f"expected a time range with time zones, got {begin} to {until}; attach UTC")
    span = TimeRange(0, to_ms(begin), to_ms(until))
    if span.empty or not intensity.from_ms <= span.from_ms < span.until_ms <= intensity.until_ms:
        raise ConfigurationError(
            f"expected a time range inside the period {intensity.describe()}, got {begin:%Y-%m-%d %H:%M:%S} to "
            f"{until:%Y-%m-%d %H:%M:%S}; change it"
        )
    return span


def truth_path(path: Path) -> Path:
    """Path of the truth file of a synthetic file."""
    return path.with_name(path.name + ".truth.json")
