import json
from collections import Counter
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner

from shopstream.cli import app
from shopstream.clock import SystemClock
from shopstream.errors import ConfigurationError
from shopstream.events.codec import decode
from shopstream.simulation.partitioning import (
    PartitionKey,
    Router,
    even_shards,
    events_of_file,
    events_of_stream,
    measure_skew,
)
from shopstream.simulation.replay import replay
from shopstream.stream.embedded import EmbeddedStream
from shopstream.stream.settings import StreamSettings

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "rees46"


def csv_file(path: Path, rows: list[tuple[int, int, int, str]]) -> Path:
    """Each row: product, category, user, session."""
    path.write_text(
        "".join(
            f"2019-11-01 00:00:{place % 60:02} UTC,view,{product},{category},,,1.5,{user},{session}\n"
            for place, (product, category, user, session) in enumerate(rows)
        )
    )
    return path


def measured(path: Path, shards: int = 4):
    return {row.key: row for row in measure_skew(events_of_file(str(path)), even_shards(shards))}


def test_shares_equal_those_of_a_direct_count(tmp_path):
    rows = [(place % 37, place % 5, place % 101, f"s{place % 59}") for place in range(3000)]
    skew = measured(csv_file(tmp_path / "e.csv", rows))
    router = Router(even_shards(4))
    for index, key in enumerate(
        (PartitionKey.PRODUCT_ID, PartitionKey.CATEGORY_ID, PartitionKey.USER_ID, PartitionKey.USER_SESSION)
    ):
        values = Counter(str(row[index]) for row in rows)
        shards = Counter(router.of(str(row[index])) for row in rows)
        homes: dict[int, set[int]] = {}
        for row in rows:
            homes.setdefault(row[2], set()).add(router.of(str(row[index])))
        found = skew[key]
        assert (found.events, found.keys, found.shards, found.users) == (3000, len(values), 4, 101)
        assert found.hottest_shard_share == max(shards.values()) / 3000
        assert found.hottest_key_share == max(values.values()) / 3000
        assert found.split_users == sum(len(home) > 1 for home in homes.values())


def test_a_user_never_splits_under_its_own_key(tmp_path):
    rows = [(place, place, place % 10, "s") for place in range(500)]
    assert measured(csv_file(tmp_path / "e.csv", rows))[PartitionKey.USER_ID].split_users == 0


def test_the_advice_names_a_value_that_no_number_of_shards_can_spread(tmp_path):
    rows = [(place, 7 if place % 2 else place, place, "s") for place in range(1000)]
    skew = measured(csv_file(tmp_path / "e.csv", rows))
    assert "one value alone holds 50% of events" in skew[PartitionKey.CATEGORY_ID].advice
    assert skew[PartitionKey.USER_ID].advice.startswith("Even. Each user stays in one shard")


def test_a_single_shard_is_never_hot(tmp_path):
    skew = measured(csv_file(tmp_path / "e.csv", [(1, 1, 1, "s")] * 10), shards=1)
    assert all(row.advice.startswith("Even.") for row in skew.values())


def test_a_stream_is_measured_as_the_file_it_came_from(tmp_path):
    path = csv_file(tmp_path / "e.csv", [(place % 9, place % 5, place % 101, f"s{place % 7}") for place in range(2000)])
    with EmbeddedStream.open(tmp_path / "stream.db", StreamSettings(shards=4), SystemClock()) as stream:
        replay(str(path), stream)
        assert measure_skew(events_of_stream(stream), stream.shards()) == measure_skew(
            events_of_file(str(path)), stream.shards()
        )


def test_nothing_to_measure_is_reported(tmp_path):
    path = tmp_path / "e.csv"
    path.write_text("no event\n")
    with pytest.raises(ConfigurationError, match="got none"):
        measured(path)


def test_the_command_prints_clean_json_and_readable_advice(tmp_path):
    path = csv_file(tmp_path / "e.csv", [(place, place % 3, place, f"s{place}") for place in range(200)])
    home = ["--home", str(tmp_path / "home")]
    rows = json.loads(CliRunner().invoke(app, [*home, "shards", str(path), "--shards", "8", "--format", "json"]).stdout)
    assert [row["partition_key"] for row in rows] == ["category_id", "product_id", "user_id", "user_session"]
    assert {row["shards"] for row in rows} == {8}
    assert "Each user stays in one shard" in CliRunner().invoke(app, [*home, "shards", str(path)]).stdout


def test_the_command_wants_a_file_or_the_stream(tmp_path):
    for arguments in ([], ["x.csv", "--stream"]):
        result = CliRunner().invoke(app, ["--home", str(tmp_path), "shards", *arguments])
        assert isinstance(result.exception, ConfigurationError)


def test_simulate_then_shards_of_the_stream(tmp_path):
    path = csv_file(tmp_path / "e.csv", [(place, place % 3, place % 20, "s") for place in range(300)])
    home = ["--home", str(tmp_path / "home")]
    first = json.loads(CliRunner().invoke(app, [*home, "simulate", str(path), "--format", "json"]).stdout)
    again = json.loads(CliRunner().invoke(app, [*home, "simulate", str(path), "--format", "json"]).stdout)
    assert (first["events"], first["rejected"], again["events"], again["earlier_events"]) == (300, 0, 0, 300)
    rows = json.loads(CliRunner().invoke(app, [*home, "shards", "--stream", "--format", "json"]).stdout)
    assert {row["events"] for row in rows} == {300}


@pytest.mark.parametrize(
    "options", [["--speed", "1", "--rate", "1"], ["--speed", "-1"], ["--rebase", "soon"], ["--rate", "nan"]]
)
def test_simulate_refuses_options_that_do_not_fit(tmp_path, options):
    path = csv_file(tmp_path / "e.csv", [(1, 1, 1, "s")])
    result = CliRunner().invoke(app, ["--home", str(tmp_path), "simulate", str(path), *options])
    assert isinstance(result.exception, ConfigurationError)


if SHARED.is_dir():

    def test_real_categories_are_as_skewed_as_plain_sql_counts_them():
        path = SHARED / "2019-oct-nov-random-sample.csv"
        found = measured(path)[PartitionKey.CATEGORY_ID]
        (share,) = duckdb.execute(
            "SELECT max(n) / sum(n) FROM (SELECT count(*) n FROM read_csv(?, all_varchar = true) GROUP BY category_id)",
            [str(path)],
        ).fetchone()
        assert found.hottest_key_share == pytest.approx(share)
        assert found.events == decode([path.read_bytes()], [2_000_000_000_000]).events.num_rows
