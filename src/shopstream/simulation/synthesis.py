"""Synthetic traffic: genuine shoppers and what is laid over them, slice by slice, merged by time, with its truth."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shopstream.clock import to_ms
from shopstream.errors import ConfigurationError
from shopstream.simulation import calibration as real
from shopstream.simulation.catalogue import Catalogue
from shopstream.simulation.event_batch import Block
from shopstream.simulation.injection import Episode, Overlay, Scenario, World
from shopstream.simulation.intensity import Calendar, Span
from shopstream.simulation.render import Renderer
from shopstream.simulation.shoppers import Population
from shopstream.simulation.traffic import OutOfOrder, Traffic

__all__ = [
    "DEFAULT_START",
    "OutOfOrder",
    "Progress",
    "Synthesis",
    "SynthesisSettings",
    "SynthesisSummary",
    "truth_path",
]

DEFAULT_START = datetime(2019, 11, 5, tzinfo=UTC)
"""An ordinary Tuesday, so that the same command always gives the same file."""

_SUFFIXES = (".csv", ".csv.gz", ".parquet")
_CHUNK = 65_536
_ROW_GROUP = 131_072
_USERS_PER_DAILY_EVENT = 2.0  # a month of it gives 14 events and 3 sessions per user that came
_MIN_PRODUCTS = 1_000
_MAX_EVENTS_A_DAY = 200_000_000

Progress = Callable[[int, float], None]
"""Called with (events written, share of the period done)."""


@dataclass(frozen=True, slots=True)
class SynthesisSettings:
    """What to synthesise. The same settings give the same bytes (with the same numpy on the same kind of processor).

    Args:
        start: a midnight, UTC.
        days: whole days from there.
        events: genuine events expected in the whole period, before scenarios; None takes the real shop's 1.77 M a day.
        users: genuine users who may come; None takes twice the events of a day, as in the real shop.
        products: in the catalogue.
        seed: of all chance.
        out_of_order: arrival that differs from event time; None keeps the order.
        tracker: adds event_id, ip, user_agent and url.
        scenarios: laid over the genuine traffic, in any order.
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
        """Genuine events expected in the whole period."""
        return real.DAILY_EVENTS * self.days if self.events is None else self.events

    @property
    def expected_users(self) -> int:
        """Genuine users who may come."""
        if self.users is not None:
            return self.users
        return min(max(int(self.expected_events / self.days * _USERS_PER_DAILY_EVENT), 100), 30_000_000)

    def world(self) -> World:
        """What scenarios are drawn and built for: a calendar without surges, the catalogue, the shoppers."""
        calendar = Calendar(self.start, self.days, self.expected_events, self.seed)
        catalogue = Catalogue.build(self.products, self.seed)
        return World(calendar, catalogue, Population(self.expected_users), self.seed)


@dataclass(frozen=True, slots=True)
class SynthesisSummary:
    """What was written.

    Args:
        path, truth_path: the files.
        events: lines of the file, duplicates and attacks included.
        genuine_events: without attacks.
        first_time, last_time: smallest and greatest event time; None without events.
        episodes: the ground truth.
    """

    path: Path
    truth_path: Path
    events: int
    genuine_events: int
    first_time: datetime | None
    last_time: datetime | None
    episodes: tuple[Episode, ...]


class Synthesis:
    """One run of the synthetic shop; `batches` or `write` may be called once.

    Args:
        settings: what to make.
        between: make only that stretch, [from, until) by event time; each event there is exactly as in the whole, and
            making it costs no more than the stretch and three hours before it.

    Raises:
        ConfigurationError: the stretch or a scenario lies outside of the period, or a figure does not fit.
    """

    def __init__(self, settings: SynthesisSettings, between: tuple[datetime, datetime] | None = None) -> None:
        self._settings = settings
        world = settings.world()
        self._overlays: list[Overlay] = [scenario.build(world) for scenario in settings.scenarios]
        stretch = None if between is None else _stretch(world.calendar, *between)
        self._traffic = Traffic(world, self._overlays, settings.out_of_order, stretch)
        shown = world.catalogue.with_prices(world.reprices)
        self._renderer = Renderer(shown, self._overlays, settings.seed, tracker=settings.tracker)
        self._started = False
        self._events = 0
        self._times: tuple[int, int] | None = None

    @property
    def expected_events(self) -> float:
        """Genuine events of the whole period, surges included."""
        return self._traffic.calendar.total()

    def batches(self, batch_events: int = _CHUNK) -> Iterator[pa.Table]:
        """Tables of at most that many events in order of arrival; columns of WIRE_SCHEMA, texts dictionary-encoded."""
        for block, _ in self._blocks():
            for first in range(0, len(block), batch_events):
                yield self._renderer.table(block.take(slice(first, first + batch_events)))

    def write(self, path: Path, progress: Progress | None = None) -> SynthesisSummary:
        """Writes .csv, .csv.gz or .parquet and the truth beside it; the file appears when it is complete.

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
            episodes=self.episodes(),
        )

    def episodes(self) -> tuple[Episode, ...]:
        """Ground truth of each scenario; complete after the last event."""
        return tuple(episode for overlay in self._overlays for episode in overlay.episodes())

    def residents(self) -> tuple[int, ...]:
        """User ids of the robots that are part of the genuine traffic, as far as it was made; see `heavy_users`."""
        return self._traffic.residents()

    def truth(self) -> dict[str, object]:
        """Ground truth as it stands in the file beside the events."""
        settings = self._settings
        return {
            "version": 2,
            "seed": settings.seed,
            "from": settings.start.isoformat(),
            "until": (settings.start + timedelta(days=settings.days)).isoformat(),
            "events": self._events,
            "genuine_events": self._traffic.genuine,
            "residents": list(self.residents()),
            "episodes": [_truth(episode) for episode in self.episodes()],
        }

    def _blocks(self) -> Iterator[tuple[Block, float]]:
        """Events in order of arrival, a slice at a time, with the share of the work done."""
        if self._started:
            raise ConfigurationError(
                "expected one run per Synthesis, got a second; make a new one with the same settings"
            )
        self._started = True
        for block, done in self._traffic.blocks():
            self._events += len(block)
            if len(block):
                first, last = int(block.time.min()), int(block.time.max())
                known = self._times or (first, last)
                self._times = min(known[0], first), max(known[1], last)
            yield block, done

    def _write_csv(self, path: Path, progress: Progress | None, compression: str | None) -> None:
        with pa.output_stream(path, compression=compression, buffer_size=1 << 20) as file:
            file.write((",".join(self._renderer.columns) + "\n").encode())
            for block, done in self._blocks():
                for first in range(0, len(block), _CHUNK):
                    file.write(self._renderer.csv(block.take(slice(first, first + _CHUNK))))
                if progress is not None:
                    progress(self._events, done)

    def _write_parquet(self, path: Path, progress: Progress | None) -> None:
        columns = list(self._renderer.columns)
        schema = self._renderer.table(Block.empty()).select(columns).schema
        with pq.ParquetWriter(path, schema, compression="zstd") as file:
            for block, done in _gather(self._blocks(), _ROW_GROUP):
                file.write_table(self._renderer.table(block).select(columns))
                if progress is not None:
                    progress(self._events, done)


def _gather(blocks: Iterator[tuple[Block, float]], least: int) -> Iterator[tuple[Block, float]]:
    """Fewer, larger blocks: of at least that many events, except for the last."""
    held: list[Block] = []
    done = 0.0
    for block, done in blocks:
        held.append(block)
        if sum(map(len, held)) >= least:
            yield Block.concat(held), done
            held.clear()
    if held:
        yield Block.concat(held), done


def _truth(episode: Episode) -> dict[str, object]:
    return {
        "kind": episode.kind,
        "scenario": episode.scenario,
        "nature": str(episode.nature),
        "hostile": episode.hostile,
        "from": episode.from_time.isoformat(),
        "until": episode.until_time.isoformat(),
        "first": episode.first_time and episode.first_time.isoformat(),
        "key": dict(episode.key),
        "parameters": dict(episode.parameters),
        "events": episode.events,
        "actors": list(episode.actors),
    }


def _stretch(calendar: Calendar, begin: datetime, until: datetime) -> Span:
    if begin.tzinfo is None or until.tzinfo is None:
        raise ConfigurationError(f"expected a stretch with time zones, got {begin} to {until}; attach UTC")
    span = Span(0, to_ms(begin), to_ms(until))
    if span.empty or not calendar.from_ms <= span.from_ms < span.until_ms <= calendar.until_ms:
        raise ConfigurationError(
            f"expected a stretch inside the period {calendar.describe()}, got {begin:%Y-%m-%d %H:%M:%S} to "
            f"{until:%Y-%m-%d %H:%M:%S}; change it"
        )
    return span


def truth_path(path: Path) -> Path:
    """Where the ground truth of a synthetic file lies."""
    return path.with_name(path.name + ".truth.json")
