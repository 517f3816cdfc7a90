"""Reads rule files, and checks them as far as DuckDB can plan them."""

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import duckdb

from shopstream.detection.rule import Rule
from shopstream.engine.compile import batch_sql
from shopstream.errors import RuleError
from shopstream.events.schema import EVENT_FIELDS, duckdb_columns
from shopstream.yaml_files import Document, YamlError, YamlFiles

__all__ = ["RULE_FILES", "load_rules", "shipped_rules"]

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


def shipped_rules() -> Traversable:
    """The folder of the rules that come with shopstream."""
    return files("shopstream.detection") / "rules"


def load_rules(rules_path: Path | None = None) -> dict[str, Rule]:
    """The shipped rules, and those of a folder over them, by id in order.

    Raises:
        ConfigurationError: no such folder.
        RuleError: invalid rules, one line each: `file:line: rule id: problem; remedy`.
    """
    return RULE_FILES.load(shipped_rules(), *([rules_path] if rules_path else []))


def _rule(document: Document) -> Rule:
    rule = document.validate(Rule, _REMEDIES, source=document.file, version=document.version)
    try:
        _bind(rule)
    except RuleError as error:
        raise YamlError((document.line(("window",)), f"window: {error}; {_REMEDIES['window']}")) from error
    except duckdb.Error as error:
        what = str(error).splitlines()[0]
        text = f"the types do not fit: {what}; compare like with like"
        raise YamlError((document.line(("measures",)), text)) from error
    return rule


RULE_FILES = YamlFiles("rule", _rule, "id: and title:", RuleError)
"""Reads rule files: YAML in, checked rules out."""


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
