"""Both stages, synthesised once for all tests, as JSON templates and as the objects they were made from."""

import json
import os
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", "20")

import pytest
from aws_cdk import App

from shopstream_infra.config import STAGES, StageConfig
from shopstream_infra.stage import FLAGS, ShopstreamStage


@dataclass(frozen=True)
class Synthesised:
    """One stage: stack name without prefix → template, its file, and the messages on its resources."""

    config: StageConfig
    templates: dict[str, dict]
    files: dict[str, Path]
    messages: list[tuple[str, str, str]]

    def resources(self, kind=None):
        """(stack, logical id) → resource, of all stacks; of one CloudFormation type, if named."""
        return {
            (stack, name): resource
            for stack, template in self.templates.items()
            for name, resource in template.get("Resources", {}).items()
            if kind is None or resource["Type"] == kind
        }

    def properties(self, kind):
        """Properties of all resources of one type."""
        return [resource["Properties"] for resource in self.resources(kind).values()]

    def one(self, kind):
        """Properties of the only resource of a type."""
        (only,) = self.properties(kind)
        return only


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """Stands for the functions' package, which is not built here."""
    path = tmp_path_factory.mktemp("package") / "shopstream-detection.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("shopstream/__init__.py", "")
    path.with_suffix(".json").write_text(json.dumps({"runtime": "python3.13", "architecture": "arm64"}))
    return path


@pytest.fixture(scope="session")
def synthesise(package, tmp_path_factory):
    """Makes stages with some values changed."""

    def make(*configs):
        app = App(outdir=str(tmp_path_factory.mktemp("cdk.out")), context=FLAGS)
        for config in configs:
            ShopstreamStage(app, replace(config, detection_zip=str(package)), report_accepted=True)
        assembly = app.synth()
        return {
            config.name: _read(config, assembly.get_nested_assembly(f"assembly-{config.name}")) for config in configs
        }

    return make


def _read(config, assembly):
    templates, files, messages = {}, {}, []
    for artifact in assembly.stacks:
        name = artifact.stack_name.removeprefix(f"{config.prefix}-")
        files[name] = Path(artifact.template_full_path)
        templates[name] = json.loads(files[name].read_text())
        messages += [(message.level.name, message.id, str(message.entry.data)) for message in artifact.messages]
    return Synthesised(config, templates, files, messages)


@pytest.fixture(scope="session")
def stages(synthesise):
    """Both stages as shipped."""
    return synthesise(*STAGES.values())


@pytest.fixture(params=sorted(STAGES))
def stage(stages, request):
    """Each stage as shipped."""
    return stages[request.param]


@pytest.fixture(scope="session")
def variant(synthesise):
    """Dev with what is off as shipped: Flink, notebook, endpoints, provisioned shards, addresses."""
    config = replace(
        STAGES["dev"],
        ops_email="ops@example.com",
        incidents_email="shop@example.com",
        events_mode="provisioned",
        events_shards=4,
        egress="endpoints",
        archive_workers=2,
        baselines_key="baselines/baselines.json",
        flink_code="s3://my-jobs/shopstream-flink.zip",
        flink_notebook=True,
        worker_image="shopstream:1.2.3",
        settings={"SHOPSTREAM_ENGINE__THREADS": "2", "SHOPSTREAM_DETECTION__DETECTORS_OFF": '["burst"]'},
    )
    return synthesise(config)["dev"]


@pytest.fixture(params=[*sorted(STAGES), "variant"])
def any_stage(request):
    """Each stage as shipped, and the variant."""
    return (
        request.getfixturevalue("variant")
        if request.param == "variant"
        else request.getfixturevalue("stages")[request.param]
    )
