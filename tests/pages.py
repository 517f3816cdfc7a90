"""Commands as the pages show them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def section(heading):
    """What the README says under a heading."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.split(f"### {heading}\n", 1)[1].split("\n### ", 1)[0]


def blocks(text, language):
    return [body for name, body in FENCE.findall(text) if name == language]


def shell_lines(text):
    """Command lines with continued ones joined, comments and what stands behind wide gaps taken off."""
    for line in text.replace("\\\n", " ").splitlines():
        command = re.split(r"\s{2,}(?![-'\"h\d])|\s#\s", line.strip())[0]
        if command and not command.startswith("#"):
            yield command


def arguments_of(line):
    """What the program gets of a command line: without variables before it, without redirection."""
    words = shlex.split(line)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0], re.DOTALL):
        words.pop(0)
    if not words or words.pop(0) != "shopstream":
        return None
    return words[: words.index(">")] if ">" in words else words
