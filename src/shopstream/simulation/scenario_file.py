"""A scenario as data: what happens, from which figures one case is drawn, and what detection owes it.

`docs/scenarios.md` explains each word with an example.
"""

import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_type_hints

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from shopstream.clock import from_ms, to_ms
from shopstream.detection.detection import Nature
from shopstream.detection.duration import format_duration, parse_duration
from shopstream.errors import ConfigurationError
from shopstream.simulation.bots import Crawler, Crowd, Rotation, Scraper
from shopstream.simulation.faults import DuplicateStorm, Outage, PriceError, PurchaseCollapse
from shopstream.simulation.flood import Flood
from shopstream.simulation.fraud import Carding, Hoarding, Scalping
from shopstream.simulation.injection import Episode, Label, Overlay, Scenario, World
from shopstream.simulation.surges import FlashSale
from shopstream.simulation.target import SITE, Key, busy_keys
from shopstream.yaml_files import Document, YamlError, YamlFiles

__all__ = [
    "KINDS",
    "SCENARIO_FILES",
    "Domain",
    "DrawnScenario",
    "ScenarioFile",
    "Target",
    "load_scenarios",
    "shipped_scenarios",
]

_CLASSES = (
    *(Flood, Scraper, Crawler, Crowd, Rotation, Hoarding, Scalping, Carding),
    *(Outage, DuplicateStorm, PurchaseCollapse, PriceError, FlashSale),
)
KINDS: Mapping[str, Any] = {kind.KIND: kind for kind in _CLASSES}
"""Name in a file → class."""

_ID = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", re.ASCII)
_MAX_ID = 64
_NOT_PARAMETERS = frozenset({"start", "duration", "key"})
_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
_PEAK_SHARE, _PEAK_HOURS = 0.25, 3
_TRIES = 2_000

_SHAPES = {int: "a whole number", float: "a number"}

Scalar = int | float | str
Text = Annotated[str, Field(min_length=1, max_length=4_000)]
DurationMs = Annotated[int, BeforeValidator(parse_duration)]


class Domain(BaseModel):
    """Values that one is drawn from.

    Args:
        one_of: any of these, alike; a fixed value is one of one.
        between: from, to, both inclusive; whole numbers if both are.
        scale: linear, or log: each factor alike.
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
        """What has to fit for all to fit."""
        return self.between or self.one_of

    def draw(self, rng: np.random.Generator) -> Scalar:
        """One value."""
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
        """As people write it."""
        if self.between:
            low, high = (_shown(value, unit) for value in self.between)
            return f"{low} to {high}" + (" (log)" if self.scale == "log" else "")
        return " or ".join(_shown(value, unit) for value in self.one_of)


def _shown(value: Scalar, unit: str) -> str:
    return format_duration(int(value)) if unit == "ms" else str(value)


def _durations(value: object) -> object:
    """Texts such as 10m as milliseconds."""
    if isinstance(value, Mapping):
        return {
            word: [parse_duration(item) for item in part] if isinstance(part, list) else part
            for word, part in value.items()
        }
    return parse_duration(value)


def _check_id(name: str) -> str:
    if len(name) > _MAX_ID or not _ID.fullmatch(name):
        raise ValueError(f"expected lower-case words joined by _, at most {_MAX_ID} characters, got {name!r}")
    return name


class Target(BaseModel):
    """What detection owes a scenario.

    Args:
        recall: share of the cases that are found.
        within: median time from the first event to detection, ms.
        events: median number of events until detection.
        before_factor: half of the cases are found before the ramp reaches it.
        critical, informational: of a control, greatest number of incidents of those levels (the rest: none).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recall: Annotated[float | None, Field(gt=0, le=1)] = None
    within: DurationMs | None = None
    events: Annotated[int | None, Field(ge=1)] = None
    before_factor: Annotated[float | None, Field(gt=1)] = None
    critical: Annotated[int | None, Field(ge=0)] = None
    informational: Annotated[int | None, Field(ge=0)] = None

    def limit(self, episode: Episode) -> timedelta | None:
        """Median time to detect of such a case; None where events count."""
        if self.within is not None:
            return timedelta(milliseconds=self.within)
        if self.before_factor is not None:
            reached = (self.before_factor - 1) / (float(str(episode.parameters["factor"])) - 1)
            return (episode.until_time - episode.from_time) * min(reached, 1.0)
        return None

    def describe(self) -> str:
        """In a few words."""
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
        start, duration: when.
        key: what it hits: {} for the site (and for actors), else column → value as text.
        parameters: what was drawn, JSON-ready.
        inner: what does it.
    """

    file: "ScenarioFile"
    start: datetime
    duration: timedelta
    key: Mapping[str, str]
    parameters: Mapping[str, object]
    inner: Scenario

    def build(self, world: World) -> Overlay:
        """Its running part, which knows where it comes from."""
        overlay = self.inner.build(world)
        overlay.label = Label(self.file.id, self.parameters)
        return overlay


class ScenarioFile(BaseModel):
    """One scenario file.

    Args:
        id: name, the file's stem.
        title, description: what happens, and why the figures are what they are.
        nature: attack, fault or surge.
        tags: of OWASP's automated threats (oat-015) or ATT&CK (attack.t1498).
        kind: what does it; see KINDS.
        hits: site, event_type, category, product or actor.
        min_rate: genuine events per second that the key hit has at the start, at least.
        duration: ms.
        parameters: of the kind.
        target: what detection owes it.
        source, version: the file, and a digest of its content.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, AfterValidator(_check_id)]
    title: Text
    description: Text
    nature: Nature
    tags: tuple[Text, ...] = ()
    kind: str
    hits: Literal["site", "event_type", "category", "product", "actor"] = "site"
    min_rate: Annotated[float, Field(ge=0)] = 0.0
    duration: Annotated[Domain, BeforeValidator(_durations)]
    parameters: dict[str, Domain] = Field(default_factory=dict)
    target: Target
    source: str
    version: str

    @property
    def hostile(self) -> bool:
        """An attack."""
        return self.nature is Nature.ATTACK

    def chance(self, seed: int, number: int = 0) -> np.random.Generator:
        """Chance for the scenario's case of that number in a synthesis: no other scenario's, so that hours differ."""
        return np.random.default_rng([seed, 0xCA5E, zlib.crc32(self.id.encode()), number])

    def draw(
        self, rng: np.random.Generator, day_start: datetime, world: World, at: datetime | None = None
    ) -> DrawnScenario:
        """One case.

        It begins at a random moment of the day, such that it ends within the period: one in four in one of the three
        busiest hours, the others at any hour alike. What does not fit together (no key is busy enough at that hour, a
        crowd would take too long) is drawn again.

        Args:
            rng: all chance comes from here, e.g. `chance(seed)`.
            day_start: midnight, UTC, inside the period.
            world: what it will be built into: `SynthesisSettings.world()`.
            at: when it begins, instead.

        Raises:
            ConfigurationError: it fits at no hour of the day.
        """
        kind = KINDS[self.kind]
        lasts = getattr(kind, "lasts", None)
        for _ in range(_TRIES):
            values = {name: domain.draw(rng) for name, domain in self.parameters.items()}
            length_ms = int(self.duration.draw(rng))
            begin_ms = self._begin(rng, day_start, world, length_ms) if at is None else to_ms(at)
            if not world.calendar.from_ms <= begin_ms < world.calendar.until_ms:
                world.window(self.id, from_ms(begin_ms), timedelta(milliseconds=length_ms))
            rate = world.rate(SITE, begin_ms)
            if lasts is not None:
                length_ms = round(lasts(values, rate) / timedelta(milliseconds=1))
                shortest, longest = min(self.duration.extremes()), max(self.duration.extremes())
                if not (int(shortest) <= length_ms <= int(longest) and begin_ms + length_ms <= world.calendar.until_ms):
                    continue
            key = self._key(rng, world, rate)
            if key is None:
                continue
            return self._case(from_ms(begin_ms), timedelta(milliseconds=length_ms), key, values)
        when = "at any hour of the day" if at is None else f"at {at:%Y-%m-%d %H:%M}"
        raise ConfigurationError(
            f"expected scenario {self.id} to fit {when}, but no {self.hits} has {self.min_rate:g} events/s, or it "
            f"would not take {self.duration.describe('ms')}; make the shop busier, or take another time"
        )

    def _case(self, start: datetime, duration: timedelta, key: Key, values: Mapping[str, Scalar]) -> DrawnScenario:
        kind = KINDS[self.kind]
        given = {"key": key} if key.column else {}
        return DrawnScenario(
            file=self,
            start=start,
            duration=duration,
            key=key.text(),
            parameters={**values, "duration_s": duration.total_seconds()},
            inner=kind(start=start, duration=duration, **values, **given),
        )

    def _begin(self, rng: np.random.Generator, day_start: datetime, world: World, length_ms: int) -> int:
        first = to_ms(day_start)
        hours = first + _HOUR_MS * np.arange(24)
        inside = hours[(hours >= world.calendar.from_ms) & (hours < world.calendar.until_ms)]
        if not len(inside):
            world.window(self.id, day_start, timedelta(milliseconds=length_ms))
        if rng.random() < _PEAK_SHARE:
            busiest = inside[np.argsort(world.calendar.rate_at(inside + _HOUR_MS // 2))][-_PEAK_HOURS:]
            begin = int(rng.choice(busiest) + rng.integers(_HOUR_MS))
        else:
            begin = int(rng.choice(inside) + rng.integers(_HOUR_MS))
        latest = max(min(world.calendar.until_ms - length_ms, first + _DAY_MS - 1), first)
        return begin if begin <= latest else int(rng.integers(first, latest, endpoint=True))

    def _key(self, rng: np.random.Generator, world: World, rate: float) -> Key | None:
        """A key that is busy enough; None if there is none."""
        if self.hits == "actor":
            return SITE
        keys = busy_keys(world.catalogue, self.hits, self.min_rate / rate)
        if self.hits == "site" and rate < self.min_rate:
            return None
        return keys[int(rng.integers(len(keys)))] if keys else None

    def problems(self) -> list[tuple[tuple[str, ...], str]]:
        """What each part has to do with another: (place in the file, expected what, came what; do what)."""
        if self.kind not in KINDS:
            return [(("kind",), f"kind: expected one of {', '.join(sorted(KINDS))}, got {self.kind!r}; take one")]
        kind = KINDS[self.kind]
        found: list[tuple[tuple[str, ...], str]] = []
        if self.hits not in kind.HITS:
            found.append((("hits",), f"hits: expected {' or '.join(kind.HITS)} for {self.kind}, got {self.hits!r}"))
        known = {field.name: field for field in fields(kind) if field.name not in _NOT_PARAMETERS}
        needed = {name for name, field in known.items() if repr(field.default).startswith("<dataclasses._MISSING")}
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
        return found or [*self._target_problems(), *self._value_problems()]

    def _target_problems(self) -> list[tuple[tuple[str, ...], str]]:
        target = self.target
        timed = [target.within, target.events, target.before_factor]
        if self.nature is Nature.SURGE:
            good = target.critical is not None and target.informational is not None
            said = "expected critical and informational for a surge; write how many incidents it may have"
        else:
            good = target.recall is not None and sum(limit is not None for limit in timed) == 1
            said = f"expected recall and one of within, events, before_factor for {self.nature}; write both"
        if good and target.before_factor is not None and "factor" not in self.parameters:
            return [(("target",), "target: before_factor needs a parameter factor; use within")]
        return [] if good else [(("target",), f"target: {said}")]

    def _value_problems(self) -> list[tuple[tuple[str, ...], str]]:
        """Whether the kind takes the least, the greatest and each listed value of each parameter."""
        base = {name: domain.extremes()[0] for name, domain in self.parameters.items()}
        longest = timedelta(milliseconds=max(int(value) for value in self.duration.extremes()))
        found: dict[str, tuple[tuple[str, ...], str]] = {}  # by what is wrong: one figure may spoil each combination
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
    "kind": "say what does it, e.g. flood",
    "hits": "take site, event_type, category, product or actor",
    "min_rate": "write genuine events per second that the key has at least",
    "duration": "write e.g. 10m, or {between: [5m, 20m]}",
    "parameters": "write name: value, name: {one_of: [1, 200]} or name: {between: [1.5, 2.0], scale: log}",
    "target": "write e.g. {recall: 0.95, within: 5m}; of a surge {critical: 0, informational: 1}",
}


def shipped_scenarios() -> Traversable:
    """The folder of the scenarios that come with shopstream."""
    return files("shopstream.simulation") / "scenarios"


def load_scenarios(folder: Path | None = None) -> dict[str, ScenarioFile]:
    """The shipped scenarios, and those of a folder over them, by id in order.

    Raises:
        ConfigurationError: no such folder; or files that do not fit, one line each: `file:line: scenario id: problem`.
    """
    return SCENARIO_FILES.load(shipped_scenarios(), *([folder] if folder else []))


def _scenario(document: Document) -> ScenarioFile:
    scenario = document.validate(ScenarioFile, _REMEDIES, source=document.file, version=document.version)
    problems = [(document.line(place), text) for place, text in scenario.problems()]
    if problems:
        raise YamlError(*problems)
    return scenario


SCENARIO_FILES = YamlFiles("scenario", _scenario, "id: and title:")
"""Reads scenario files: YAML in, checked scenarios out."""
