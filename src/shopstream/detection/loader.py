"""Reads rule files: YAML in, checked rules out, or problems that say file, line, rule and remedy."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import duckdb
from pydantic import ValidationError

from shopstream.detection.rule import Rule
from shopstream.engine.compile import batch_sql
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

__all__ = ["MAX_RULE_BYTES", "RuleProblem", "load_rules", "read_rule", "read_rules", "shipped_rules"]

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
