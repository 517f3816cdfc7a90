"""The worker's containers, and what the image is made from."""

import re
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).parents[2]
_COMMANDS = _REPOSITORY / "src" / "shopstream" / "cli"


def tasks(stage):
    return {
        t["Family"].removeprefix(f"{stage.config.prefix}-"): t for t in stage.properties("AWS::ECS::TaskDefinition")
    }


def services(stage):
    return {s["ServiceName"].removeprefix(f"{stage.config.prefix}-"): s for s in stage.properties("AWS::ECS::Service")}


def containers(stage):
    return [(name, one) for name, task in tasks(stage).items() for one in task["ContainerDefinitions"]]


def test_no_container_is_root_or_writes_outside_of_its_volumes(stage):
    for name, container in containers(stage):
        assert container["User"] == "10001:10001", name
        assert container["ReadonlyRootFilesystem"] is True, name
        assert {point["ContainerPath"] for point in container["MountPoints"]} >= {"/data", "/tmp"}  # noqa: S108


def test_engine_and_dashboard_share_the_data_volume(stage):
    worker = tasks(stage)["worker"]
    volumes = [
        {p["SourceVolume"] for p in c["MountPoints"] if p["ContainerPath"] == "/data"}
        for c in worker["ContainerDefinitions"]
    ]
    assert volumes == [{"data"}, {"data"}]


def test_the_dashboard_is_unreachable_from_outside_its_task(stage):
    (page,) = [c for name, c in containers(stage) if c["Name"] == "dashboard"]
    assert page["Command"] == ["dashboard"]  # which listens on loopback, unless told otherwise
    assert "PortMappings" not in page
    assert page["Essential"] is False
    assert "127.0.0.1:8787/healthz" in str(page["HealthCheck"]["Command"])


def test_an_engine_that_hangs_is_replaced(stage):
    from_image = re.search(r"HEALTHCHECK .* CMD (.+)", (_REPOSITORY / "docker" / "Dockerfile").read_text())[1]
    for _, container in containers(stage):
        if container["Name"] in {"engine", "archive"}:
            assert container["HealthCheck"]["Command"] == ["CMD-SHELL", from_image]
            assert container["Essential"] is True


def test_a_worker_has_two_minutes_to_commit_before_it_is_killed(stage):
    assert {container["StopTimeout"] for _, container in containers(stage)} == {120}


def test_tasks_run_on_arm(stage):
    assert {t["RuntimePlatform"]["CpuArchitecture"] for t in tasks(stage).values()} == {"ARM64"}


def test_one_worker_runs_and_prod_has_a_standby(stages):
    assert services(stages["dev"])["worker"]["DesiredCount"] == 1
    assert services(stages["prod"])["worker"]["DesiredCount"] == 2


def test_archive_workers_are_off_without_flink(stages, variant):
    assert services(stages["prod"])["archive"]["DesiredCount"] == 0
    assert services(variant)["archive"]["DesiredCount"] == 2
    assert "worker" not in services(variant)


def test_a_version_that_does_not_come_up_is_rolled_back(stage):
    for service in services(stage).values():
        assert service["DeploymentConfiguration"]["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}
        assert service["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] == "DISABLED"
        assert service["EnableExecuteCommand"] is True


def test_reports_and_upkeep_run_on_a_schedule(stage):
    schedules = {s["Name"]: s for s in stage.properties("AWS::Scheduler::Schedule")}
    assert schedules[f"{stage.config.prefix}-build"]["ScheduleExpression"] == stage.config.build_schedule
    assert schedules[f"{stage.config.prefix}-upkeep"]["ScheduleExpression"] == stage.config.upkeep_schedule


def test_a_scheduled_task_that_fails_is_noticed(stage):
    pattern = stage.one("AWS::Events::Rule")["EventPattern"]["detail"]
    (group,) = pattern["group"]
    build = next(s for s in stage.properties("AWS::Scheduler::Schedule") if s["Name"].endswith("-build"))
    assert build["Target"]["EcsParameters"]["Group"] == group
    assert {"containers": {"exitCode": [{"anything-but": 0}]}} in pattern["$or"]


def test_commands_of_containers_exist(stages, variant):
    lines = []
    for stage in (*stages.values(), variant):
        for _, container in containers(stage):
            lines += (
                ["shopstream " + " ".join(container["Command"])]
                if "EntryPoint" not in container
                else [line for command in container["Command"] for line in command.split(" && ")]
            )
    table = (_COMMANDS / "program.py").read_text(encoding="utf-8")
    for line in lines:
        words = line.split()
        assert words[0] == "shopstream"
        path = [word for word in words[1:3] if not word.startswith("-")]
        assert all(f'"{word}": ' in table for word in path), line
        found = re.search(rf'"{path[-1]}": Command\(\s*"(\w+):', table)
        assert found, line
        for option in (word for word in words if word.startswith("--")):
            assert f'"{option}"' in (_COMMANDS / f"{found[1]}.py").read_text(encoding="utf-8"), line


def test_a_configured_image_is_used(variant):
    for _, container in containers(variant):
        assert str(container["Image"]).endswith("/shopstream:1.2.3']]}")


@pytest.mark.parametrize("line", (_REPOSITORY / "docker" / "Dockerfile").read_text().splitlines())
def test_base_images_name_no_registry(line):
    if line.startswith("FROM"):
        assert re.fullmatch(r"FROM python:3\.\d+-slim( AS \w+)?", line)


def test_the_image_has_locked_dependencies_and_is_not_root():
    text = (_REPOSITORY / "docker" / "Dockerfile").read_text()
    assert "--require-hashes -r requirements/aws.txt" in text
    assert "\nUSER 10001:10001\n" in text
    assert "HEALTHCHECK" in text


def test_dockerignore_admits_what_the_image_copies():
    allowed = {
        line.removeprefix("!")
        for line in (_REPOSITORY / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    text = (_REPOSITORY / "docker" / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in [word for word in line.split()[:-1] if not word.startswith("--")]:
            assert (_REPOSITORY / source).exists(), source
            assert any(entry == source or entry.startswith(f"{source}/") for entry in allowed), source


def test_commands_by_ecs_exec_do_not_run_as_root():
    script = (_REPOSITORY / "docker" / "shopstream").read_text()
    text = (_REPOSITORY / "docker" / "Dockerfile").read_text()
    assert "setpriv --reuid=10001 --regid=10001 --clear-groups" in script
    assert "COPY --chmod=0755 docker/shopstream /usr/local/bin/shopstream" in text
    assert 'ENTRYPOINT ["shopstream"]' in text


def test_settings_and_data_do_not_enter_the_image():
    lines = (_REPOSITORY / ".dockerignore").read_text().splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*"
    assert not [line for line in lines if line.startswith("!") and ("toml" in line) and "pyproject" not in line]


def test_windows_may_take_half_of_the_workers_memory(stage):
    (engine,) = [c for _, c in containers(stage) if c["Name"] == "engine"]
    variables = {one["Name"]: one["Value"] for one in engine["Environment"]}
    memory_mib = int(tasks(stage)["worker"]["Memory"])
    assert variables["SHOPSTREAM_ENGINE__MEMORY_LIMIT"] == f"{memory_mib // 2}MiB"
