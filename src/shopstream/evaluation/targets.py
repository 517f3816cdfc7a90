"""The rows of the catalogue: which scenarios, what recall is counted over, and what is aimed at."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import lru_cache

from shopstream.detection.detection import Nature
from shopstream.evaluation.scoring import Unit
from shopstream.simulation.scenario_file import ScenarioFile, load_scenarios

__all__ = ["Row", "TimeUnit", "load_rows"]

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
    target = file.target
    within: float | None
    if target.events is not None:
        within, unit = float(target.events), TimeUnit.EVENTS
    elif target.before_factor is not None:
        within, unit = target.before_factor, TimeUnit.FACTOR
    else:
        within, unit = (None if target.within is None else target.within / 1000), TimeUnit.SECONDS
    one_by_one = file.hits == "actor" and file.kind in _ONE_BY_ONE
    return Row(
        id=file.id,
        title=file.id.replace("_", " "),
        unit=Unit.ACTOR if one_by_one else Unit.ATTACK,
        recall=target.recall,
        within=within,
        time_unit=unit,
        critical=target.critical or 0,
        informational=target.informational or 0,
        whole_day=min(int(length) for length in file.duration.extremes()) * _MS >= _WHOLE_DAY,
        file=file,
    )
