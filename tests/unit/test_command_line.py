"""What every command has in common: settings, tables, errors."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from shopstream.adapters.embedded import EmbeddedAdapters
from shopstream.cli import app, output
from shopstream.cli.output import Format, emit


def invoke(*arguments, **environment):
    return CliRunner().invoke(app, arguments, env=environment)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "foo"], "'foo' is not one of 'unique_visitors'"),
        (["incidents", "list", "--limit", "x"], "Input should be a valid integer, got 'x'"),
        (["incidents", "list", "--limit", "-1"], "Input should be greater than or equal to 0, got '-1'"),
    ],
)
def test_an_error_about_an_argument_repeats_its_value(arguments, message):
    result = invoke(*arguments)
    text = " ".join(result.output.replace("│", " ").split())
    assert result.exit_code == 2
    assert message in text
    assert "Value error" not in text


def test_an_error_about_a_setting_says_setting_value_and_rule(tmp_path):
    result = invoke("--home", str(tmp_path), "status", SHOPSTREAM_TIMEZONE="Mars")
    assert str(result.exception) == (
        "settings do not fit: timezone = 'Mars': expected an IANA time zone such as Europe/Berlin, got 'Mars'; "
        "see `shopstream config --help`"
    )


@pytest.mark.parametrize("group", [[], ["rules"], ["incidents"], ["lake"]])
def test_a_group_without_a_command_shows_its_help(group):
    result = invoke(*group)
    assert (result.exit_code, "Usage: " in result.output) == (2, True)


def test_a_home_that_cannot_be_used_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    command = [sys.executable, "-c", "from shopstream.cli import main; main()", "--home", str(tmp_path / "file"), "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {tmp_path / 'file'} cannot be used: File exists; check the path and its permissions\n"
    )


def test_a_filter_without_a_match_does_not_deny_other_incidents(tmp_path):
    assert (
        "No incident matches these filters"
        in invoke("--home", str(tmp_path), "incidents", "list", "--rule", "x").output
    )
    assert "no rule has fired" in invoke("--home", str(tmp_path), "incidents", "list").output


def test_a_demo_on_a_missing_file_leaves_the_home_alone(tmp_path):
    (tmp_path / "kept").touch()
    result = invoke("--home", str(tmp_path), "demo", "--fresh", "--no-serve", "--events", str(tmp_path / "none.csv"))
    assert "found none" in str(result.exception)
    assert (tmp_path / "kept").exists()


def test_a_variable_of_an_unknown_section_is_refused(tmp_path):
    result = invoke("--home", str(tmp_path), "status", SHOPSTREAM_ALERTING__URLS="[]")
    assert "no such settings: SHOPSTREAM_ALERTING__URLS" in str(result.exception)


def test_help_needs_no_valid_settings():
    assert invoke("incidents", "list", "--help", SHOPSTREAM_TIMEZONE="Mars").exit_code == 0


def test_a_table_that_fits_has_one_line_per_row(capsys, monkeypatch):
    monkeypatch.setattr(output.out, "width", 40, raising=False)
    emit([{"name": "first", "count": 1_000}, {"name": "second", "count": 2}], Format.TABLE)
    assert "│ first  │ 1,000 │" in capsys.readouterr().out


def test_a_table_that_would_break_words_prints_one_field_per_line(capsys, monkeypatch):
    monkeypatch.setattr(output.out, "width", 40, raising=False)
    word = "SHOPSTREAM_ENGINE__OUT_OF_ORDERNESS"
    emit([{"setting": "engine.out_of_orderness", "variable": word}], Format.TABLE)
    assert capsys.readouterr().out == f"setting   engine.out_of_orderness\nvariable  {word}\n"


def test_doctor_reports_a_check_that_breaks_and_runs_the_others(monkeypatch, tmp_path):
    def broken(_):
        raise KeyError("OpenShardCount")

    monkeypatch.setattr(EmbeddedAdapters, "checks", lambda _: {"events": broken, "lake": lambda _: "fine"})
    result = invoke("--home", str(tmp_path), "doctor", "--format", "csv")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "check,ok,finding",
        "events,False,the check failed with KeyError: 'OpenShardCount'",
        "lake,True,fine",
    ]
