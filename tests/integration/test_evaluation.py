"""A whole evaluation on one small shop."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from shopstream.cli import app
from shopstream.evaluation.plan import Shop
from shopstream.evaluation.runs import AttackJob, BaselineJob, run_attack, run_baseline

SMALL = ("--events", "20000", "--history-days", "2", "--seeds", "1", "--tuning", "--jobs", "1")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def job(cache):
    job = BaselineJob.of(Shop(1000, events_a_day=20_000, history_days=2), cache)
    run_baseline(job)
    return job


def evaluate(cache, folder, *options):
    options = ["--home", str(folder), "evaluate", *SMALL, "--cache", str(cache), "--out", str(folder), *options]
    return CliRunner().invoke(app, options, env={"COLUMNS": "160"})


def test_an_evaluation_finds_a_flood_and_writes_what_it_found(job, cache, tmp_path):
    page = tmp_path / "page.md"
    result = evaluate(cache, tmp_path, "--scenario", "site_flood", "--markdown", str(page), "--explain")
    assert result.exit_code == 0, result.output
    assert "site flood" in result.output
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    assert figures["rows"][0]["found"] == 1
    assert figures["baseline"]["events"] > 10_000
    assert json.loads((tmp_path / "scenarios" / "site_flood.json").read_text())[0]["seed"] == job.shop.seed
    assert "| site flood |" in page.read_text()
    assert (tmp_path / "report.html").stat().st_size > 1_000_000


def test_the_same_attack_gives_the_same_result(job, tmp_path):
    first, second = (replace(run_attack(AttackJob(job, "fast_scraper", tmp_path)), seconds=0) for _ in range(2))
    assert first == second
    assert first.hostile > 0
    assert first.actors


def test_the_figures_are_printed_as_json(cache, tmp_path):
    result = evaluate(cache, tmp_path, "--scenario", "pulse", "--format", "json")
    assert json.loads(result.stdout)["rows"][0]["scenario"] == "pulse"


def test_an_unknown_scenario_is_an_error(cache, tmp_path):
    result = evaluate(cache, tmp_path, "--scenario", "flod")
    assert result.exit_code
    assert "expected scenarios among" in str(result.exception)
