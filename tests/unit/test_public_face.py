"""What modules show: documented, unambiguous, and light to load."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import shopstream
from shopstream.cli import app
from shopstream.cli.lazy_group import Group

HEAVY = ("apprise", "dbt", "duckdb", "plotly", "pyarrow", "pyiceberg", "s3fs", "sqlglot", "starlette", "uvicorn")
MODULES = ["shopstream", *(found.name for found in pkgutil.walk_packages(shopstream.__path__, "shopstream."))]
PACKAGES = [name for name in MODULES if hasattr(importlib.import_module(name), "__path__")]


def submodules(package):
    return {name.rpartition(".")[2] for name in MODULES if name.rpartition(".")[0] == package}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_docstring(name):
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("name", PACKAGES)
def test_no_name_is_both_a_module_and_something_else(name):
    for below in submodules(name):
        importlib.import_module(f"{name}.{below}")
    package = importlib.import_module(name)
    assert [below for below in submodules(name) if not isinstance(getattr(package, below), ModuleType)] == []


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_defines_nothing(name):
    tree = ast.parse(Path(inspect.getfile(importlib.import_module(name))).read_text())
    assert [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)] == []


def test_every_public_function_and_class_is_documented():
    bare = []
    for name in MODULES:
        tree = ast.parse(Path(inspect.getfile(importlib.import_module(name))).read_text())
        defined = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        bare += [f"{name}.{one.name}" for one in defined if one.name[0] != "_" and not ast.get_docstring(one)]
    assert bare == []


SETTINGS_AND_TABLES = ("pydantic_settings", "rich")


@pytest.mark.parametrize(
    ("command", "unwanted"),
    [
        (["--help"], HEAVY + SETTINGS_AND_TABLES),
        (["--version"], HEAVY + SETTINGS_AND_TABLES),
        (["rules", "--help"], HEAVY + SETTINGS_AND_TABLES),
        (["incidents", "list"], HEAVY),
        (["rules", "list"], tuple(name for name in HEAVY if name != "sqlglot")),
    ],
    ids=" ".join,
)
def test_quick_commands_load_nothing_that_they_do_not_need(command, unwanted, tmp_path):
    code = f"""
import sys
from shopstream.cli import app
from shopstream.cli.lazy_group import Group
app(["--home", {str(tmp_path)!r}, *{command!r}], standalone_mode=False)
print([name for name in {unwanted!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout
    assert done.stderr.strip() == "[]"


def entries(panels, path=()):
    """Path → entry of the table, for all commands and groups."""
    for table in panels.values():
        for name, entry in table.items():
            yield (*path, name), entry
            if isinstance(entry, Group):
                yield from entries({"": entry.commands}, (*path, name))


ENTRIES = dict(entries(get_command(app).panels))


@pytest.mark.parametrize("path", ENTRIES, ids=" ".join)
def test_the_table_of_commands_has_the_summary_of_each(path):
    command = get_command(app)
    for name in path:
        command = command.commands[name]
    assert ENTRIES[path].help == inspect.cleandoc(command.help).split("\n\n")[0]


def test_the_error_tree_is_the_one_that_its_docstring_draws():
    errors = importlib.import_module("shopstream.errors")
    drawn = [word for line in errors.__doc__.splitlines() for word in line.split() if word.endswith("Error")]
    assert sorted(drawn) == errors.__all__


def test_the_program_says_its_version():
    said = CliRunner().invoke(app, ["--version"])
    assert (said.exit_code, said.stdout) == (0, f"shopstream {version('shopstream')}\n")
