"""Scenarios as data: what happens, from which ranges a case is drawn, and what detection must achieve.

`docs/scenarios.md` explains each field with an example.
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import datetime, timedelta
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_type_hints

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from shopstream.clock import DAY_MS, HOUR_MS, format_duration, from_ms, parse_duration, to_ms
from shopstream.detection.detection import Nature
from shopstream.errors import ConfigurationError
from shopstream.simulation.attacks import Carding, Crawler, Crowd, Flood, Hoarding, Rotation, Scalping, Scraper
from shopstream.simulation.faults_and_surges import DuplicateStorm, FlashSale, Outage, PriceError, PurchaseCollapse
from shopstream.simulation.injection import SITE, GroundTruth, Injection, Scenario, Target, World, busy_targets
from shopstream.yaml_files import Document, Identifier, Text, YamlError, YamlFiles

_CLASSES = (
    *(Flood, Scraper, Crawler, Crowd, Rotation, Hoarding, Scalping, Carding),
    *(Outage, DuplicateStorm, PurchaseCollapse, PriceError, FlashSale),
)
KINDS: Mapping[str, Any] = {kind.KIND: kind for kind in _CLASSES}
"""Name in scenario files → class."""

_NOT_PARAMETERS = frozenset({"start", "duration", "target"})
_PEAK_SHARE, _PEAK_HOURS = 0.25, 3
_TRIES = 2_000

_SHAPES = {int: "a whole number", float: "a number"}

Scalar = int | float | str
DurationMs = Annotated[int, BeforeValidator(parse_duration)]


class Domain(BaseModel):
    """Values that a parameter is drawn from.

    Args:
        one_of: any of these, with equal chance; a fixed value is a list of one.
        between: (from, to), inclusive; whole numbers if both ends are.
        scale: uniform on a linear or logarithmic scale.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    one_of: tuple[Scalar, ...] = ()
    between: tuple[int | float, int | float] | None = None
    scale: Literal["linear", "log"] = "linear"

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        if isinstance(value, bool) or value is None:
            raise ValueError(f"expected a number, a text, or {{one_of: […]}} or {{between: [from, to]}}, got {value!r}")
        if not isinstance(value, Mapping):
            return {"one_of": (value,)}
        return {word: tuple(part) if isinstance(part, list) else part for word, part in value.items()}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if bool(self.one_of) == bool(self.between):
            raise ValueError("expected either one_of with values, or between")
        if any(isinstance(value, bool) or value != value for value in self.extremes()):  # noqa: PLR0124  not a number
            raise ValueError(f"expected numbers or texts, got {list(self.extremes())}")
        if self.between and not -math.inf < self.between[0] < self.between[1] < math.inf:
            raise ValueError(f"expected between: [smaller, greater], got {list(self.between)}")
        if self.scale == "log" and not (self.between and self.between[0] > 0):
            raise ValueError("expected between: [from above 0, to] for scale: log")
        return self

    def extremes(self) -> tuple[Scalar, ...]:
        """The values to check: if they are valid, all are."""
        return self.between or self.one_of

    def draw(self, rng: np.random.Generator) -> Scalar:
        """A random value."""
        if self.between is None:
            return self.one_of[int(rng.integers(len(self.one_of)))]
        low, high = self.between
        if self.scale == "log":
            value = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        else:
            value = float(rng.uniform(low, high))
        if isinstance(low, int) and isinstance(high, int):
            return round(value) if self.scale == "log" else int(rng.integers(low, high, endpoint=True))
        return float(f"{value:.4g}")

    def describe(self, unit: str = "") -> str:
        """The values as text."""
        if self.between:
            low, high = (_shown(value, unit) for value in self.between)
            return f"{low} to {high}" + (" (log)" if self.scale == "log" else "")
        return " or ".join(_shown(value, unit) for value in self.one_of)


def _shown(value: Scalar, unit: str) -> str:
    return format_duration(int(value)) if unit == "ms" else str(value)


def _durations(value: object) -> object:
    """Durations such as 10m as milliseconds."""
    if isinstance(value, Mapping):
        return {
            word: [parse_duration(item) for item in part] if isinstance(part, list) else part
            for word, part in value.items()
        }
    return parse_duration(value)


class DetectionGoal(BaseModel):
    """What detection must achieve.

    Args:
        recall: least share of the cases that are detected.
        within: greatest median time from the first event to detection, ms.
        events: greatest median number of events until detection.
        before_factor: half of the cases are detected before the ramp reaches this factor.
        critical, informational: of a surge, greatest number of incidents of those levels; no others are allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recall: Annotated[float | None, Field(gt=0, le=1)] = None
    within: DurationMs | None = None
    events: Annotated[int | None, Field(ge=1)] = None
    before_factor: Annotated[float | None, Field(gt=1)] = None
    critical: Annotated[int | None, Field(ge=0)] = None
    informational: Annotated[int | None, Field(ge=0)] = None

    def limit(self, truth: GroundTruth) -> timedelta | None:
        """Greatest median time to detection of such a case; None where events count."""
        if self.within is not None:
            return timedelta(milliseconds=self.within)
        if self.before_factor is not None:
            reached = (self.before_factor - 1) / (float(str(truth.parameters["factor"])) - 1)
            return (truth.until_time - truth.from_time) * min(reached, 1.0)
        return None

    def describe(self) -> str:
        """The goal as text."""
        parts: list[str] = []
        if self.recall is not None:
            parts.append(f"recall ≥ {self.recall:g}")
        if self.within is not None:
            parts.append(f"≤ {format_duration(self.within)}")
        if self.events is not None:
            parts.append(f"≤ {self.events} {'event' if self.events == 1 else 'events'}")
        if self.before_factor is not None:
            parts.append(f"before factor {self.before_factor:g}")
        if self.critical is not None:
            parts.append(f"{self.critical} critical, ≤ {self.informational} informational")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class DrawnScenario:
    """One case of a scenario file; a `Scenario` for `SynthesisSettings`.

    Args:
        file: where it comes from.
        start, duration: when it happens.
        key: see `Target.key`; {} for actors.
        parameters: values that were drawn, JSON-ready.
        inner: the scenario with these values.
    """

    file: "ScenarioFile"
    start: datetime
    duration: timedelta
    key: Mapping[str, str]
    parameters: Mapping[str, object]
    inner: Scenario

    def build(self, world: World) -> Injection:
        """Its running part, with scenario and parameters for the ground truth."""
        injection = self.inner.build(world)
        injection.scenario, injection.parameters = self.file.id, self.parameters
        return injection


class ScenarioFile(BaseModel):
    """One scenario file.

    Args:
        id: name, the file's stem.
        title, description: what happens, and why the values are what they are.
        nature: attack, fault or surge.
        tags: OWASP automated threats (oat-015) or ATT&CK (attack.t1498).
        kind: see KINDS.
        target: site, event_type, category, product or actor.
        min_rate: least genuine events per second of the target at the start.
        duration: ms.
        parameters: parameters of the kind.
        goal: what detection must achieve.
        source, version: the file, and a digest of its content.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Identifier
    title: Text
    description: Text
    nature: Nature
    tags: tuple[Text, ...] = ()
    kind: str
    target: Literal["site", "event_type", "category", "product", "actor"] = "site"
    min_rate: Annotated[float, Field(ge=0)] = 0.0
    duration: Annotated[Domain, BeforeValidator(_durations)]
    parameters: dict[str, Domain] = Field(default_factory=dict)
    goal: DetectionGoal
    source: str
    version: str

    @property
    def hostile(self) -> bool:
        """Whether it is an attack."""
        return self.nature is Nature.ATTACK

    def chance(self, seed: int, number: int = 0) -> np.random.Generator:
        """Random numbers for one case of this scenario in a synthesis."""
        return np.random.default_rng([seed, 0xCA5E, zlib.crc32(self.id.encode()), number])

    def draw(
        self, rng: np.random.Generator, day_start: datetime, world: World, at: datetime | None = None
    ) -> DrawnScenario:
        """Draw one case.

        It begins at a random moment of the day and ends within the period: one case in four in one of the three
        busiest hours, the others at any hour. Impossible cases (no target is busy enough at that hour, a crowd would
        take too long) are drawn again.

        Args:
            rng: random numbers, e.g. `chance(seed)`.
            day_start: midnight, UTC, inside the period.
            world: the shop that it will be built into: `SynthesisSettings.world()`.
            at: fixed start; None draws one.

        Raises:
            ConfigurationError: no possible case was found.
        """
        kind = KINDS[self.kind]
        lasts = getattr(kind, "lasts", None)
        for _ in range(_TRIES):
            values = {name: domain.draw(rng) for name, domain in self.parameters.items()}
            length_ms = int(self.duration.draw(rng))
            begin_ms = self._begin(rng, day_start, world, length_ms) if at is None else to_ms(at)
            if not world.intensity.from_ms <= begin_ms < world.intensity.until_ms:
                world.window(self.id, from_ms(begin_ms), timedelta(milliseconds=length_ms))
            rate = world.rate(SITE, begin_ms)
            if lasts is not None:
                length_ms = round(lasts(values, rate) / timedelta(milliseconds=1))
                shortest, longest = min(self.duration.extremes()), max(self.duration.extremes())
                if not (
                    int(shortest) <= length_ms <= int(longest) and begin_ms + length_ms <= world.intensity.until_ms
                ):
                    continue
            target = self._busy_target(rng, world, rate)
            if target is None:
                continue
            return self._case(from_ms(begin_ms), timedelta(milliseconds=length_ms), target, values)
        when = "at any hour of the day" if at is None else f"at {at:%Y-%m-%d %H:%M}"
        raise ConfigurationError(
            f"expected scenario {self.id} to fit {when}, but no {self.target} has {self.min_rate:g} events/s, or it "
            f"would not take {self.duration.describe('ms')}; make the shop busier, or take another time"
        )

    def _case(
        self, start: datetime, duration: timedelta, target: Target, values: Mapping[str, Scalar]
    ) -> DrawnScenario:
        kind = KINDS[self.kind]
        given = {"target": target} if target.column else {}
        return DrawnScenario(
            file=self,
            start=start,
            duration=duration,
            key=target.key(),
            parameters={**values, "duration_s": duration.total_seconds()},
            inner=kind(start=start, duration=duration, **values, **given),
        )

    def _begin(self, rng: np.random.Generator, day_start: datetime, world: World, length_ms: int) -> int:
        first = to_ms(day_start)
        hours = first + HOUR_MS * np.arange(24)
        inside = hours[(hours >= world.intensity.from_ms) & (hours < world.intensity.until_ms)]
        if not len(inside):
            world.window(self.id, day_start, timedelta(milliseconds=length_ms))
        if rng.random() < _PEAK_SHARE:
            busiest = inside[np.argsort(world.intensity.rate_at(inside + HOUR_MS // 2))][-_PEAK_HOURS:]
            begin = int(rng.choice(busiest) + rng.integers(HOUR_MS))
        else:
            begin = int(rng.choice(inside) + rng.integers(HOUR_MS))
        latest = max(min(world.intensity.until_ms - length_ms, first + DAY_MS - 1), first)
        return begin if begin <= latest else int(rng.integers(first, latest, endpoint=True))

    def _busy_target(self, rng: np.random.Generator, world: World, rate: float) -> Target | None:
        """A target that is busy enough; None if there is none."""
        if self.target == "actor":
            return SITE
        targets = busy_targets(world.catalogue, self.target, self.min_rate / rate)
        if self.target == "site" and rate < self.min_rate:
            return None
        return targets[int(rng.integers(len(targets)))] if targets else None

    def problems(self) -> list[tuple[tuple[str, ...], str]]:
        """(place, problem) pairs of fields that do not fit together."""
        if self.kind not in KINDS:
            return [(("kind",), f"kind: expected one of {', '.join(sorted(KINDS))}, got {self.kind!r}; take one")]
        kind = KINDS[self.kind]
        found: list[tuple[tuple[str, ...], str]] = []
        if self.target not in kind.TARGETS:
            found.append(
                (("target",), f"target: expected {' or '.join(kind.TARGETS)} for {self.kind}, got {self.target!r}")
            )
        known = {field.name: field for field in fields(kind) if field.name not in _NOT_PARAMETERS}
        needed = {name for name, field in known.items() if field.default is MISSING}
        types = get_type_hints(kind)
        for name, domain in self.parameters.items():
            if name not in known:
                names = ", ".join(known)
                found.append((("parameters", name), f"parameters: {self.kind} has no {name!r}; it has {names}"))
                continue
            wanted = (int,) if types[name] is int else (int, float) if types[name] is float else (str,)
            for value in domain.extremes():
                if not isinstance(value, wanted):
                    shape = _SHAPES.get(types[name], "a text")
                    found.append((("parameters", name), f"{name}: expected {shape}, got {value!r}; change it"))
        missing = sorted(needed - self.parameters.keys())
        if missing:
            found.append((("parameters",), f"parameters: {self.kind} needs {', '.join(missing)}; add what is missing"))
        return found or [*self._goal_problems(), *self._value_problems()]

    def _goal_problems(self) -> list[tuple[tuple[str, ...], str]]:
        goal = self.goal
        timed = [goal.within, goal.events, goal.before_factor]
        if self.nature is Nature.SURGE:
            good = goal.critical is not None and goal.informational is not None
            said = "expected critical and informational for a surge; write how many incidents it may have"
        else:
            good = goal.recall is not None and sum(limit is not None for limit in timed) == 1
            said = f"expected recall and one of within, events, before_factor for {self.nature}; write both"
        if good and goal.before_factor is not None and "factor" not in self.parameters:
            return [(("goal",), "goal: before_factor needs a parameter factor; use within")]
        return [] if good else [(("goal",), f"goal: {said}")]

    def _value_problems(self) -> list[tuple[tuple[str, ...], str]]:
        """Values that the kind does not accept, among the extremes of each parameter."""
        base = {name: domain.extremes()[0] for name, domain in self.parameters.items()}
        longest = timedelta(milliseconds=max(int(value) for value in self.duration.extremes()))
        found: dict[str, tuple[tuple[str, ...], str]] = {}  # by message: one value may fail in each combination
        for name, domain in self.parameters.items():
            for value in domain.extremes():
                kind = KINDS[self.kind]
                try:
                    kind(start=from_ms(0), duration=longest, **{**base, name: value}).check()
                except ConfigurationError as error:
                    found.setdefault(str(error), (("parameters", name), f"{name}: {error}"))
        return list(found.values())


_REMEDIES = {
    "id": "name it like the file, without .yml",
    "title": "say in one line what happens",
    "description": "say who does what, and why the figures are what they are",
    "nature": "take attack, fault or surge",
    "tags": "write a list, e.g. [oat-015]",
    "kind": "name a kind, e.g. flood",
    "target": "take site, event_type, category, product or actor",
    "min_rate": "write the least genuine events per second of the target",
    "duration": "write e.g. 10m, or {between: [5m, 20m]}",
    "parameters": "write name: value, name: {one_of: [1, 200]} or name: {between: [1.5, 2.0], scale: log}",
    "goal": "write e.g. {recall: 0.95, within: 5m}; of a surge {critical: 0, informational: 1}",
}


def shipped_scenarios() -> Traversable:
    """The folder of the scenarios that come with shopstream."""
    return files("shopstream.simulation") / "scenarios"


def load_scenarios(folder: Path | None = None) -> dict[str, ScenarioFile]:
    """The shipped scenarios, and those of a folder over them, by id in order.

    Raises:
        ConfigurationError: no such folder; or files that do not fit, one line each: `file:line: scenario id: problem`.
    """
    return SCENARIO_FILES.load(shipped_scenarios(), folder)


def _scenario(document: Document) -> ScenarioFile:
    scenario = document.validate(ScenarioFile, _REMEDIES, source=document.file, version=document.version)
    problems = [(document.line(place), text) for place, text in scenario.problems()]
    if problems:
        raise YamlError(*problems)
    return scenario


SCENARIO_FILES = YamlFiles("scenario", _scenario, "id: and title:")
"""Reads scenario files: YAML in, checked scenarios out."""
