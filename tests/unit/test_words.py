"""The tree uses the words of the glossary: no name, page or test brings a retired word back."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
RETIRED = yaml.safe_load(Path(__file__).with_name("retired_words.yml").read_text(encoding="utf-8"))
TYPES = {".css", ".html", ".j2", ".js", ".json", ".md", ".py", ".sql", ".toml", ".yml"}
FOLDERS = ("src", "docs", "infra", "notebooks", "glue", "docker", ".devcontainer")
FILES = ("README.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml")
SKIPPED = {"node_modules", "__pycache__", "package-lock.json"}


def spaced(text):
    """Text with the words of identifiers apart; `_` joins words there."""
    return text.replace("_", " ")


def tree():
    """Path → text of all that people read, and of a test file its name and the names of its tests."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in TYPES]
    files += [ROOT / name for name in FILES]
    texts = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for path in files
        if not SKIPPED.intersection(path.parts)
    }
    for path in (ROOT / "tests").rglob("*.py"):
        names = re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        texts[str(path.relative_to(ROOT))] = "\n".join(names)
    return {path: spaced(f"{path}\n{text}") for path, text in texts.items()}


TREE = tree()


def uses(word):
    """Places of a whole word or phrase; upper and lower case differ."""
    phrase = r"\s+".join(map(re.escape, spaced(word).split()))
    whole = re.compile(rf"(?<![A-Za-z0-9]){phrase}(?![A-Za-z0-9])")
    return [
        f"{path}:{text.count(chr(10), 0, match.start())}"
        for path, text in TREE.items()
        for match in whole.finditer(text)
    ]


@pytest.mark.parametrize("word", RETIRED)
def test_a_retired_word_is_gone(word):
    assert uses(word) == [], f"write instead: {RETIRED[word]}"


def test_a_word_that_is_in_use_is_found():
    assert uses("signal_codec") or uses("signals")
