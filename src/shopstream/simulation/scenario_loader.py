"""Reads scenario files: YAML in, checked scenarios out, or problems that say file, line, scenario and remedy."""

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from pydantic import ValidationError

from shopstream.detection.strict_yaml import YamlError, line_of, read_mapping, said
from shopstream.detection.yaml_folder import content_of, misplaced_words, yaml_files
from shopstream.errors import ConfigurationError
from shopstream.simulation.scenario_file import ScenarioFile, ScenarioProblem

__all__ = ["load_scenarios", "read_scenario", "read_scenarios", "shipped_scenarios"]

_WORDS = tuple(name for name in ScenarioFile.model_fields if name not in {"source", "version"})
_REMEDIES = {
    "id": "name it like the file, without .yml",
    "title": "say in one line what happens",
    "description": "say who does what, and why the figures are what they are",
    "nature": "take attack, fault or surge",
    "tags": "write a list, e.g. [oat-015]",
    "kind": "say what does it, e.g. flood",
    "hits": "take site, event_type, category, product or actor",
    "min_rate": "write genuine events per second that the key has at least",
    "duration": "write e.g. 10m, or {between: [5m, 20m]}",
    "parameters": "write name: value, name: {one_of: [1, 200]} or name: {between: [1.5, 2.0], scale: log}",
    "target": "write e.g. {recall: 0.95, within: 5m}; of a surge {critical: 0, informational: 1}",
}


def shipped_scenarios() -> Traversable:
    """The folder of the scenarios that come with shopstream."""
    return files("shopstream.simulation") / "scenarios"


def load_scenarios(folder: Path | None = None) -> dict[str, ScenarioFile]:
    """The shipped scenarios, and those of a folder over them, by id in order.

    Raises:
        ConfigurationError: no such folder; or files that do not fit, one line each: `file:line: scenario id: problem`.
    """
    scenarios, problems = read_scenarios(shipped_scenarios())
    if folder is not None:
        own, own_problems = read_scenarios(folder)
        scenarios, problems = scenarios | own, problems + own_problems
    if problems:
        raise ConfigurationError("\n".join(map(str, problems)))
    return dict(sorted(scenarios.items()))


def read_scenarios(folder: Traversable | Path) -> tuple[dict[str, ScenarioFile], list[ScenarioProblem]]:
    """The scenarios of one folder, and what is wrong with the files that are none.

    Raises:
        ConfigurationError: no such folder.
    """
    scenarios: dict[str, ScenarioFile] = {}
    problems: list[ScenarioProblem] = []
    for file, stem, misnamed in yaml_files(folder, "scenarios"):
        if misnamed:
            problems.append(ScenarioProblem(str(file), 1, stem, misnamed))
            continue
        scenario, found = read_scenario(file)
        problems += found
        if scenario is not None:
            scenarios[scenario.id] = scenario
    return scenarios, problems


def read_scenario(file: Traversable | Path) -> tuple[ScenarioFile | None, list[ScenarioProblem]]:
    """One scenario file: the scenario, or what is wrong with it.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    stem, content = file.name.removesuffix(".yml"), content_of(file, "scenario file")
    try:
        return _build(content, stem, str(file)), []
    except YamlError as found:
        return None, [ScenarioProblem(str(file), line, stem, text) for line, text in found.problems]


def _build(content: bytes, stem: str, source: str) -> ScenarioFile:
    data, lines = read_mapping(content, one="one scenario", begin=f"id: and title: of {_WORDS}")
    problems = misplaced_words(data, lines, _WORDS, stem)
    known = {word: value for word, value in data.items() if word in _WORDS}
    version = hashlib.sha256(content).hexdigest()[:12]
    try:
        scenario = ScenarioFile.model_validate({**known, "source": source, "version": version})
    except ValidationError as error:
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"])
            problems.append((line_of(lines, item["loc"]), f"{where}: {said(item)}; {_REMEDIES[str(item['loc'][0])]}"))
        raise YamlError(*sorted(problems)) from error
    problems += [(line_of(lines, place), text) for place, text in scenario.problems()]
    if problems:
        raise YamlError(*sorted(problems))
    return scenario
