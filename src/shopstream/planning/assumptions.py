"""What a plan assumes: each figure with its unit and source, from `assumptions.yml`."""

import difflib
from collections.abc import Iterable
from decimal import Decimal
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, RootModel

from shopstream.errors import ConfigurationError
from shopstream.yaml_files import YamlFiles

__all__ = ["Assumption", "Assumptions", "shipped_assumptions"]


class Assumption(BaseModel):
    """One figure.

    Attributes:
        value: the figure.
        unit: its unit.
        source: a measurement, a published limit, a setting, or a guess.
        share: it is a share, above 0, at most 1.
        zero: it may be 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: Decimal
    unit: str
    source: str
    share: bool = False
    zero: bool = False


class Assumptions(RootModel[dict[str, Assumption]]):
    """All figures, by name."""

    model_config = ConfigDict(frozen=True)

    def __getitem__(self, name: str) -> Decimal:
        """The value of a figure."""
        return self.root[name].value

    def with_changes(self, changes: Iterable[str]) -> "Assumptions":
        """The figures with other values, given as NAME=VALUE.

        Raises:
            ConfigurationError: an unknown name, no number, or out of range.
        """
        each = dict(self.root)
        for change in changes:
            name, equals, text = change.partition("=")
            if not equals and name in each:
                raise ConfigurationError(f"expected --assume NAME=VALUE, got {change!r}; give a value: {name}=…")
            if name not in each:
                near = difflib.get_close_matches(name, each, n=1)
                hint = f"did you mean {near[0]}?" if near else "`shopstream plan` lists the names"
                raise ConfigurationError(f"expected --assume NAME=VALUE with a known name, got {change!r}; {hint}")
            value = _value(name, each[name], text)
            each[name] = each[name].model_copy(update={"value": value, "source": "--assume"})
        return Assumptions(each)


def _value(name: str, one: Assumption, text: str) -> Decimal:
    rule = "from above 0 to 1" if one.share else "of at least 0" if one.zero else "above 0"
    try:
        value = Decimal(text)
    except ArithmeticError:
        value = Decimal("NaN")
    fits = value.is_finite() and (value > 0 or (one.zero and value == 0)) and (not one.share or value <= 1)
    if not fits:
        raise ConfigurationError(f"expected a number {rule} for {name}, got {text!r}; correct --assume")
    return value


def shipped_assumptions() -> Assumptions:
    """The shipped figures."""
    return _FILES.load(files("shopstream.planning") / "assumptions.yml")["assumptions"]


_FILES = YamlFiles("assumptions", lambda document: Assumptions.model_validate(document.data), "a name")
