"""`shopstream lake` and `shopstream deadletters`, as a person and as a program use them."""

import json

import pytest
from typer.testing import CliRunner

from shopstream.cli import app
from shopstream.clock import SystemClock
from shopstream.errors import PermanentError
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.ports import TRIM_HORIZON
from shopstream.stream.settings import StreamSettings

HEADER = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
ROWS = "".join(f"2019-11-0{n % 3 + 1} 00:00:{n:02} UTC,view,{n},7,,nan,1.5,{n},s\n" for n in range(30))
BAD = "2019-11-01 00:00:01 UTC,view,1,42,,nan,abc,3,s\n"


@pytest.fixture
def shopstream(tmp_path):
    def run(*arguments):
        result = CliRunner().invoke(app, ["--home", str(tmp_path / "home"), *map(str, arguments)])
        assert result.exit_code == 0, result.output
        return result

    return run


def as_json(done):
    return json.loads(done.stdout)


def test_a_file_goes_into_the_lake_and_its_bad_row_out_of_it(shopstream, tmp_path):
    (tmp_path / "f.csv").write_text(HEADER + ROWS + ROWS[: ROWS.index("\n") + 1] + BAD)
    (loaded,) = as_json(shopstream("lake", "ingest", tmp_path / "f.csv", "--format", "json"))
    assert {name: loaded[name] for name in ("outcome", "rows", "events", "duplicates", "dead_letters")} == {
        "outcome": "loaded",
        "rows": 32,
        "events": 30,
        "duplicates": 1,
        "dead_letters": 1,
    }
    again = shopstream("lake", "ingest", tmp_path / "f.csv", "--format", "json")
    assert as_json(again)[0]["outcome"] == "skipped"
    assert "already in the lake and was skipped" in again.stderr

    status = {row["table"]: row for row in as_json(shopstream("lake", "status", "--format", "json"))}
    assert (status["events"]["rows"], status["events"]["data_files"]) == (30, 3)
    assert status["dead_letters"]["rows"] == 1
    assert "events" in shopstream("lake", "status").stdout

    assert {row["files_less"] for row in as_json(shopstream("lake", "compact", "--format", "json"))} == {0}
    expired = as_json(shopstream("lake", "expire", "--keep", "1", "--table", "events", "--format", "json"))
    assert [row["table"] for row in expired] == ["events"]
    assert as_json(shopstream("lake", "orphans", "--older-than", "1h", "--format", "json")) == []

    (letter,) = as_json(shopstream("deadletters", "list", "--format", "json"))
    assert letter["reason"] == "bad_price"
    assert as_json(shopstream("deadletters", "list", "--by-reason", "--format", "json"))[0]["dead_letters"] == 1
    short = letter["dead_letter_id"][:8]
    assert as_json(shopstream("deadletters", "show", short, "--format", "json"))["payload"] == BAD.strip()
    assert short in shopstream("deadletters", "list").stdout

    (tmp_path / "fixed.csv").write_text(BAD.replace("abc", "2.5"))
    replayed = shopstream("deadletters", "replay", short, "--payload-file", tmp_path / "fixed.csv", "--format", "json")
    assert as_json(replayed) == {"sent": 1, "sent_before": 0, "refused": 0}
    once_more = shopstream("deadletters", "replay", "--all", "--format", "json")
    assert as_json(once_more) == {"sent": 0, "sent_before": 1, "refused": 0}
    assert "were replayed before and were skipped" in once_more.stderr
    with EmbeddedStream.open(tmp_path / "home" / "stream.db", StreamSettings(), SystemClock()) as stream:
        reads = [stream.read(s.shard_id, TRIM_HORIZON, max_records=9, max_bytes=9999) for s in stream.shards()]
    assert [record.payload for read in reads for record in read.records] == [BAD.replace("abc", "2.5").encode()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lake", "orphans", "--older-than", "soon"), "expected a duration"),
        (("lake", "ingest", "/no/such/file.csv"), "expected a file at"),
        (("deadletters", "show", "abc"), "fits none"),
        (("deadletters", "replay"), "either ids or --all"),
        (("deadletters", "replay", "abc", "--all"), "either ids or --all"),
        (("deadletters", "replay", "abc", "--reason", "bad_price"), "together with --all"),
    ],
)
def test_a_wrong_call_says_what_to_do(tmp_path, arguments, message):
    result = CliRunner().invoke(app, ["--home", str(tmp_path / "home"), *arguments])
    assert isinstance(result.exception, PermanentError)
    assert message in str(result.exception)
