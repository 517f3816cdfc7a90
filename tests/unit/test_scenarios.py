"""Scenario files: what they may say, what is drawn from them, and what the commands show."""

import json
from collections import Counter
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from shopstream.cli import app
from shopstream.detection.detection import Nature
from shopstream.errors import ConfigurationError
from shopstream.simulation.injection import Target
from shopstream.simulation.scenario_file import KINDS, SCENARIO_FILES, Domain, load_scenarios
from shopstream.simulation.synthesis import SynthesisSettings

START = datetime(2019, 11, 5, tzinfo=UTC)
SHIPPED = load_scenarios()
GOOD = """\
id: two_bots
title: Two bots
description: They walk.
nature: attack
kind: scraper
target: actor
duration: {between: [5m, 10m]}
parameters:
  bots: 2
  gap_s: {one_of: [1.0, 2.5]}
goal: {recall: 0.9, within: 60s}
"""
CATALOGUE = {
    "site_flood": (0.99, "≤ 30s"),
    "mild_flood": (0.90, "≤ 6m"),
    "category_flood": (0.98, "≤ 3m"),
    "product_flood": (0.98, "≤ 3m"),
    "slow_ramp": (0.95, "before factor 2.5"),
    "pulse": (0.95, "≤ 10m"),
    "distributed": (0.90, "≤ 5m"),
    "fast_scraper": (0.99, "≤ 1m"),
    "metronome": (0.97, "≤ 20 events"),
    "jittered": (0.95, "≤ 30 events"),
    "human_like_crawler": (0.80, "≤ 12h"),
    "human_like_rotating": (0.60, "≤ 30m"),
    "hoarding": (0.98, "≤ 5m"),
    "scalping": (0.90, "≤ 3m"),
    "carding_one_id": (0.95, "≤ 5m"),
    "carding_many_ids": (0.95, "≤ 5m"),
    "silence_site": (1, "≤ 1m"),
    "silence_type": (1, "≤ 1m"),
    "duplicate_storm": (1, "≤ 1m"),
    "purchase_collapse_half": (0.95, "≤ 30m"),
    "purchase_collapse_most": (0.95, "≤ 10m"),
    "price_too_low": (1, "≤ 1 event"),
    "price_too_high": (1, "≤ 1 event"),
}
CONTROLS = {"flash_sale", "flash_sale_category", "promotion_day", "outage_recovery", "outage_backlog"}


@pytest.fixture(scope="module")
def world():
    return SynthesisSettings(seed=1_000).world()


def _written(tmp_path, text, name="two_bots.yml"):
    path = tmp_path / name
    path.write_text(text)
    scenarios, problems = SCENARIO_FILES.read(path)
    return scenarios.get(path.stem), problems


def test_every_scenario_ships_with_its_goal():
    targets = {
        name: (file.goal.recall, file.goal.describe().partition(", ")[2])
        for name, file in SHIPPED.items()
        if file.nature is not Nature.SURGE
    }
    assert targets == CATALOGUE
    assert {name for name, file in SHIPPED.items() if file.nature is Nature.SURGE} == CONTROLS
    for name in CONTROLS:
        assert SHIPPED[name].goal.describe() == "0 critical, ≤ 1 informational"


def test_attacks_are_tagged_with_their_threat():
    for file in SHIPPED.values():
        assert bool(file.tags) == file.hostile == (file.nature is Nature.ATTACK), file.id
        assert all(tag.startswith(("oat-0", "attack.t")) for tag in file.tags)


def test_every_kind_is_used_and_the_files_are_packaged():
    assert {file.kind for file in SHIPPED.values()} == set(KINDS)
    assert (files("shopstream.simulation") / "scenarios" / "site_flood.yml").is_file()


def test_the_page_has_each_scenario_with_its_goal_and_each_kind_with_its_parameters(tmp_path):
    page = (Path(__file__).resolve().parents[2] / "docs" / "scenarios.md").read_text(encoding="utf-8")
    cases, kinds = page.split("| kind | target | parameters |")
    for name, file in SHIPPED.items():
        (row,) = (line for line in cases.splitlines() if line.startswith(f"| `{name}` |"))
        assert row.endswith(f"| {file.goal.describe()} |")
        assert file.duration.describe("ms") in row
        assert all(f"{word} {domain.describe()}" in row for word, domain in file.parameters.items())
    for name, kind in KINDS.items():
        (row,) = (line for line in kinds.splitlines() if line.startswith(f"| `{name}` | {', '.join(kind.TARGETS)} |"))
        assert all(
            f"`{field.name}`" in row for field in fields(kind) if field.name not in {"start", "duration", "target"}
        )
    example = page.split("```yaml\n")[1].split("```")[0]
    assert _written(tmp_path, example)[1] == []


# drawing


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_cases_lie_within_the_parameters_and_the_day(name, world):
    file = SHIPPED[name]
    lengths = [int(value) for value in file.duration.extremes()]
    for seed in range(1_000, 1_040):
        case = file.draw(file.chance(seed), START, world)
        assert START <= case.start < START + timedelta(days=1)
        assert case.start + case.duration <= START + timedelta(days=1)
        assert min(lengths) <= case.duration / timedelta(milliseconds=1) <= max(lengths)
        for parameter, domain in file.parameters.items():
            value = case.parameters[parameter]
            if domain.between:
                assert domain.between[0] <= value <= domain.between[1]
            else:
                assert value in domain.one_of
        assert json.loads(json.dumps(case.parameters)) == case.parameters
        column = {"category": "category_id", "product": "product_id", "event_type": "event_type"}.get(file.target)
        assert list(case.key) == ([column] if column else [])


@pytest.mark.parametrize("name", ["category_flood", "product_flood", "silence_type", "scalping"])
def test_the_target_has_at_least_the_minimum_rate(name, world):
    file = SHIPPED[name]
    keys = set()
    for seed in range(1_000, 1_020):
        case = file.draw(file.chance(seed), START, world)
        ((column, value),) = case.key.items()
        shop, place = world.catalogue, -1
        if column != "event_type":
            place = int(np.flatnonzero(getattr(shop, column) == int(value))[0])
        assert world.rate(Target(column, value, place), round(case.start.timestamp() * 1000)) >= file.min_rate
        keys.add(value)
    assert len(keys) > 1 or name == "product_flood"


def test_every_hour_is_drawn_and_the_busiest_three_more_often(world):
    file = SHIPPED["pulse"]
    hours = Counter(file.draw(file.chance(seed), START, world).start.hour for seed in range(1_000, 3_000))
    assert set(hours) == set(range(24))
    rates = world.intensity.rate_at(
        np.array([round(START.timestamp() * 1000) + h * 3_600_000 for h in range(24)]) + 1_800_000
    )
    peak = np.argsort(rates)[-3:]
    assert sum(hours[int(hour)] for hour in peak) / 2_000 == pytest.approx(0.25 + 0.75 * 3 / 24, abs=0.04)


def test_the_same_seed_gives_the_same_case_and_scenarios_differ(world):
    file = SHIPPED["site_flood"]
    one, two = (file.draw(file.chance(1_000), START, world) for _ in range(2))
    assert (one.start, one.parameters) == (two.start, two.parameters)
    starts = {
        other.draw(other.chance(1_000), START, world).start for other in SHIPPED.values() if other.id in CATALOGUE
    }
    assert len(starts) > 20


def test_the_start_of_a_case_can_be_set(world):
    file, noon = SHIPPED["fast_scraper"], START + timedelta(hours=12)
    assert file.draw(file.chance(1_000), START, world, noon).start == noon


def test_a_shop_that_is_too_quiet_is_refused():
    quiet = SynthesisSettings(events=10_000, products=1_000, seed=1_000).world()
    file = SHIPPED["category_flood"]
    with pytest.raises(ConfigurationError, match=r"no category has 0\.5 events/s.* make the shop busier"):
        file.draw(file.chance(1_000), START, quiet)


def test_a_case_outside_of_the_period_is_refused(world):
    file = SHIPPED["pulse"]
    for arguments in ([START + timedelta(days=3)], [START, START + timedelta(days=1)]):
        day, *at = arguments
        with pytest.raises(ConfigurationError, match="pulse to begin inside the period"):
            file.draw(file.chance(1_000), day, world, *at)


def test_a_day_long_case_begins_at_midnight_in_a_day_and_anywhere_in_two(world):
    file = SHIPPED["human_like_crawler"]
    assert file.draw(file.chance(1_000), START, world).start == START
    longer = SynthesisSettings(seed=1_000, days=2, events=1_000, products=1_000).world()
    starts = {file.draw(file.chance(seed), START, longer).start for seed in range(1_000, 1_010)}
    assert len(starts) == 10


def test_integers_stay_integers_and_a_log_scale_draws_by_factor():
    rng = np.random.default_rng(1_000)
    whole = Domain(between=(500, 50_000), scale="log")
    drawn = [whole.draw(rng) for _ in range(500)]
    assert all(isinstance(value, int) for value in drawn)
    assert np.median(drawn) == pytest.approx(5_000, rel=0.3)
    assert {Domain(between=(1, 3)).draw(rng) for _ in range(100)} == {1, 2, 3}


def test_the_time_limit_of_a_ramp_is_when_it_reaches_the_factor(world):
    from shopstream.simulation.injection import GroundTruth  # noqa: PLC0415

    goal = SHIPPED["slow_ramp"].goal
    truth = GroundTruth("flood", Nature.ATTACK, START, START + timedelta(hours=1), (), 0, parameters={"factor": 3})
    assert goal.limit(truth) == timedelta(minutes=45)
    assert SHIPPED["pulse"].goal.limit(truth) == timedelta(minutes=10)
    assert SHIPPED["metronome"].goal.limit(truth) is None
    del world


# files


def test_a_good_file_is_read(tmp_path):
    scenario, problems = _written(tmp_path, GOOD)
    assert problems == []
    assert scenario.duration.between == (300_000, 600_000)
    assert scenario.parameters["gap_s"].one_of == (1.0, 2.5)
    assert scenario.hostile


@pytest.mark.parametrize(
    ("before", "after", "line", "message"),
    [
        ("id: two_bots", "id: three_bots", 1, "expected 'two_bots' as the file is named, got 'three_bots'"),
        ("title: Two bots", "titel: Two bots", 2, "unknown word 'titel'; did you mean 'title'?"),
        ("nature: attack", "nature: evil", 4, "take attack, fault or surge"),
        ("kind: scraper", "kind: scrapper", 5, "expected one of carding, crawler"),
        ("target: actor", "target: site", 6, "expected actor for scraper, got 'site'"),
        ("[5m, 10m]", "[5, 10]", 7, "expected a duration such as 500ms"),
        ("[5m, 10m]", "[10m, 5m]", 7, "expected between: [smaller, greater]"),
        ("bots: 2", "bots: two", 9, "expected a whole number, got 'two'"),
        ("bots: 2", "bots: 2.5", 9, "expected a whole number, got 2.5"),
        ("bots: 2", "bots: yes", 9, "expected a number, a text, or"),
        ("bots: 2", "bots: 0", 9, "expected at least 1 bot for a scraper, got 0"),
        ("bots: 2", "bots: {between: [0, 5]}", 9, "expected at least 1 bot for a scraper, got 0"),
        ("bots: 2", "bots: {one_of: [1], between: [1, 2]}", 9, "expected either one_of with values, or between"),
        ("bots: 2", "bots: {between: [1, 2], scale: cubic}", 9, "'linear' or 'log'"),
        ("bots: 2", "bots: {between: [.nan, 2.0]}", 9, "expected numbers"),
        ("bots: 2", "bots: {between: [1.0, .inf]}", 9, "expected between: [smaller, greater]"),
        ("bots: 2", "robots: 2", 9, "scraper has no 'robots'; it has bots, gap_s"),
        ("  bots: 2\n", "", 8, "scraper needs bots"),
        ("[1.0, 2.5]", "[1.0, -1.0]", 10, "gap of 0.01 to 86400 s for a scraper, got -1.0"),
        ("recall: 0.9, within: 60s", "recall: 0.9", 11, "expected recall and one of within, events, before_factor"),
        ("recall: 0.9, within: 60s", "recall: 2, within: 60s", 11, "less than or equal to 1"),
        ("recall: 0.9, within: 60s", "recall: 0.9, before_factor: 2", 11, "before_factor needs a parameter factor"),
        ("nature: attack", "nature: surge", 11, "expected critical and informational for a surge"),
        ("bots: 2", "bots: *x", 9, "anchors and aliases are not allowed"),
    ],
)
def test_an_invalid_file_is_reported_with_line_and_remedy(tmp_path, before, after, line, message):
    assert before in GOOD
    scenario, problems = _written(tmp_path, GOOD.replace(before, after))
    assert scenario is None
    assert any(message in str(problem) and problem.line == line for problem in problems), [str(p) for p in problems]
    assert all(str(problem).startswith(f"{tmp_path / 'two_bots.yml'}:") for problem in problems)


def test_own_files_replace_shipped_ones_and_invalid_files_are_an_error(tmp_path):
    (tmp_path / "pulse.yml").write_text(GOOD.replace("two_bots", "pulse"))
    assert load_scenarios(tmp_path)["pulse"].kind == "scraper"
    (tmp_path / "late.yaml").write_text(GOOD)
    with pytest.raises(ConfigurationError, match=r"late\.yaml:1: scenario late: scenario files end in \.yml"):
        load_scenarios(tmp_path)
    with pytest.raises(ConfigurationError, match="expected scenario files at"):
        load_scenarios(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="found none; create one"):
        SCENARIO_FILES.load(tmp_path / "none.yml")


# commands


def test_the_commands_list_and_show_scenarios():
    listed = CliRunner().invoke(app, ["scenarios", "list", "--format", "json"])
    assert [row["id"] for row in json.loads(listed.stdout)] == sorted(SHIPPED)
    shown = json.loads(CliRunner().invoke(app, ["scenarios", "show", "site_flood", "--format", "json"]).stdout)
    assert shown["parameters"] == {"factor": "3 or 10", "ids": "500 to 50000 (log)"}
    table = CliRunner().invoke(app, ["scenarios", "show", "metronome"])
    assert "10.0 to 60.0" in table.stdout


def test_an_unknown_scenario_is_an_error_that_lists_the_known_ones():
    result = CliRunner().invoke(app, ["scenarios", "show", "tsunami"])
    assert isinstance(result.exception, ConfigurationError)
    assert "site_flood" in str(result.exception)


def test_the_check_command_counts_problems(tmp_path):
    (tmp_path / "two_bots.yml").write_text(GOOD)
    good = CliRunner().invoke(app, ["scenarios", "check", str(tmp_path)])
    assert (good.exit_code, good.stdout.strip()) == (0, "1 good, 0 wrong")
    (tmp_path / "two_bots.yml").write_text(GOOD.replace("bots: 2", "bots: 0"))
    bad = CliRunner().invoke(app, ["scenarios", "check", str(tmp_path / "two_bots.yml"), "--format", "json"])
    assert bad.exit_code == 1
    assert [problem["line"] for problem in json.loads(bad.stdout)] == [9]
