"""Folders of YAML files, one thing in each: rules, scenarios, allow-lists."""

from collections.abc import Collection, Iterator, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path

from shopstream.detection.strict_yaml import MAX_BYTES, Lines, unknown_word
from shopstream.errors import ConfigurationError

__all__ = ["content_of", "misplaced_words", "yaml_files"]


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
