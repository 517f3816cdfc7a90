"""Every alarm has its page, and every page its alarm."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "runbooks"
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in FOLDER.glob("*.md") if page.stem != "README"}


def alarms():
    """Names in infra/shopstream_infra/alarms.py, read without the CDK."""
    tree = ast.parse((ROOT / "infra" / "shopstream_infra" / "alarms.py").read_text(encoding="utf-8"))
    (listed,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Alarm")
    return {ast.literal_eval(node.value) for node in listed.body if isinstance(node, ast.Assign)}


def test_every_alarm_has_a_page_and_every_page_an_alarm():
    assert set(PAGES) == alarms()


def test_the_index_lists_every_page_once():
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[([a-z-]+)\]\(\1\.md\) \| \S", index, re.MULTILINE)) == sorted(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_it_means_what_to_look_at_what_to_do_and_how_to_prevent_it(name):
    text = PAGES[name]
    assert text.startswith(f"# {name}\n\n**Means.** ")
    sections = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    assert sections[::2] == ["Look at", "Do", "Prevent"]
    assert all(body.strip() for body in sections[1::2])


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_commands_for_one_stage(name):
    shown = "".join(re.findall(r"^```console\n(.*?)^```", PAGES[name], re.MULTILINE | re.DOTALL))
    assert shown
    assert not re.search(r"shopstream-(?!prod)\w+-(events|worker|detection|ticker)", shown)
