"""A rule: what counts as suspicious, as data.

The words are Sigma's where Sigma has one; `key`, `window`, `filter`, `measures`, `condition`, `suppress_for` and
`verdict` are shopstream's. `docs/rules.md` explains each with an example.

Reads rule files: YAML in, checked rules out, or problems that say file, line, rule and remedy.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, Self

import duckdb
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from shopstream.detection.detection import Severity
from shopstream.detection.duration import parse_duration
from shopstream.detection.expression import check_condition, check_filter, check_measure
from shopstream.engine.compile import batch_sql
from shopstream.engine.derived_columns import COLUMNS
from shopstream.engine.window import WindowDeclaration, WindowKind
from shopstream.errors import RuleError
from shopstream.events.schema import EVENT_FIELDS, duckdb_columns
from shopstream.yaml_files import (
    MAX_BYTES,
    Lines,
    YamlError,
    content_of,
    line_of,
    misplaced_words,
    read_mapping,
    said,
    yaml_files,
)

__all__ = [
    "MAX_RULE_BYTES",
    "MEASURE_NAME",
    "RULE_ID",
    "Rule",
    "RuleProblem",
    "RuleStatus",
    "Window",
    "load_rules",
    "read_rule",
    "read_rules",
    "shipped_rules",
]

RULE_ID = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", re.ASCII)
MEASURE_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_MAX_ID = 64
_NOT_KEYS = frozenset({"event_time", "event_id", "price", "gap_ms", "previous_gap_ms"})

DurationMs = Annotated[int, BeforeValidator(parse_duration)]
Text = Annotated[str, Field(min_length=1, max_length=4_000)]


class RuleStatus(StrEnum):
    """How far a rule is trusted, in Sigma's words; the last two switch it off."""

    STABLE = "stable"
    TEST = "test"
    EXPERIMENTAL = "experimental"
    DEPRECATED = "deprecated"
    UNSUPPORTED = "unsupported"


class Window(BaseModel):
    """The time a rule looks at; see `WindowDeclaration` for the exact borders."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: WindowKind = WindowKind.SLIDING
    size: DurationMs = 0
    slide: DurationMs = 0
    gap: DurationMs = 0


def _check_id(name: str) -> str:
    if len(name) > _MAX_ID or not RULE_ID.fullmatch(name):
        raise ValueError(f"expected lower-case words joined by _, at most {_MAX_ID} characters, got {name!r}")
    return name


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
    """One rule; its words are checked, its expressions normalised.

    `version` is a digest of the file's bytes, `source` where it was read from; both come from the loader.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    id: Annotated[str, AfterValidator(_check_id)]
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
    version: str
    source: str

    @model_validator(mode="after")
    def _check_condition(self) -> Self:
        object.__setattr__(self, "condition", check_condition(self.condition, self.measures))
        return self

    @property
    def enabled(self) -> bool:
        """Deprecated and unsupported rules stay listed, and do not run."""
        return self.status not in {RuleStatus.DEPRECATED, RuleStatus.UNSUPPORTED}

    @property
    def key_kind(self) -> str:
        """`site`, or the key columns joined by `+`."""
        return "+".join(self.key) or "site"

    def window_declaration(self) -> WindowDeclaration:
        """What the engine runs.

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


MAX_RULE_BYTES = MAX_BYTES
"""Size of one rule file."""

_WORDS = tuple(name for name in Rule.model_fields if name not in {"version", "source"})

_REMEDIES = {
    "id": "name it like the file, without .yml",
    "title": "say in one line what was found",
    "status": "take stable, test or experimental; deprecated or unsupported switch a rule off",
    "description": "say what the rule looks at, and why the numbers are what they are",
    "level": "take informational, low, medium, high or critical",
    "tags": "write a list, e.g. [attack.t1498]",
    "falsepositives": "name at least one honest reason for a false alarm",
    "references": "write a list of addresses",
    "key": "list columns, e.g. [user_id]; an empty list [] means the whole site",
    "window": "write e.g. {kind: sliding, size: 10s, slide: 1s}, or {kind: session, gap: 30m}",
    "filter": "write a condition on one event, e.g. event_type = 'cart'",
    "measures": "write name: aggregate, e.g. events: count(*)",
    "condition": "compare measures, e.g. events > 15",
    "suppress_for": "write the quiet time that ends an incident, e.g. 5m",
    "verdict": "take bot, human or unknown, or leave it out",
}


@dataclass(frozen=True, slots=True)
class RuleProblem:
    """What is wrong with a rule file, and where.

    Args:
        file, line: the place; lines count from 1.
        rule: id of the rule (the file's stem).
        problem: expected what, came what; do what.
    """

    file: str
    line: int
    rule: str
    problem: str

    def __str__(self) -> str:
        """One line, in the form that editors jump to."""
        return f"{self.file}:{self.line}: rule {self.rule}: {self.problem}"


def shipped_rules() -> Traversable:
    """The folder of the rules that come with shopstream."""
    return files("shopstream.detection") / "rules"


def load_rules(rules_path: Path | None = None) -> dict[str, Rule]:
    """The shipped rules, and those of a folder over them, by id in order.

    Raises:
        ConfigurationError: no such folder.
        RuleError: rules that do not fit, one line each: `file:line: rule id: problem; remedy`.
    """
    rules, problems = read_rules(shipped_rules())
    if rules_path is not None:
        own, own_problems = read_rules(rules_path)
        rules, problems = rules | own, problems + own_problems
    if problems:
        raise RuleError("\n".join(map(str, problems)))
    return dict(sorted(rules.items()))


def read_rules(folder: Traversable | Path) -> tuple[dict[str, Rule], list[RuleProblem]]:
    """The rules of one folder, and what is wrong with the files that are none.

    Raises:
        ConfigurationError: no such folder.
    """
    rules: dict[str, Rule] = {}
    problems: list[RuleProblem] = []
    for file, stem, misnamed in yaml_files(folder, "rules"):
        if misnamed:
            problems.append(RuleProblem(str(file), 1, stem, misnamed))
            continue
        rule, found = read_rule(file)
        problems += found
        if rule is not None:
            rules[rule.id] = rule
    return rules, problems


def read_rule(file: Traversable | Path) -> tuple[Rule | None, list[RuleProblem]]:
    """One rule file: the rule, or what is wrong with it.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    stem, content = file.name.removesuffix(".yml"), content_of(file, "rule file")
    try:
        data, lines = read_mapping(content, one="one rule", begin=f"id: and title: of {_WORDS}")
        return _build(data, lines, stem, str(file), hashlib.sha256(content).hexdigest()[:12]), []
    except YamlError as found:
        return None, [RuleProblem(str(file), line, stem, text) for line, text in found.problems]


def _build(data: Mapping[str, object], lines: Lines, stem: str, source: str, version: str) -> Rule:
    problems = misplaced_words(data, lines, _WORDS, stem)
    known = {word: value for word, value in data.items() if word in _WORDS}
    try:
        rule = Rule.model_validate({**known, "source": source, "version": version})
    except ValidationError as error:
        for item in error.errors():
            place = tuple(part for part in item["loc"] if part != "[key]")
            word = str(item["loc"][0]) if item["loc"] else "condition"
            line = line_of(lines, place) if item["loc"] else lines.get(("condition",), 1)
            problems.append((line, f"{_where(item['loc']) or word}: {said(item)}; {_REMEDIES[word]}"))
        raise YamlError(*sorted(problems)) from error
    if problems:
        raise YamlError(*sorted(problems))
    try:
        _bind(rule)
    except RuleError as error:
        raise YamlError((lines[("window",)], f"window: {error}; {_REMEDIES['window']}")) from error
    except duckdb.Error as error:
        what = str(error).splitlines()[0]
        raise YamlError((lines[("measures",)], f"the types do not fit: {what}; compare like with like")) from error
    return rule


def _bind(rule: Rule) -> None:
    """Let DuckDB plan the rule over an empty table, which finds types that do not fit."""
    with _planner().cursor() as cursor:
        cursor.execute("EXPLAIN " + batch_sql(rule.window_declaration(), "events"))


@cache
def _planner() -> duckdb.DuckDBPyConnection:
    """An empty table of events in memory; one for all rules, as a database takes longer to open than to plan."""
    columns = ", ".join(f"{name} {kind}" for name, kind in duckdb_columns(EVENT_FIELDS).items())
    connection = duckdb.connect(config={"threads": 1})
    connection.execute(f"CREATE TABLE events ({columns})")
    return connection


def _where(place: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in place if part != "[key]")
