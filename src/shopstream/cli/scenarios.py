"""`shopstream scenarios`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shopstream.cli.output import Format, FormatOption, emit, emit_object, emit_problems
from shopstream.errors import ConfigurationError

if TYPE_CHECKING:
    from shopstream.simulation.scenario_file import ScenarioFile

__all__ = ["app", "find_scenario"]

app = typer.Typer(no_args_is_help=True, help="Look at the attacks, faults and surges that can be laid over traffic.")

FolderOption = Annotated[Path | None, typer.Option("--folder", help="Your own scenario files, over the shipped ones.")]


def find_scenario(name: str, folder: Path | None = None) -> "ScenarioFile":
    """A shipped scenario by name, one of a folder, or a file that ends in .yml.

    Raises:
        ConfigurationError: there is none, or its file is wrong.
    """
    from shopstream.simulation.scenario_file import SCENARIO_FILES, load_scenarios  # noqa: PLC0415

    if name.endswith((".yml", ".yaml")):
        return SCENARIO_FILES.load(Path(name)).popitem()[1]
    scenarios = load_scenarios(folder)
    if name not in scenarios:
        raise ConfigurationError(f"expected a scenario of {', '.join(scenarios)}, or a file FILE.yml, got {name!r}")
    return scenarios[name]


@app.command("list")
def list_scenarios(folder: FolderOption = None, fmt: FormatOption = Format.TABLE) -> None:
    """List the scenarios: attacks, faults, and surges that must not be called either.

    What detection owes each is its target: the share of cases to be found, and the median time or number of events
    until then; of a surge, how many incidents it may have.

    Examples:
      shopstream scenarios list
      shopstream scenarios list --folder my_scenarios --format json
    """
    from shopstream.simulation.scenario_file import load_scenarios  # noqa: PLC0415

    rows: list[dict[str, object]] = []
    for scenario in load_scenarios(folder).values():
        row = {"id": scenario.id, "nature": str(scenario.nature), "target": scenario.target.describe()}
        if fmt is not Format.TABLE:
            row |= {"title": scenario.title, "hits": scenario.hits, "duration": scenario.duration.describe("ms")}
        rows.append(dict(row))
    emit(rows, fmt)


@app.command()
def show(
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


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A scenario file or a folder of them.")],
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Check scenario files: words, values, figures. Ends with status 1 when something is wrong.

    Each problem is one line: file:line: scenario: what was expected, what the file has, what to do.

    Examples:
      shopstream scenarios check my_scenarios/
      shopstream scenarios check my_scenarios/two_floods.yml --format json
    """
    from shopstream.simulation.scenario_file import SCENARIO_FILES  # noqa: PLC0415  start-up time

    scenarios, problems = SCENARIO_FILES.read(path)
    emit_problems(problems, fmt, f"{len(scenarios)} good, {len(problems)} wrong")
    if problems:
        raise typer.Exit(1)
