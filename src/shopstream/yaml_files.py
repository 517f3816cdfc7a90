"""Reads YAML files strictly: no aliases, no duplicate keys, no object construction, bounded size and depth.

PyYAML, and not ruamel.yaml: the nodes of PyYAML have line numbers too, ruamel.yaml also needs own code against aliases
and depth, and its loader is 12 times as slow as libyaml.
"""

import difflib
import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Generic, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from shopstream.errors import ConfigurationError, PermanentError

MAX_BYTES = 64 << 10
"""Size of one file."""

_MAX_DEPTH = 8

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader, in C where PyYAML has it: ten times as fast."""

Place = tuple[str | int, ...]
"""Path to a part of a file: keys and list indexes."""

_MAX_ID = 64
_ID = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", re.ASCII)


def _check_id(name: str) -> str:
    if len(name) > _MAX_ID or not _ID.fullmatch(name):
        raise ValueError(f"expected lower-case words joined by _, at most {_MAX_ID} characters, got {name!r}")
    return name


Identifier = Annotated[str, AfterValidator(_check_id)]
Text = Annotated[str, Field(min_length=1, max_length=4_000)]

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a file, and where.

    Args:
        file, line: the place; lines count from 1.
        subject: kind and stem of the file: `rule user_burst`.
        problem: what was expected, what the file has, what to do.
    """

    file: str
    line: int
    subject: str
    problem: str

    def __str__(self) -> str:
        """One line, in the form that editors jump to."""
        return f"{self.file}:{self.line}: {self.subject}: {self.problem}"


class YamlError(Exception):
    """(line, problem) pairs of a file; `YamlFiles` turns them into `Problem`s, no user sees it."""

    def __init__(self, *problems: tuple[int, str]) -> None:
        super().__init__(problems)
        self.problems = sorted(problems)


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file.

    Args:
        file: path, as text.
        stem: file name without `.yml`.
        data: the top-level mapping.
        lines: part of the file → its line.
        version: digest of the content.
    """

    file: str
    stem: str
    data: Mapping[str, object]
    lines: Mapping[Place, int]
    version: str

    def line(self, place: Place) -> int:
        """Line of a part, or of the nearest enclosing part."""
        while place not in self.lines:
            place = place[:-1]
        return self.lines[place]

    def validate(self, model: type[M], remedies: Mapping[str, str], **given: object) -> M:
        """The data as a model that forbids extra fields.

        Args:
            model: an `id` must equal the file's stem.
            remedies: field → what to do when it is wrong; the innermost field of a problem counts.
            given: fields that the caller sets, and a file must not.

        Raises:
            YamlError: with all problems.
        """
        problems = [
            (self.line((word,)), _unknown(word, model, (word,), given)) for word in self.data.keys() & given.keys()
        ]
        if "id" in model.model_fields and self.data.get("id", self.stem) != self.stem:
            text = f"id: expected {self.stem!r} as the file is named, got {self.data['id']!r}; rename one"
            problems.append((self.line(("id",)), text))
        try:
            valid = model.model_validate({**self.data, **given})
        except ValidationError as error:
            for item in error.errors():
                place = tuple(part for part in item["loc"] if part != "[key]")
                if item["type"] == "extra_forbidden":
                    text = _unknown(str(place[-1]), model, place, given)
                else:
                    remedy = next((remedies[str(part)] for part in reversed(place) if part in remedies), "")
                    text = f"{'.'.join(map(str, place))}: {_said(item)}" + (f"; {remedy}" if remedy else "")
                problems.append((self.line(place), text))
            raise YamlError(*problems) from error
        if problems:
            raise YamlError(*problems)
        return valid


@dataclass(frozen=True, slots=True)
class YamlFiles(Generic[T]):
    """YAML files of one kind.

    Args:
        kind: what one file holds, in the singular, for messages.
        build: turns a document into it; raises YamlError.
        example: how such a file begins, for messages.
        error: what `load` raises.
    """

    kind: str
    build: Callable[[Document], T]
    example: str
    error: type[PermanentError] = ConfigurationError

    def load(self, *places: Path | Traversable | None) -> dict[str, T]:
        """What files and folders (None: none) hold, by stem in order; later ones replace earlier ones.

        Raises:
            ConfigurationError: a place does not exist, or a file cannot be read.
            PermanentError: `error`, with one line for each problem.
        """
        found: dict[str, T] = {}
        problems: list[Problem] = []
        for place in filter(None, places):
            good, wrong = self.read(place)
            found |= good
            problems += wrong
        if problems:
            raise self.error("\n".join(map(str, problems)))
        return dict(sorted(found.items()))

    def read(self, place: Path | Traversable) -> tuple[dict[str, T], list[Problem]]:
        """What a file or a folder holds, by stem, and the problems of the other files.

        Raises:
            ConfigurationError: there is no such place, or a file cannot be read.
        """
        if not place.is_dir() and not place.is_file():
            raise ConfigurationError(
                f"expected {self.kind} files at {place}, found none; create one that begins with {self.example}, or "
                "name another place"
            )
        found: dict[str, T] = {}
        problems: list[Problem] = []
        for file in sorted(place.iterdir(), key=lambda entry: entry.name) if place.is_dir() else [place]:
            stem, _, ending = file.name.rpartition(".")
            if ending not in {"yml", "yaml"} and file is not place:
                continue
            try:
                found[stem] = self.build(_parse(file, stem, self.kind, self.example))
            except YamlError as error:
                problems += [Problem(str(file), line, f"{self.kind} {stem}", text) for line, text in error.problems]
        return found, problems


def _content(file: Path | Traversable, stem: str, kind: str) -> bytes:
    if not file.name.endswith(".yml"):
        raise YamlError((1, f"{kind} files end in .yml; rename it to {stem or file.name}.yml"))
    try:
        with file.open("rb") as handle:
            content = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{kind} {file} cannot be read ({error.strerror}); check path and rights") from error
    if len(content) > MAX_BYTES:
        raise YamlError((1, f"expected at most {MAX_BYTES} bytes; one file holds one {kind}"))
    return content


def _parse(file: Path | Traversable, stem: str, kind: str, example: str) -> Document:
    content = _content(file, stem, kind)
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
            raise YamlError((1, f"expected words with values, got no mapping; begin with {example}"))
        lines = dict(_lines(node, ()))
        data = loader.construct_document(node)
    except UnicodeDecodeError as error:
        text = f"expected UTF-8 text, got byte {error.object[error.start]:#x}; save it as UTF-8"
        raise YamlError((1, text)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or "invalid YAML"
        raise YamlError((mark.line + 1 if mark else 1, f"no YAML: {what}; check indentation and quotes")) from error
    except ValueError as error:  # a date that no calendar has
        raise YamlError((1, f"a value cannot be read: {error}; put it in quotes")) from error
    return Document(str(file), stem, data, lines, hashlib.sha256(content).hexdigest()[:12])


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


def _said(item: Mapping[str, object]) -> str:
    """One of Pydantic's errors in a few words: what was expected, what the file has."""
    if item["type"] == "missing":
        return "missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    return message if item["type"] == "value_error" else f"{message[0].lower()}{message[1:]}, got {item['input']!r}"


def _unknown(word: str, model: type[BaseModel], place: Place, hidden: Collection[str]) -> str:
    for part in place[:-1]:
        if part in model.model_fields:
            model = next(_models(model.model_fields[str(part)].annotation), model)
    known = [field.alias or name for name, field in model.model_fields.items() if name not in hidden]
    return (f"{'.'.join(map(str, place))}: " if len(place) > 1 else "") + unknown_word(word, known)


def unknown_word(word: str, known: Collection[str]) -> str:
    """The problem of a word that a file must not have."""
    near = difflib.get_close_matches(word, known, n=1)
    meant = f"did you mean {near[0]!r}?" if near else f"known words are {', '.join(known)}"
    return f"unknown word {word!r}; {meant}"


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
