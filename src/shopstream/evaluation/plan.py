"""What is evaluated: synthetic shops by seed, when attacks begin, and the scenarios with their goals.

A seed is one synthetic shop. The days before the test days are history, from which baselines are built; the last of
them warms up the engine's state. Seeds for tuning and seeds for reporting are disjoint.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np

from shopstream.clock import MILLISECOND
from shopstream.detection.detection import Nature
from shopstream.errors import ConfigurationError
from shopstream.evaluation.scoring import TimeUnit, Unit
from shopstream.simulation.calibration import DAILY_EVENTS
from shopstream.simulation.scenario_file import ScenarioFile, load_scenarios

REPORTING_SEEDS = range(1, 100)
"""Held-out seeds: published figures come from these only."""
TUNING_SEEDS = range(1000, 1100)
"""Thresholds are chosen on these only."""

STRATA = ((0.5, 4), (4, 8), (8, 12), (14, 15), (16, 20), (20, 21.5))
"""Hours of the day (UTC, from, until) in which attacks begin, in turn: night, slopes, and daily peak."""

_FIRST_TEST_DAY = datetime(2019, 11, 18, tzinfo=UTC)
_WEEK = 7
_SALT = 0xE7A1


@dataclass(frozen=True, slots=True)
class Shop:
    """One shop over history and test days.

    Args:
        seed: seed of all random numbers.
        days: test days.
        history_days: days before them; the last one is the warm-up.
        events_a_day: expected genuine events of a day.
        products: size of the catalogue.
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
        """Start of the warm-up, so that a day of state is there when the test begins."""
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
    """Index in STRATA for an attack: over six seeds a scenario meets all of them.

    Args:
        scenario: id of the scenario.
        place: number of the attack among those of the scenario in this shop.
        seed: seed of the shop.
    """
    return (zlib.crc32(scenario.encode()) + seed + place) % len(STRATA)


def seeds_of(count: int, *, tuning: bool) -> tuple[int, ...]:
    """The first seeds of the tuning or the reporting range.

    Raises:
        ConfigurationError: the range has fewer seeds.
    """
    among = TUNING_SEEDS if tuning else REPORTING_SEEDS
    if not 1 <= count <= len(among):
        raise ConfigurationError(f"expected 1 to {len(among)} seeds, got {count}; change --seeds")
    return tuple(among[:count])


_ONE_BY_ONE = frozenset({"scraper", "crawler", "hoarding"})
"""Kinds whose actors must be found one by one; other attacks count as one, however many actors take part."""
_WHOLE_DAY = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class EvaluatedScenario:
    """One scenario with its goal.

    Args:
        id, title: of the scenario.
        unit: what recall counts.
        recall: least recall; None for controls.
        within: greatest median time to detection, in `time_unit`; None for controls.
        critical, informational: of a control, greatest number of incidents of those levels in one run; others: none.
        whole_day: it lasts half a day or more, and begins at midnight.
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
        """Whether it must be called neither attack nor fault."""
        return self.file.nature is Nature.SURGE

    @property
    def heavy(self) -> bool:
        """Whether it is a day of several times the traffic."""
        return self.whole_day and self.control

    @property
    def work(self) -> int:
        """Duration of a run, in units of a short attack."""
        return 50 if self.heavy else 20 if self.whole_day else 1

    @staticmethod
    def factor_at(parameters: Mapping[str, object], progress: float) -> float:
        """Traffic relative to genuine traffic, when that share of a ramp has passed."""
        return 1 + (float(str(parameters["factor"])) - 1) * progress


@lru_cache(maxsize=1)
def evaluated_scenarios() -> Mapping[str, EvaluatedScenario]:
    """Scenario id → scenario: attacks and faults, then controls."""
    rows = [_row(file) for file in load_scenarios().values()]
    return {row.id: row for row in sorted(rows, key=lambda row: (row.control, row.id))}


def _row(file: ScenarioFile) -> EvaluatedScenario:
    goal = file.goal
    within: float | None
    if goal.events is not None:
        within, unit = float(goal.events), TimeUnit.EVENTS
    elif goal.before_factor is not None:
        within, unit = goal.before_factor, TimeUnit.FACTOR
    else:
        within, unit = (None if goal.within is None else goal.within / 1000), TimeUnit.SECONDS
    one_by_one = file.target == "actor" and file.kind in _ONE_BY_ONE
    return EvaluatedScenario(
        id=file.id,
        title=file.id.replace("_", " "),
        unit=Unit.ACTOR if one_by_one else Unit.ATTACK,
        recall=goal.recall,
        within=within,
        time_unit=unit,
        critical=goal.critical or 0,
        informational=goal.informational or 0,
        whole_day=min(int(length) for length in file.duration.extremes()) * MILLISECOND >= _WHOLE_DAY,
        file=file,
    )
