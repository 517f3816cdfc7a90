"""The functions' package: the same bytes each time, for the platform that is asked for, within the limits of Lambda."""

import hashlib
import json
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from shopstream.detection.rule import load_rules
from shopstream.detection.rule_matcher import read_rule_bundle

pytestmark = pytest.mark.aws

SCRIPT = Path(__file__).resolve().parents[2] / "infra" / "package_lambda.py"


def made(folder, *options):
    """The archive, and what is said of it."""
    command = [sys.executable, str(SCRIPT), "--out", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("*.zip")
    return archive, json.loads(archive.with_suffix(".json").read_text()), done.stdout


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """As `make lambda` makes it."""
    return made(tmp_path_factory.mktemp("deployed"))


def test_it_fits_into_lambda_with_room_to_spare(deployed):
    archive, described, printed = deployed
    assert archive.stat().st_size == described["zipped_bytes"] < 25_000_000
    assert described["unzipped_bytes"] < 100_000_000
    assert "aws_lambda_powertools" in printed


def test_what_is_said_of_it_is_so(deployed):
    archive, described, _ = deployed
    assert described["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert described["architecture"] == "arm64"
    assert described["runtime"] == f"python{sys.version_info.major}.{sys.version_info.minor}"
    with zipfile.ZipFile(archive) as content:
        compiled = [name for name in content.namelist() if name.endswith(".so")]
    assert compiled
    assert all("aarch64" in name for name in compiled)


def test_it_holds_no_database_and_no_parser(deployed):
    with zipfile.ZipFile(deployed[0]) as content:
        top = {name.partition("/")[0] for name in content.namelist()}
    assert top.isdisjoint({"duckdb", "pyarrow", "numpy", "sqlglot", "pyiceberg", "dbt", "apprise"})


def test_it_holds_bytecode_for_every_module(deployed):
    with zipfile.ZipFile(deployed[0]) as content:
        names = set(content.namelist())
    tag = sys.implementation.cache_tag
    modules = [Path(name) for name in names if name.startswith("shopstream/") and name.endswith(".py")]
    assert modules
    assert {str(path.parent / "__pycache__" / f"{path.stem}.{tag}.pyc") for path in modules} <= names


def test_it_holds_the_rules_that_run(deployed):
    with zipfile.ZipFile(deployed[0]) as content:
        packed = read_rule_bundle(content.read("shopstream/lambdas/rules.json"), "rules.json")
    assert packed.keys() == {rule_id for rule_id, rule in load_rules().items() if rule.enabled}


def test_the_same_inputs_give_the_same_bytes(deployed, tmp_path):
    assert made(tmp_path)[1] == deployed[1]


def test_own_rules_and_allow_lists_come_along(tmp_path):
    (tmp_path / "rules").mkdir()
    (tmp_path / "allow").mkdir()
    text = (SCRIPT.parents[1] / "src/shopstream/detection/rules/user_burst.yml").read_text(encoding="utf-8")
    (tmp_path / "rules" / "my_burst.yml").write_text(text.replace("id: user_burst", "id: my_burst"), encoding="utf-8")
    entries = "entries:\n  - {id: staff, reason: They test., expires: 2099-01-01, actors: {user_id: [7]}}\n"
    (tmp_path / "allow" / "staff.yml").write_text(entries)
    options = ["--rules", str(tmp_path / "rules"), "--allow-lists", str(tmp_path / "allow")]
    archive, _, _ = made(tmp_path / "out", "--architecture", platform.machine(), *options)
    with zipfile.ZipFile(archive) as content:
        assert "my_burst" in read_rule_bundle(content.read("shopstream/lambdas/rules.json"), "rules.json")
        assert content.read("shopstream/lambdas/allow_lists/staff.yml").decode() == entries
