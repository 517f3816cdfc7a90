"""A value that does not fit is refused before anything is deployed, and says what would fit."""

from dataclasses import replace

import pytest

from shopstream_infra.config import STAGES, ConfigError, load_stages


@pytest.fixture
def overrides(tmp_path):
    def write(text):
        path = tmp_path / "stages.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_without_a_file_stages_have_the_shipped_values(tmp_path):
    assert load_stages(tmp_path / "none.toml") == STAGES


def test_a_file_changes_one_stage_and_leaves_the_other(overrides):
    stages = load_stages(overrides('[prod]\nops_email = "ops@example.com"\nevents_retention_hours = 48\n'))
    assert stages["prod"].ops_email == "ops@example.com"
    assert stages["prod"].events_retention_hours == 48
    assert stages["dev"] == STAGES["dev"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[test]\n", r"a stage of dev, prod.*\[test\]"),
        ("[dev]\nevent_shards = 2\n", "got 'event_shards'; there are"),
        ('[dev]\nname = "other"\n', "got 'name'"),
        ('[dev]\nevents_shards = "2"\n', "to be int, got '2'"),
        ('[dev]\nevents_mode = "auto"\n', "'on-demand' or 'provisioned', got 'auto'"),
        ("[dev]\nretains = 1\n", "to be bool, got 1"),
        ("dev = 3\n", r"below \[dev\].*got dev = 3"),
        ("[dev]\nsettings = 3\n", "to be dict, got 3"),
        ("[dev\n", r"stages\.toml.*TOML"),
    ],
)
def test_the_error_about_an_invalid_file_names_valid_values(overrides, text, told):
    with pytest.raises(ConfigError, match=told):
        load_stages(overrides(text))


@pytest.mark.parametrize(
    "values",
    [
        {"events_retention_hours": 23},
        {"events_retention_hours": 169},
        {"log_days": 8},
        {"events_shards": 0},
        {"worker_standby": -1},
        {"worker_disk_gib": 20},
        {"detection_timeout_s": 901},
        {"build_schedule": "03:00"},
        {"worker_image": "shopstream"},
        {"flink_code": "jobs/flink.zip"},
        {"ops_email": "nobody"},
        {"worker_cpu": 1000},
        {"worker_memory_mib": 1024},
        {"worker_memory_mib": 4000},
        {"detection_memory_mib": 64},
        {"monthly_budget_usd": 0},
        {"timezone": "Berlin"},
        {"settings": {"SHOPSTREAM_PROFILE": "embedded"}},
        {"settings": {"SHOPSTREAM_AWS__GLUE__DATABASE": "other"}},
        {"settings": {"SHOPSTREAM_NOTIFY__URLS": "json://example"}},
        {"settings": {"SHOPSTREAM_ENGINE__THREADS": 2}},
        {"flink_code": "s3://jobs/flink.zip", "detection": "worker"},
    ],
    ids=str,
)
def test_values_that_aws_would_reject_are_rejected_early(values):
    with pytest.raises(ConfigError, match=r"expected \w+ of stage dev to be .*; correct it in infra/stages.toml"):
        replace(STAGES["dev"], **values)


def test_prod_is_larger_with_longer_retention_and_a_standby():
    dev, prod = STAGES["dev"], STAGES["prod"]
    assert (dev.retains, prod.retains) == (False, True)
    assert prod.events_retention_hours > dev.events_retention_hours
    assert prod.worker_standby > dev.worker_standby
    assert prod.nat_gateways > dev.nat_gateways
