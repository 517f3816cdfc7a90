"""How a command's docstring becomes its help: prose flows to the width of the terminal, indented lines stay."""

import inspect

import typer

__all__ = ["flow", "flow_help"]

_HEADINGS = ("Examples:",)


def flow(text: str) -> str:
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


def flow_help(app: typer.Typer) -> None:
    """Give `app`, and every command and group below it, the help that its docstring holds."""
    root = app.registered_callback
    if root and root.callback and root.callback.__doc__:
        root.help = flow(root.callback.__doc__)
    for command in app.registered_commands:
        if command.callback and command.callback.__doc__:
            command.help = flow(command.callback.__doc__)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            flow_help(group.typer_instance)
