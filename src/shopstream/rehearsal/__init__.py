"""How a rule is tried before it is switched on: its own tests, one actor against it, and a backtest on history."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shopstream.rehearsal.backtest import Backtest, run_backtest
    from shopstream.rehearsal.explanation import Explanation, explain
    from shopstream.rehearsal.history import History, open_history
    from shopstream.rehearsal.sweep import Sweep, parse_sweep
    from shopstream.rehearsal.trial import RuleTest, Trial, read_test, try_rule

__all__ = [
    "Backtest",
    "Explanation",
    "History",
    "RuleTest",
    "Sweep",
    "Trial",
    "explain",
    "open_history",
    "parse_sweep",
    "read_test",
    "run_backtest",
    "try_rule",
]

_HOMES = {
    "Backtest": "backtest",
    "RuleTest": "trial",
    "Explanation": "explanation",
    "History": "history",
    "Sweep": "sweep",
    "Trial": "trial",
    "explain": "explanation",
    "open_history": "history",
    "parse_sweep": "sweep",
    "read_test": "trial",
    "run_backtest": "backtest",
    "try_rule": "trial",
}


def __getattr__(name: str) -> object:
    """Load a public name from its module when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
