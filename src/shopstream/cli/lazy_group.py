"""A command group that imports the module of a command only when that command is called.

`shopstream --help` shows names and summaries from a table, without Rich: importing that takes longer than everything
else `--help` does.
"""

import inspect
import textwrap
from collections import UserDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup
from typer.main import get_command

_HEADINGS = ("Examples:",)


@dataclass(frozen=True)
class Command:
    """A command of the table.

    Args:
        target: `module:function` below `shopstream.cli`; a function, or a Typer app that is a group.
        help: first paragraph of its docstring.
    """

    target: str
    help: str

    def load(self, name: str) -> Any:  # noqa: ANN401  Typer's own copy of Click has no public types
        """Import it."""
        module, _, attribute = self.target.partition(":")
        found = getattr(import_module(f"shopstream.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            app = found
        else:
            app = typer.Typer(add_completion=False)
            app.command(name)(found)
        _flow_help(app)
        command = get_command(app)
        command.name = name
        return command


@dataclass(frozen=True)
class Group:
    """A group of the table."""

    help: str
    commands: "Mapping[str, Command | Group]"

    def load(self, name: str) -> "LazyGroup":
        """Create it; its commands stay unloaded."""
        return LazyGroup(name=name, help=self.help, panels={"Commands": self.commands}, no_args_is_help=True)


Panels = Mapping[str, Mapping[str, Command | Group]]
"""Title of a panel → name → command, in the order of `--help`."""


class _Commands(UserDict[str, Any]):
    """Name → command, loaded when it is looked up."""

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401  see `Command.load`
        found = self.data[name]
        if isinstance(found, Command | Group):
            found = self.data[name] = found.load(name)
        return found


class LazyGroup(TyperGroup):
    """A group whose commands are known from a table.

    Args:
        panels: the table; None takes `default_panels`, which a subclass sets.
        attrs: see `TyperGroup`.
    """

    default_panels: ClassVar[Panels] = {}

    def __init__(self, *, panels: Panels | None = None, **attrs: Any) -> None:  # noqa: ANN401  passed on
        super().__init__(**attrs)
        self.panels = self.default_panels if panels is None else panels
        self.commands = _Commands(self.table)

    @cached_property
    def table(self) -> dict[str, Command | Group]:
        """Name → command, of all panels."""
        return {name: command for commands in self.panels.values() for name, command in commands.items()}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  as in `TyperGroup`
        """Without arguments, show the help: Typer leaves that to Rich, which does not draw this help."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            ctx.exit(2)
        return list(super().parse_args(ctx, args))

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  as in `TyperGroup`
        """Run the command; an error about a value repeats the value."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = _explain(error)
            raise

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002  as in `TyperGroup`
        """Names, without loading the commands."""
        return list(self.table)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:  # noqa: ANN401  as in `TyperGroup`
        """Names and options that begin so, without loading the commands."""
        names, self.commands = self.commands, {}
        try:
            options = super().shell_complete(ctx, incomplete)
        finally:
            self.commands = names
        item = typer.core.CompletionItem  # type: ignore[attr-defined]
        return [item(name, help=one.help) for name, one in self.table.items() if name.startswith(incomplete)] + options

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  as in `TyperGroup`
        """Usage, description and panels, drawn as Rich draws them for commands."""
        usage = " ".join((ctx.command_path, *self.collect_usage_pieces(ctx)))
        formatter.write(f"\n Usage: {usage}\n\n")
        for line in inspect.cleandoc(self.help or "").splitlines():
            formatter.write(f" {line}".rstrip() + "\n")
        formatter.write("\n")
        records = [param.get_help_record(ctx) for param in self.get_params(ctx)]
        _write_panel(formatter, "Options", [record for record in records if record])
        for title, commands in self.panels.items():
            _write_panel(formatter, title, [(name, command.help) for name, command in commands.items()])


def _explain(error: typer.BadParameter) -> str:
    """What was expected and what came, in place of Pydantic's words."""
    from pydantic import ValidationError  # noqa: PLC0415  only an error needs it

    if not isinstance(error.__cause__, ValidationError):
        return error.message
    first = error.__cause__.errors()[0]
    message = first["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
    return message if first["type"] == "value_error" else f"{message}, got {first['input']!r}"


def _write_panel(formatter: Any, title: str, rows: list[tuple[str, str]]) -> None:  # noqa: ANN401  Click's
    width = formatter.width + 2  # Click leaves two columns free
    first = min(max(len(name) for name, _ in rows), width // 3)
    formatter.write(f"╭─ {title} {'─' * (width - len(title) - 5)}╮\n")
    for name, text in rows:
        lines = textwrap.wrap(text, width - first - 6) or [""]
        if len(name) > first:
            lines.insert(0, "")
        for number, line in enumerate(lines):
            head = typer.style(f"{name if number == 0 else '':<{first}}", fg="cyan", bold=True)
            space = width - max(first, len(name) if number == 0 else 0) - len(line) - 6
            formatter.write(f"│ {head}  {line}{' ' * space} │\n")
    formatter.write(f"╰{'─' * (width - 2)}╯\n")


def _flow_help(app: typer.Typer) -> None:
    """Set the help of a command, or of a group and its commands, from their docstrings."""
    root = app.registered_callback
    if root and root.callback and root.callback.__doc__:
        root.help = _flow(root.callback.__doc__)
    for command in app.registered_commands:
        if command.callback and command.callback.__doc__:
            command.help = _flow(command.callback.__doc__)


def _flow(text: str) -> str:
    """Help in Rich's markup: unindented lines of a paragraph become one, indented ones keep their place."""
    summary, *rest = (_paragraph(paragraph) for paragraph in inspect.cleandoc(text).split("\n\n"))
    # One more line break: Typer dedents all but the first line of the rest, which may be a heading over indented lines.
    return "\n\n\n".join([summary, "\n\n".join(rest)]) if rest else summary


def _paragraph(text: str) -> str:
    lines: list[str] = []
    for line in text.splitlines():
        if line in _HEADINGS:
            lines.append(f"[bold]{line.removesuffix(':')}[/]")
        elif lines and not line.startswith(" ") and not lines[-1].startswith(" "):
            lines[-1] += f" {line}"
        else:
            lines.append(line)
    return "\n".join(lines)
