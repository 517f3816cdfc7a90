"""YAML of people, read strictly: no aliases, no repeated words, no depths; and each part knows its line."""

import difflib
from collections.abc import Collection, Iterator, Mapping

import yaml

__all__ = ["MAX_BYTES", "Lines", "Place", "YamlError", "line_of", "read_mapping", "said", "unknown_word"]

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
