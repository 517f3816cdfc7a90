"""`shopstream synthesise` as a user meets it."""

import json

import pytest
from typer.testing import CliRunner

from shopstream.cli import app
from shopstream.errors import ConfigurationError

FLAGS = ["--events", "20000", "--products", "2000"]


def _run(*arguments):
    return CliRunner().invoke(app, ["synthesise", *arguments])


def test_the_command_writes_a_file_its_truth_and_a_summary(tmp_path):
    path = tmp_path / "day.csv"
    laid = ["--flood", "14:00,5m,10,200", "--scraper", "2019-11-05T09:00,1h,2,5", "--outage", "3:00,90s"]
    result = _run("--out", str(path), *FLAGS, *laid, "--flash-sale", "18:00,30m,3", "--format", "json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    truth = json.loads((tmp_path / "day.csv.truth.json").read_text())
    assert summary["events"] == truth["events"] == len(path.read_text().splitlines()) - 1
    assert [injection["kind"] for injection in summary["injections"]] == ["flash_sale", "outage", "flood", "scraper"]
    assert [injection["events"] for injection in summary["injections"]] == [e["events"] for e in truth["injections"]]
    assert [injection["attack"] for injection in summary["injections"]] == [False, False, True, True]
    assert truth["injections"][1]["until"] == "2019-11-05T03:01:30+00:00"


def test_scenarios_are_drawn_by_name_at_a_time_or_from_a_file(tmp_path):
    own = tmp_path / "two_bots.yml"
    own.write_text(
        "id: two_bots\ntitle: Two bots\ndescription: They walk.\nnature: attack\nkind: scraper\ntarget: actor\n"
        "duration: 10m\nparameters: {bots: 2, gap_s: 3.0}\ngoal: {recall: 1.0, within: 60s}\n"
    )
    laid = ["--scenario", "pulse@13:00", "--scenario", "hoarding", "--scenario", f"{own}@2019-11-05T20:00"]
    result = _run("--out", str(tmp_path / "day.csv"), *FLAGS, *laid, "--scraper", "9:00,5m,1,2", "--format", "json")
    assert result.exit_code == 0, result.output
    injections = json.loads(result.stdout)["injections"]
    assert [injection["scenario"] for injection in injections] == [None, "pulse", "hoarding", "two_bots"]
    assert [injection["from"][11:19] for injection in injections][1::2] == ["13:00:00", "20:00:00"]
    assert injections[3]["actors"] == 2
    again = _run("--out", str(tmp_path / "b.csv"), *FLAGS, *laid, "--scraper", "9:00,5m,1,2", "--format", "json")
    assert json.loads(again.stdout)["injections"] == injections


def test_the_table_is_for_people(tmp_path):
    result = _run(
        "--out", str(tmp_path / "a.parquet"), *FLAGS, "--out-of-order", "0.1,30", "--tracker", "--from", "2019-10-01"
    )
    assert result.exit_code == 0, result.output
    assert "genuine events" in result.stdout
    assert "2019-10-01" in result.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--from", "yesterday"], "a date like 2019-11-05, got 'yesterday'"),
        (["--flood", "14:00,5m,10"], "expected --flood START,DURATION,FACTOR,IDS, got '14:00,5m,10'"),
        (["--flood", "14:00,5,10,10"], "a duration like 90s, 10m, 2h or 1d, got '5'"),
        (["--flood", "noon,5m,10,10"], "a start like 13:00 or 2019-11-06T13:00, got 'noon'"),
        (["--flood", "25:70,5m,10,10"], "a start like 13:00 or 2019-11-06T13:00, got '25:70'"),
        (["--flood", "12:00,5m,ten,10"], "a number in --flood, got 'ten'"),
        (["--scraper", "12:00,5m,many,10"], "a whole number in --scraper, got 'many'"),
        (["--flash-sale", "12:00,5m"], "expected --flash-sale START,DURATION,FACTOR[,CATEGORY], got '12:00,5m'"),
        (["--outage", "2019-11-09,5m"], "expected the outage to begin inside the period"),
        (["--scenario", "tsunami"], "expected a scenario of carding_many_ids, "),
        (["--scenario", "pulse@"], "expected --scenario NAME@START, got 'pulse@'"),
        (["--scenario", "pulse@2019-12-24T13:00"], "expected the pulse to begin inside the period"),
        (["--scenario", "category_flood"], "expected scenario category_flood to fit at any hour of the day"),
        (["--out-of-order", "0.1"], "expected --out-of-order SHARE,SECONDS, got '0.1'"),
    ],
)
def test_a_wrong_flag_is_answered_with_what_was_expected(tmp_path, flags, message):
    result = _run("--out", str(tmp_path / "a.csv"), *FLAGS, *flags)
    assert isinstance(result.exception, ConfigurationError)
    assert message in str(result.exception)


def test_the_help_shows_examples():
    result = _run("--help")
    assert "Examples" in result.stdout
    assert "--scraper 09:00,2h,5,2" in result.stdout
