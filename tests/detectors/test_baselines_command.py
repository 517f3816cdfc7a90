"""`shopstream baselines` teaches detectors what is normal, from a file or the lake."""

import json
from datetime import timedelta

import pytest
from typer.testing import CliRunner

from shopstream.cli.program import app
from shopstream.detection.baseline import Baselines
from shopstream.errors import ConfigurationError, StateError
from shopstream.simulation.synthesis import DEFAULT_START, Synthesis, SynthesisSettings

EVENTS = 30_000


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    path = tmp_path_factory.mktemp("home")
    file = path / "days.parquet"
    Synthesis(SynthesisSettings(start=DEFAULT_START - timedelta(days=3), days=3, events=EVENTS, products=5_000)).write(
        file
    )
    result = CliRunner().invoke(app, ["--home", str(path), "baselines", "build", "--events", str(file)])
    assert result.exit_code == 0, result.output
    assert "3.0 days" in result.output
    return path


def run(home, *words):
    return CliRunner().invoke(app, ["--home", str(home), "baselines", *words], catch_exceptions=False)


def test_show_draws_each_day_and_says_how_far_forecasts_miss(home):
    output = run(home, "show").output
    assert "event_type=purchase" in output
    assert "█" in output
    assert "%" in output


def test_show_gives_json(home):
    rows = {row["name"]: row for row in json.loads(run(home, "show", "--format", "json").stdout)}
    site = rows["site"]
    assert sum(site["hours"]) / 24 * 86_400 == pytest.approx(EVENTS / 3, rel=0.1)
    assert max(site["hours"]) > 5 * min(site["hours"])
    assert 0.01 < rows["tail_60s"]["mean"] < 0.3


def test_show_draws_a_page(home, tmp_path):
    run(home, "show", "--html", str(tmp_path / "page.html"))
    assert "event_type=view" in (tmp_path / "page.html").read_text()


def test_what_is_saved_is_what_is_loaded(home, tmp_path):
    baselines = Baselines.load(home / "baselines.json")
    baselines.save(tmp_path / "again.json")
    again = Baselines.load(tmp_path / "again.json")
    assert again == baselines
    assert again.products.equals(baselines.products)


def test_without_baselines_show_says_what_to_do(tmp_path):
    with pytest.raises(ConfigurationError, match="baselines build"):
        run(tmp_path, "show")


@pytest.mark.parametrize("text", ["{", '{"format": 0}', "[]", '{"format": 1}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "baselines.json").write_text(text)
    with pytest.raises(StateError, match="baselines build"):
        Baselines.load(tmp_path / "baselines.json")


def test_too_little_history_is_said(tmp_path):
    file = tmp_path / "few.csv"
    Synthesis(SynthesisSettings(events=500, products=1_000)).write(file)
    with pytest.raises(StateError, match="an hour of history"):
        run(tmp_path, "build", "--events", str(file), "--to", "2019-11-05T00:30")
