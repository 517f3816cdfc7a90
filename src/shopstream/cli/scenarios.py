"""`shopstream scenarios`."""

from pathlib import Path
from typing import Annotated

import typer

from shopstream.cli.output import Format, FormatOption, emit, emit_object, emit_problems
from shopstream.errors import ConfigurationError
from shopstream.simulation.scenario_file import SCENARIO_FILES, ScenarioFile, load_scenarios

__all__ = ["check_scenarios", "find_scenario", "list_scenarios", "show_scenario"]


FolderOption = Annotated[Path | None, typer.Option("--folder", help="Your own scenario files, over the shipped ones.")]


def find_scenario(name: str, folder: Path | None = None) -> ScenarioFile:
    """A shipped scenario by name, one of a folder, or a file that ends in .yml.

    Raises:
        ConfigurationError: there is none, or its file is wrong.
    """
    if name.endswith((".yml", ".yaml")):
        return SCENARIO_FILES.load(Path(name)).popitem()[1]
    scenarios = load_scenarios(folder)
    if name not in scenarios:
        raise ConfigurationError(f"expected a scenario of {', '.join(scenarios)}, or a file FILE.yml, got {name!r}")
    return scenarios[name]


def list_scenarios(folder: FolderOption = None, fmt: FormatOption = Format.TABLE) -> None:
    """List the scenarios: attacks, faults, and surges that must not be called either.

    What detection owes each is its target: the share of cases to be found, and the median time or number of events
    until then; of a surge, how many incidents it may have.

    Examples:
      shopstream scenarios list
      shopstream scenarios list --folder my_scenarios --format json
    """
    rows: list[dict[str, object]] = []
    for scenario in load_scenarios(folder).values():
        row = {"id": scenario.id, "nature": str(scenario.nature), "target": scenario.target.describe()}
        if fmt is not Format.TABLE:
            row |= {"title": scenario.title, "hits": scenario.hits, "duration": scenario.duration.describe("ms")}
        rows.append(dict(row))
    emit(rows, fmt)


def show_scenario(
    name: Annotated[str, typer.Argument(help="A scenario's id, or FILE.yml.")],
    folder: FolderOption = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Show one scenario: what happens, and from which figures a case is drawn.

    Examples:
      shopstream scenarios show site_flood
      shopstream scenarios show human_like_crawler --format json
    """
    scenario = find_scenario(name, folder)
    row: dict[str, object] = {
        "id": scenario.id,
        "title": scenario.title,
        "description": scenario.description,
        "nature": str(scenario.nature),
        "tags": list(scenario.tags),
        "kind": scenario.kind,
        "hits": scenario.hits,
        "min_rate": scenario.min_rate,
        "duration": scenario.duration.describe("ms"),
        "target": scenario.target.describe(),
        "file": scenario.source,
        "version": scenario.version,
    }
    drawn = {word: domain.describe() for word, domain in scenario.parameters.items()}
    if fmt is Format.JSON:
        emit_object(row | {"parameters": drawn}, fmt)
    else:
        emit_object(row | drawn, fmt)


def check_scenarios(
    path: Annotated[Path, typer.Argument(help="A scenario file or a folder of them.")],
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Check scenario files: words, values, figures. Ends with status 1 when something is wrong.

    Each problem is one line: file:line: scenario: what was expected, what the file has, what to do.

    Examples:
      shopstream scenarios check my_scenarios/
      shopstream scenarios check my_scenarios/two_floods.yml --format json
    """
    scenarios, problems = SCENARIO_FILES.read(path)
    emit_problems(problems, fmt, f"{len(scenarios)} good, {len(problems)} wrong")
    if problems:
        raise typer.Exit(1)
