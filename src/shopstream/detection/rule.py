"""Rules: what counts as suspicious, as YAML.

Rules use Sigma's fields where Sigma has them; `key`, `window`, `filter`, `measures`, `condition`, `suppress_for`,
`verdict` and `incident_title` are shopstream's. `docs/rules.md` explains each with an example.
"""

import re
from enum import StrEnum
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from shopstream.clock import parse_duration
from shopstream.detection.detection import Severity
from shopstream.detection.expression import check_condition, check_filter, check_measure
from shopstream.detection.wording import ACTORS, TITLE_FIELD
from shopstream.engine.derived_columns import COLUMNS
from shopstream.engine.window import WindowDeclaration, WindowKind
from shopstream.errors import RuleError
from shopstream.yaml_files import Document, Identifier, Text, YamlError, YamlFiles

MEASURE_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_NOT_KEYS = frozenset({"event_time", "event_id", "price", "gap_ms", "previous_gap_ms"})

DurationMs = Annotated[int, BeforeValidator(parse_duration)]


class RuleStatus(StrEnum):
    """How mature a rule is, in Sigma's terms; the last two disable it."""

    STABLE = "stable"
    TEST = "test"
    EXPERIMENTAL = "experimental"
    DEPRECATED = "deprecated"
    UNSUPPORTED = "unsupported"


class Window(BaseModel):
    """The window of a rule; see `WindowDeclaration` for its exact borders."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: WindowKind = WindowKind.SLIDING
    size: DurationMs = 0
    slide: DurationMs = 0
    gap: DurationMs = 0


def _check_key(columns: tuple[str, ...]) -> tuple[str, ...]:
    known = COLUMNS - _NOT_KEYS
    for column in columns:
        if column not in known:
            raise ValueError(f"expected columns among {', '.join(sorted(known))}, got {column!r}")
    if len(set(columns)) != len(columns):
        raise ValueError(f"expected each column once, got {', '.join(columns)}")
    return columns


def _check_measure_name(name: str) -> str:
    if not MEASURE_NAME.fullmatch(name) or name in COLUMNS:
        raise ValueError(f"{name!r} cannot name a measure; take lower-case letters, digits and _, no column's name")
    return name


MeasureName = Annotated[str, AfterValidator(_check_measure_name)]
Measure = Annotated[Text, AfterValidator(check_measure)]


class Rule(BaseModel):
    """One rule, with checked fields and normalised expressions.

    `version` is a digest of the file's bytes, `source` its path.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    id: Identifier
    title: Annotated[str, Field(min_length=1, max_length=120)]
    status: RuleStatus = RuleStatus.EXPERIMENTAL
    description: Text
    level: Severity
    tags: tuple[Text, ...] = ()
    falsepositives: Annotated[tuple[Text, ...], Field(min_length=1)]
    references: tuple[Text, ...] = ()
    key: Annotated[tuple[str, ...], AfterValidator(_check_key)]
    window: Window
    filter: Annotated[Text, AfterValidator(check_filter)] | None = None
    measures: Annotated[
        dict[MeasureName, Measure], Field(min_length=1, max_length=32), AfterValidator(MappingProxyType)
    ]
    condition: Text
    suppress_for: DurationMs
    verdict: Literal["bot", "human", "unknown"] | None = None
    incident_title: Annotated[str, Field(min_length=1, max_length=120)] | None = None
    version: str
    source: str

    @field_validator("condition")
    @classmethod
    def _check_condition(cls, condition: str, info: ValidationInfo) -> str:
        """Invalid measures are reported on their own; the condition cannot be checked then."""
        measures = info.data.get("measures")
        return condition if measures is None else check_condition(condition, measures)

    @field_validator("incident_title")
    @classmethod
    def _check_incident_title(cls, title: str | None, info: ValidationInfo) -> str | None:
        known = {"who", *info.data.get("measures", ()), *(set(info.data.get("key", ())) - ACTORS.keys())}
        if "measures" in info.data and (unknown := set(TITLE_FIELD.findall(title or "")) - known):
            raise ValueError(f"expected fields among {', '.join(sorted(known))}, got {', '.join(sorted(unknown))}")
        return title

    @property
    def headline(self) -> str:
        """What an incident is called; see `wording.fill_title`."""
        return self.incident_title or self.title

    @property
    def enabled(self) -> bool:
        """Whether it runs; deprecated and unsupported rules are only listed."""
        return self.status not in {RuleStatus.DEPRECATED, RuleStatus.UNSUPPORTED}

    @property
    def key_kind(self) -> str:
        """`site`, or the key columns joined by `+`."""
        return "+".join(self.key) or "site"

    def window_declaration(self) -> WindowDeclaration:
        """The window that the engine computes.

        Raises:
            RuleError: the window's parts do not fit together.
        """
        return WindowDeclaration(
            name=self.id,
            kind=self.window.kind,
            key=self.key,
            measures=self.measures,
            size_ms=self.window.size,
            slide_ms=self.window.slide,
            gap_ms=self.window.gap,
            filter=self.filter,
            condition=self.condition,
        )


_REMEDIES = {
    "id": "name it like the file, without .yml",
    "title": "write in one line what the rule finds",
    "status": "take stable, test or experimental; deprecated or unsupported disables a rule",
    "description": "write what the rule looks at, and where its numbers come from",
    "level": "take informational, low, medium, high or critical",
    "tags": "write a list, e.g. [attack.t1498]",
    "falsepositives": "name at least one plausible cause of a false alarm",
    "references": "write a list of addresses",
    "key": "list columns, e.g. [user_id]; an empty list [] means the whole site",
    "window": "write e.g. {kind: sliding, size: 10s, slide: 1s}, or {kind: session, gap: 30m}",
    "filter": "write a condition on one event, e.g. event_type = 'cart'",
    "measures": "write name: aggregate, e.g. events: count(*)",
    "condition": "compare measures, e.g. events > 15",
    "suppress_for": "write the quiet time after which an incident closes, e.g. 5m",
    "verdict": "take bot, human or unknown, or leave it out",
    "incident_title": "write what happened, e.g. '{who} sent {events} events in 10 seconds'",
}


def shipped_rules() -> Traversable:
    """The folder of the shipped rules."""
    return files("shopstream.detection") / "rules"


def load_rules(rules_path: Path | None = None, *, planned: bool = True) -> dict[str, Rule]:
    """The shipped rules, by id in order; rules of the folder replace those with the same id.

    Args:
        rules_path: folder of your own rules.
        planned: also let DuckDB check the types, which takes longer than all else.

    Raises:
        ConfigurationError: no such folder.
        RuleError: invalid rules, one line each: `file:line: rule id: problem; remedy`.
    """
    files = RULE_FILES if planned else _UNPLANNED_FILES
    return files.load(shipped_rules(), *([rules_path] if rules_path else []))


def _validated(document: Document) -> Rule:
    return document.validate(Rule, _REMEDIES, source=document.file, version=document.version)


def _planned(document: Document) -> Rule:
    from shopstream.detection.rule_plan import type_problem  # noqa: PLC0415  a list of rules needs no DuckDB

    rule = _validated(document)
    try:
        problem = type_problem(rule)
    except RuleError as error:
        raise YamlError((document.line(("window",)), f"window: {error}; {_REMEDIES['window']}")) from error
    if problem:
        text = f"the types do not match: {problem}; compare values of the same type"
        raise YamlError((document.line(("measures",)), text))
    return rule


_UNPLANNED_FILES = YamlFiles("rule", _validated, "id: and title:", RuleError)
RULE_FILES = YamlFiles("rule", _planned, "id: and title:", RuleError)
"""Reads and checks rule files."""
