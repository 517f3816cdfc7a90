"""The documentation against the program: settings, commands, metrics, reasons, rules, links, and commands that work."""

import importlib.util
import json
import pydoc
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from pages import FENCE, ROOT, arguments_of, blocks, shell_lines
from shopstream.cli import app
from shopstream.config import load_settings
from shopstream.dashboard.health import Health, metrics_text
from shopstream.dashboard.sources import DataHome
from shopstream.detection.rule import RULE_FILES, shipped_rules
from shopstream.events.validation import Reason

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
WIDTH = 80
LINK = re.compile(r"(?<!\!)\[[^\]]+\]\(([^)\s]+)\)")


def commands(command, path=()):
    """Path → command, for all that do something by themselves."""
    below = getattr(command, "commands", {})
    if not below or command.invoke_without_command:
        yield path, command
    for name, child in below.items():
        yield from commands(child, (*path, name))


COMMANDS = dict(commands(get_command(app)))


def without_fences(text):
    return FENCE.sub("", text)


def help_of(*path):
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH)})
    assert result.exit_code == 0, result.output
    return result.output


def examples_of(path):
    """Lines of a command's help between the heading and the next panel, as printed."""
    shown = help_of(*path).split("\n Examples", 1)
    assert len(shown) == 2, f"shopstream {' '.join(path)} --help has no examples"
    return [line.rstrip() for line in shown[1].split("╭", 1)[0].splitlines() if line.strip()]


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


# settings


def test_the_page_of_settings_is_generated_from_the_settings_tree():
    spec = importlib.util.spec_from_file_location("write_configuration", ROOT / "docs" / "write_configuration.py")
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert TEXTS["docs/configuration.md"] == writer.text(), "run .venv/bin/python docs/write_configuration.py"


def test_every_setting_is_documented_with_variable_and_meaning():
    result = CliRunner().invoke(app, ["config", "--format", "json"])
    settings = json.loads(result.stdout)
    assert settings
    for setting in settings:
        row = f"| `{setting['setting']}` | `{setting['variable']}` |"
        line = next((line for line in TEXTS["docs/configuration.md"].splitlines() if line.startswith(row)), "")
        assert setting["meaning"]
        assert setting["meaning"] in line, setting["setting"]


@pytest.mark.parametrize("page", ["README.md", "docs/configuration.md"])
def test_settings_files_shown_can_be_read(page, tmp_path):
    shown = blocks(TEXTS[page], "toml")
    assert shown
    for number, body in enumerate(shown):
        file = tmp_path / f"{number}.toml"
        file.write_text(body)
        load_settings(file)


# commands


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_is_mentioned(path):
    pattern = re.compile(rf"\b{r' '.join(path)}\b" if len(path) > 1 else rf"shopstream {path[0]}\b")
    assert any(pattern.search(text) for name, text in TEXTS.items() if name == "README.md" or name.startswith("docs/"))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_help_of_every_command_has_examples_that_keep_their_lines(path):
    lines = examples_of(path)
    starts = [line for line in lines if re.match(r"   \S", line)]
    assert starts
    for line in lines:
        assert len(line) < WIDTH, line
        assert line.startswith("   "), f"wrapped or dedented: {line!r}"
        assert "\\b" not in line


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_examples_of_every_command_have_options_that_exist(path):
    for line in shell_lines("\n".join(examples_of(path))):
        arguments = arguments_of(line)
        if arguments is not None:
            help_of(*arguments)


def test_commands_are_grouped():
    shown = help_of()
    places = [
        shown.index(f"─ {panel} ─") for panel in ("Start here", "Events in", "Live", "Lake and reports", "Set-up")
    ]
    assert places == sorted(places)
    assert "─ Commands ─" not in shown


def test_prose_flows_to_the_width_of_the_terminal():
    prose = help_of("simulate").split("pace.", 1)[1].split("Examples", 1)[0]
    full = [line.rstrip() for line in re.split(r"\n\s*\n", prose.strip())[0].splitlines()[:-1]]
    assert min(map(len, full)) > WIDTH - 20


# commands in the pages


@pytest.mark.parametrize("page", TEXTS)
def test_commands_shown_have_options_that_exist(page):
    shown = [line for body in blocks(TEXTS[page], "console") for line in shell_lines(body)]
    inline = re.findall(r"`(shopstream [a-z][^`…]*)`", without_fences(TEXTS[page]))
    for line in [*shown, *inline]:
        arguments = arguments_of(line)
        if arguments is not None:
            help_of(*arguments)


def test_make_targets_shown_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name, text in TEXTS.items():
        named = re.findall(r"^make ([a-z-]+)", text, re.MULTILINE) + re.findall(r"`make ([a-z-]+)", text)
        assert targets.issuperset(named), name


def test_every_path_of_the_data_home_is_explained():
    readme = TEXTS["README.md"]
    home = DataHome.at(Path("home"))
    paths = [getattr(home, field.name) for field in fields(home)]
    stores = {path.name for path in paths if isinstance(path, Path)} - {"engine.lock"}  # a lock holds no data
    for name in stores | {"lake", "replays"}:
        assert re.search(rf"`{re.escape(name)}/?`", readme), name


# what operators meet


def test_every_metric_is_documented(tmp_path, monkeypatch):
    from shopstream.clock import from_ms  # noqa: PLC0415
    from shopstream.dashboard import health as metrics  # noqa: PLC0415

    full = Health(True, 1, from_ms(1), {}, from_ms(1), {"shard": 1}, {"open": 1})
    monkeypatch.setattr(metrics, "read_health", lambda _home: full)
    body, _ = metrics_text(DataHome.at(tmp_path))
    names = {line.split()[0].partition("{")[0] for line in body.decode().splitlines() if not line.startswith("#")}
    assert len(names) >= 10
    for name in names:
        assert f"| `{name}` |" in TEXTS["docs/operations.md"], name


def test_every_reason_of_a_dead_letter_is_documented_with_a_remedy():
    for reason in Reason:
        row = rf"^\| `{reason}` \| {re.escape(reason.meaning)} \| \S.+ \|$"
        assert re.search(row, TEXTS["docs/operations.md"], re.MULTILINE), reason


def test_every_shipped_rule_is_documented_and_has_a_remedy():
    shipped = [Path(str(file)) for file in shipped_rules().iterdir() if file.name.endswith(".yml")]
    assert shipped
    for file in shipped:
        assert f"\n### {file.stem}\n" in TEXTS["docs/rules.md"], file.stem
        assert f"| `{file.stem}` |" in TEXTS["docs/operations.md"], file.stem


def test_rules_shown_are_rules(tmp_path):
    shown = blocks(TEXTS["docs/rules.md"], "yaml")
    assert shown
    for body in shown:
        file = tmp_path / f"{yaml.safe_load(body)['id']}.yml"
        file.write_text(body)
        assert RULE_FILES.read(file)[1] == []


def test_the_table_of_errors_quotes_messages_of_the_program():
    table = TEXTS["docs/operations.md"].split("## When something is wrong", 1)[1]
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    source = re.sub(r"\"\s*\n\s*f?\"", "", source)
    messages = re.findall(r"^\| (`[^|]+?) \|", table, re.MULTILINE)
    pieces = [piece.strip("( ") for message in messages for piece in re.findall(r"`([^`]+)`", message)]
    assert len(pieces) > 10
    for piece in pieces:
        assert piece in source, piece


# pages


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    for target in LINK.findall(without_fences(TEXTS[page])):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", without_fences(file.read_text()), re.MULTILINE)
            assert anchor in map(slug, headings), target


def test_every_decision_is_in_the_index_and_numbered_once():
    decisions = sorted(path.name for path in (ROOT / "docs" / "adr").glob("[0-9]*.md"))
    for number, name in enumerate(decisions, 1):
        assert name.startswith(f"{number:04}-")
        assert f"]({name})" in TEXTS["docs/adr/README.md"]


def test_the_glossary_defines_each_word_once():
    words = re.findall(r"^\| ([a-z][a-z -]+) \|", TEXTS["docs/glossary.md"], re.MULTILINE)
    assert len(words) == len(set(words))
    assert {"event", "record", "shard", "checkpoint", "watermark", "dead letter", "signal", "incident"} <= set(words)


@pytest.mark.parametrize("page", TEXTS)
def test_pages_name_no_machine(page):
    assert not re.search(r"(?<![\w.])/(work|home|root|Users)/", TEXTS[page])


def test_every_function_that_the_architecture_names_exists():
    names = re.findall(r"`([a-z_]+(?:\.\w+)+)`", TEXTS["docs/architecture.md"])
    names = [name for name in names if not name.endswith((".py", ".yml"))]
    assert len(names) > 20
    for name in names:
        assert pydoc.locate(f"shopstream.{name}"), name


@pytest.mark.parametrize("page", [page for page in TEXTS if not page.startswith("benchmarks/")])
def test_prose_is_wrapped_at_100_columns(page):
    prose = [line for line in without_fences(TEXTS[page]).splitlines() if not line.startswith("|")]
    assert [line for line in prose if len(line) > 100 and " " in LINK.sub("", line.strip())] == []
