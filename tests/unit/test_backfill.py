"""The bulk load by many machines: the blocks, rows and account of the bulk load by one process."""

import gzip
import pickle
import random
from pathlib import Path

import duckdb
import pytest

from shopstream.clock import ManualClock
from shopstream.events import sources
from shopstream.events.sources import identify, open_blocks, plan_blocks
from shopstream.lakehouse import ingest as ingest_module
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.ingest import in_waves, ingest
from shopstream.lakehouse.ports import LakeTable
from shopstream.lakehouse.settings import LakehouseSettings
from shopstream.lakehouse.tables import create_views

CLOCK = ManualClock(1_600_000_000_000)
HEADER = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
EVERYTHING = {
    LakeTable.EVENTS: "SELECT * FROM events ORDER BY event_time, event_id",
    LakeTable.DEAD_LETTERS: "SELECT * FROM dead_letters ORDER BY dead_letter_id",
}


def rows(count, seed=1):
    """Lines of a shop, several a second, some twice, some bad."""
    dice, second, lines = random.Random(seed), 0, []  # noqa: S311  no secret
    for number in range(count):
        second += dice.choice([0, 0, 0, 1, 40])
        clock = f"{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}"
        price = dice.choice(["1.50", "1.50", "12345.67", "abc"])
        lines.append(f"2019-11-{1 + second // 86_400:02} {clock} UTC,view,{number},7,,nan,{price},{number % 9},s\n")
        if dice.random() < 0.1:
            lines.append(lines[-1])
    return "".join(lines)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of some forty rows, of which the plan reads the last ten."""
    monkeypatch.setattr(sources, "BLOCK_BYTES", 3000)
    monkeypatch.setattr(sources, "_SAME_TIME_BYTES", 400)
    monkeypatch.setattr(sources, "_LONGEST_HEADER", 300)
    monkeypatch.setattr(ingest_module, "_BLOCKS_PER_COMMIT", 3)


@pytest.fixture
def open_lake(tmp_path):
    return lambda name: EmbeddedLakehouse(tmp_path / name, LakehouseSettings(durable=False))


def elsewhere(load, pieces):
    """What a cluster does: function, piece and result go by wire."""
    wire = pickle.dumps(load)
    return [pickle.loads(pickle.dumps(pickle.loads(wire)(piece))) for piece in pieces]  # noqa: S301  our own


def content(lakehouse):
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        create_views(connection, lakehouse)
        return {table: connection.execute(sql).fetchall() for table, sql in EVERYTHING.items()}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("header", [HEADER, ""])
@pytest.mark.usefixtures("small_blocks")
def test_planned_blocks_equal_the_blocks_read(tmp_path, seed, header):
    path = tmp_path / "f.csv"
    path.write_text(header + rows(50 + 37 * seed, seed).rstrip("\n" if seed % 2 else ""))
    source = identify(str(path))
    with open_blocks(source) as blocks:
        read = [(block.start, block.end) for block in blocks]
    assert list(plan_blocks(source)) == read
    assert list(plan_blocks(source, read[len(read) // 2][0])) == read[len(read) // 2 :]


@pytest.mark.usefixtures("small_blocks")
def test_a_block_whose_rows_are_long_is_planned_by_reading_it(tmp_path):
    path = tmp_path / "f.jsonl"
    path.write_text("".join(f'{{"event_time": "{n}", "url": "{"x" * 900}"}}\n' for n in range(12)))
    source = identify(str(path))
    with open_blocks(source) as blocks:
        assert list(plan_blocks(source)) == [(block.start, block.end) for block in blocks]


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
@pytest.mark.usefixtures("small_blocks")
def test_rows_dead_letters_and_counts_are_those_of_the_load_in_one_process(tmp_path, open_lake, kind):
    path = tmp_path / f"f.{kind}"
    text = HEADER + rows(400)
    if kind == "csv":
        path.write_text(text)
    elif kind == "csv.gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        (tmp_path / "text.csv").write_text(text)
        columns = "* REPLACE (CAST(event_time[:19] AS TIMESTAMP) AS event_time)"
        source = f"SELECT {columns} FROM read_csv('{tmp_path}/text.csv', all_varchar = true) WHERE price <> 'abc'"
        duckdb.sql(source).write_parquet(str(path), row_group_size=2048)
    one = ingest(open_lake("one"), str(path), CLOCK)
    many = ingest(open_lake("many"), str(path), CLOCK, loader=in_waves(elsewhere, 4))
    assert many == one
    assert one.duplicates > 0
    assert content(open_lake("many")) == content(open_lake("one"))
    assert ingest(open_lake("many"), str(path), CLOCK).skipped


@pytest.mark.usefixtures("small_blocks")
def test_one_process_finishes_a_load_that_a_cluster_began(tmp_path, open_lake):
    path = tmp_path / "f.csv"
    path.write_text(HEADER + rows(400))
    waves = []

    def dies_in_the_third_wave(load, pieces):
        waves.append(pieces)
        if len(waves) == 3:
            raise ConnectionError("the cluster is gone")
        return elsewhere(load, pieces)

    lake = open_lake("lake")
    with pytest.raises(ConnectionError):
        ingest(lake, str(path), CLOCK, loader=in_waves(dies_in_the_third_wave, 2))
    files = {str(file) for file in Path(lake.catalog.location(LakeTable.EVENTS)).rglob("*.parquet")}
    assert files == set(lake.data_files(LakeTable.EVENTS))
    rest = ingest(lake, str(path), CLOCK)
    whole = ingest(open_lake("whole"), str(path), CLOCK)
    assert rest == whole
    assert content(lake) == content(open_lake("whole"))
