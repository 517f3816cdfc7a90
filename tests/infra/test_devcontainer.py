"""The dev container names what exists: its folder is where people work, instead of Cloud9."""

import json
import re
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).parents[2]
_FOLDER = _REPOSITORY / ".devcontainer"
_MAKEFILE = (_REPOSITORY / "Makefile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def container():
    return json.loads((_FOLDER / "devcontainer.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def dockerfile(container):
    return (_FOLDER / container["build"]["dockerfile"]).read_text(encoding="utf-8")


def test_its_commands_are_targets_of_the_makefile(container):
    program, *targets = container["postCreateCommand"].split()
    assert program == "make"
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", _MAKEFILE, re.MULTILINE), target


def test_the_base_image_names_no_registry(dockerfile):
    (line,) = re.findall(r"^FROM (.+)$", dockerfile, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+-\w+", line)


def test_people_are_not_root(container, dockerfile):
    assert container["remoteUser"] == "dev"
    assert re.search(r"^USER dev$", dockerfile, re.MULTILINE)
    assert "useradd --uid 1000" in dockerfile


def test_what_the_makefile_calls_is_installed(dockerfile):
    for package in ("nodejs", "npm", "default-jre-headless", "maven", "make", "git", "awscli", "docker-cli"):
        assert re.search(rf"[ ]{package}\b", dockerfile), package


def test_images_are_built_by_the_docker_of_the_host(container, dockerfile):
    assert f"/usr/local/bin/{container['containerEnv']['CDK_DOCKER']}" in dockerfile
    assert any("/var/run/docker.sock" in mount for mount in container["mounts"])
    needs_buildkit = "COPY --chmod" in (_REPOSITORY / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert " docker-buildx " in dockerfile or not needs_buildkit


def test_the_dashboard_s_port_is_forwarded(container):
    docs = (_REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    (port,) = container["forwardPorts"]
    assert f"| `SHOPSTREAM_DASHBOARD__PORT` | `{port}` |" in docs


def test_the_interpreter_is_that_of_make_env(container):
    chosen = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert chosen.endswith("/.venv/bin/python")
    assert re.search(r"^VENV\s+:= \.venv$", _MAKEFILE, re.MULTILINE)
