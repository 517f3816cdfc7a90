"""What is wrong: rules as data, and their verdicts on windows."""

from importlib import import_module
from typing import TYPE_CHECKING

from shopstream.detection.detection import Detection, Severity, Suppression

if TYPE_CHECKING:
    from shopstream.detection.allowlist import AllowList, load_allow_list
    from shopstream.detection.judge import detect, detection_id
    from shopstream.detection.loader import RuleProblem, load_rules, read_rules
    from shopstream.detection.rule import Rule

__all__ = [
    "AllowList",
    "Detection",
    "Rule",
    "RuleProblem",
    "Severity",
    "Suppression",
    "detect",
    "detection_id",
    "load_allow_list",
    "load_rules",
    "read_rules",
]

# Rules need a SQL parser, which takes a second to load; the settings tree, and so every command, imports this package.
_HOMES = {
    "AllowList": "allowlist",
    "Rule": "rule",
    "RuleProblem": "loader",
    "detect": "judge",
    "detection_id": "judge",
    "load_allow_list": "allowlist",
    "load_rules": "loader",
    "read_rules": "loader",
}


def __getattr__(name: str) -> object:
    """Load a public name from its module when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
