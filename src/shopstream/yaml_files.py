"""YAML of people, read strictly: no aliases, no repeated words, no depths; and each part knows its line.

Folders of YAML files, one thing in each: rules, scenarios, allow-lists.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path

import yaml

from shopstream.errors import ConfigurationError

__all__ = [
    "MAX_BYTES",
    "Lines",
    "Place",
    "YamlError",
    "content_of",
    "line_of",
    "misplaced_words",
    "read_mapping",
    "said",
    "unknown_word",
    "yaml_files",
]

MAX_BYTES = 64 << 10
"""Size of one file."""

_MAX_DEPTH = 8

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader, in C where PyYAML has it: ten times as fast."""

Place = tuple[str | int, ...]
"""Path to a part of a file: words and places in lists."""

Lines = Mapping[Place, int]
"""Part → its line, counted from 1."""


class YamlError(Exception):
    """What is wrong with a file: (line, expected what, came what, do what) for each problem.

    Carries findings to a loader, which adds file and name; no user sees it.
    """

    def __init__(self, *problems: tuple[int, str]) -> None:
        super().__init__(problems)
        self.problems = problems


def read_mapping(content: bytes, *, one: str, begin: str) -> tuple[dict[str, object], Lines]:
    """The mapping of a file, and the line of each of its parts.

    Args:
        content: the file's bytes.
        one: what a file holds, for messages: `one rule`.
        begin: how such a file begins, for messages.

    Raises:
        YamlError: not strict YAML, or no mapping.
    """
    if len(content) > MAX_BYTES:
        raise YamlError((1, f"expected at most {MAX_BYTES} bytes; one file holds {one}"))
    try:
        text = content.decode("utf-8")
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                raise YamlError((_start(event), "anchors and aliases are not allowed; write the value out"))
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise YamlError((_start(event), f"nested more than {_MAX_DEPTH} deep; write it flatter"))
        loader = _Loader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise YamlError((1, f"expected words with values, got no mapping; begin with {begin}"))
        lines = dict(_lines(node, ()))
        data = loader.construct_document(node)
    except UnicodeDecodeError as error:
        raise YamlError(
            (1, f"expected UTF-8 text, got byte {error.object[error.start]:#x}; save it as UTF-8")
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or "unreadable"
        raise YamlError((mark.line + 1 if mark else 1, f"no YAML: {what}; check indentation and quotes")) from error
    except ValueError as error:  # a date that no calendar has
        raise YamlError((1, f"a value cannot be read: {error}; put it in quotes")) from error
    return data, lines


def line_of(lines: Lines, place: Place) -> int:
    """Line of a part, or of the nearest part around it that is there."""
    while place not in lines:
        place = place[:-1]
    return lines[place]


def unknown_word(word: str, known: Collection[str]) -> str:
    """What to say of a word that a file must not have."""
    near = difflib.get_close_matches(word, known, n=1)
    meant = f"did you mean {near[0]!r}?" if near else f"known words are {', '.join(known)}"
    return f"unknown word {word!r}; {meant}"


def said(item: Mapping[str, object]) -> str:
    """One of Pydantic's errors in a few words: what was expected, what came."""
    if item["type"] == "missing":
        return "missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    return message if item["type"] == "value_error" else f"{message[0].lower()}{message[1:]}, got {item['input']!r}"


def _start(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _lines(node: yaml.Node, path: Place) -> Iterator[tuple[Place, int]]:
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        for place, item in enumerate(node.value):
            yield from _lines(item, (*path, place))
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise YamlError((line, "expected a word before the colon; put it in quotes if it is one"))
            if key.value in seen:
                raise YamlError((line, f"{key.value!r} stands here a second time; keep one"))
            seen.add(key.value)
            yield from _lines(value, (*path, key.value))
            yield (*path, key.value), line


def yaml_files(folder: Traversable | Path, things: str) -> Iterator[tuple[Traversable | Path, str, str | None]]:
    """YAML files of a folder by name: file, stem, and what is wrong with its name (None: nothing, read it).

    Args:
        folder: which one.
        things: what its files hold, in the plural, for messages.

    Raises:
        ConfigurationError: no such folder.
    """
    if not folder.is_dir():
        raise ConfigurationError(
            f"expected a folder of {things} at {folder}, found none; create it, or name another in the settings"
        )
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".yml"):
            yield file, file.name.removesuffix(".yml"), None
        elif file.name.endswith(".yaml"):
            stem = file.name.removesuffix(".yaml")
            yield file, stem, f"{things} end in .yml; rename it to {stem}.yml"


def content_of(file: Traversable | Path, thing: str) -> bytes:
    """Bytes of a file, no more than `read_mapping` needs to see that it is too large.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        with file.open("rb") as handle:
            return handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{thing} {file} cannot be read ({error.strerror}); check path and rights") from error


def misplaced_words(
    data: Mapping[str, object], lines: Lines, words: Collection[str], stem: str
) -> list[tuple[int, str]]:
    """(line, problem) of words that a file must not have, and of an id that is not the file's name."""
    problems = [(lines[(word,)], unknown_word(word, words)) for word in data if word not in words]
    if "id" in data and data["id"] != stem:
        problems.append((lines[("id",)], f"id: expected {stem!r} as the file is named, got {data['id']!r}; rename one"))
    return problems
