"""What is evaluated: shops by seed, the moments at which attacks begin, and which attack begins when.

A seed is one synthetic shop: its catalogue, its weeks, its chance. Days before the test days are history (baselines are
built from them), the last of these warms the engine's state up. Seeds for tuning and seeds for reporting are disjoint.

The rows of the catalogue: which scenarios, what recall is counted over, and what is aimed at.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache

import numpy as np

from shopstream.detection.detection import Nature
from shopstream.errors import ConfigurationError
from shopstream.evaluation.scoring import Unit
from shopstream.simulation.calibration import DAILY_EVENTS
from shopstream.simulation.scenario_file import ScenarioFile, load_scenarios

__all__ = [
    "REPORTING_SEEDS",
    "STRATA",
    "TUNING_SEEDS",
    "Row",
    "Shop",
    "TimeUnit",
    "load_rows",
    "seeds_of",
    "stratum_of",
]

REPORTING_SEEDS = range(1, 100)
"""Figures that are published come from these, and nobody looks at them while tuning."""
TUNING_SEEDS = range(1000, 1100)
"""Thresholds may be chosen on these."""

STRATA = ((0.5, 4), (4, 8), (8, 12), (14, 15), (16, 20), (20, 21.5))
"""Hours of the day (UTC, from, until) in which attacks begin, in turn: the night, the slopes, and the daily peak."""

_FIRST_TEST_DAY = datetime(2019, 11, 18, tzinfo=UTC)
_WEEK = 7
_SALT = 0xE7A1


@dataclass(frozen=True, slots=True)
class Shop:
    """One shop over history and test days.

    Args:
        seed: of all chance.
        days: test days.
        history_days: days before them; the last one also warms the state up.
        events_a_day: genuine events expected on each day.
        products: in its catalogue.
        tracker: events carry address and user agent.
    """

    seed: int
    days: int = 1
    history_days: int = 14
    events_a_day: int = DAILY_EVENTS
    products: int = 166_794
    tracker: bool = False

    def __post_init__(self) -> None:
        if self.days < 1 or self.history_days < 1:
            raise ConfigurationError(
                f"expected at least one test day and one day of history, got {self.days} and {self.history_days}"
            )

    @property
    def test_from(self) -> datetime:
        """Midnight, UTC; seeds take turns in the day of the week."""
        return _FIRST_TEST_DAY + timedelta(days=self.seed % _WEEK)

    @property
    def test_until(self) -> datetime:
        """End of the last test day."""
        return self.test_from + timedelta(days=self.days)

    @property
    def history_from(self) -> datetime:
        """Midnight, UTC."""
        return self.test_from - timedelta(days=self.history_days)

    @property
    def warm_from(self) -> datetime:
        """From here on the product sees events, so that what it remembers of a day is there when the test begins."""
        return self.test_from - timedelta(days=1)

    def moments(self) -> tuple[datetime, ...]:
        """One moment in each of STRATA, to the second; attacks begin there."""
        rng = np.random.default_rng([self.seed, _SALT])
        days = rng.integers(0, self.days, len(STRATA))
        hours = [rng.uniform(*stratum) for stratum in STRATA]
        return tuple(
            self.test_from + timedelta(days=int(day), seconds=round(hour * 3600))
            for day, hour in zip(days, hours, strict=True)
        )


def stratum_of(scenario: str, place: int, seed: int) -> int:
    """Which of STRATA an attack of this shop falls in: over six seeds a scenario meets all.

    Args:
        scenario: its id.
        place: which of the scenario's attacks in this shop.
        seed: the shop's.
    """
    return (zlib.crc32(scenario.encode()) + seed + place) % len(STRATA)


def seeds_of(count: int, *, tuning: bool) -> tuple[int, ...]:
    """The first seeds of the tuning or the reporting range.

    Raises:
        ConfigurationError: there are not so many.
    """
    among = TUNING_SEEDS if tuning else REPORTING_SEEDS
    if not 1 <= count <= len(among):
        raise ConfigurationError(f"expected 1 to {len(among)} seeds, got {count}; change --seeds")
    return tuple(among[:count])


_ONE_BY_ONE = frozenset({"scraper", "crawler", "hoarding"})
"""Kinds whose actors are to be found one by one; elsewhere an attack is one thing, however many take part."""
_WHOLE_DAY = timedelta(hours=12)
_MS = timedelta(milliseconds=1)


class TimeUnit(StrEnum):
    """What time to detect is counted in."""

    SECONDS = "s"
    EVENTS = "events"
    FACTOR = "factor"


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Args:
        id: of the scenario.
        title: a few words.
        unit: what recall is counted over.
        recall: the least share to be found; None for controls.
        within: the median time to detect, at most, in `time_unit`; None for controls.
        critical, informational: of a control, most incidents of those levels in one run; there are to be no others.
        whole_day: it lasts so long that it begins at midnight.
        file: draws its cases.
    """

    id: str
    title: str
    unit: Unit
    recall: float | None
    within: float | None
    time_unit: TimeUnit
    critical: int
    informational: int
    whole_day: bool
    file: ScenarioFile

    @property
    def control(self) -> bool:
        """It must be called neither attack nor fault."""
        return self.file.nature is Nature.SURGE

    @property
    def heavy(self) -> bool:
        """A day of several times the traffic."""
        return self.whole_day and self.control

    @property
    def work(self) -> int:
        """How long a run takes, in units of a short attack."""
        return 50 if self.heavy else 20 if self.whole_day else 1

    @staticmethod
    def factor_at(parameters: Mapping[str, object], progress: float) -> float:
        """Traffic against the genuine, when that share of a ramp's time has passed."""
        return 1 + (float(str(parameters["factor"])) - 1) * progress


@lru_cache(maxsize=1)
def load_rows() -> Mapping[str, Row]:
    """Scenario id → row: those that must be found first, then the controls.

    Raises:
        ConfigurationError: a scenario file is wrong.
    """
    rows = [_row(file) for file in load_scenarios().values()]
    return {row.id: row for row in sorted(rows, key=lambda row: (row.control, row.id))}


def _row(file: ScenarioFile) -> Row:
    goal = file.goal
    within: float | None
    if goal.events is not None:
        within, unit = float(goal.events), TimeUnit.EVENTS
    elif goal.before_factor is not None:
        within, unit = goal.before_factor, TimeUnit.FACTOR
    else:
        within, unit = (None if goal.within is None else goal.within / 1000), TimeUnit.SECONDS
    one_by_one = file.target == "actor" and file.kind in _ONE_BY_ONE
    return Row(
        id=file.id,
        title=file.id.replace("_", " "),
        unit=Unit.ACTOR if one_by_one else Unit.ATTACK,
        recall=goal.recall,
        within=within,
        time_unit=unit,
        critical=goal.critical or 0,
        informational=goal.informational or 0,
        whole_day=min(int(length) for length in file.duration.extremes()) * _MS >= _WHOLE_DAY,
        file=file,
    )
