"""Bulk loads: every row accounted for, no file twice, nothing doubled by an interruption."""

import gzip
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shopstream.clock import ManualClock
from shopstream.errors import PermanentError, RetryableError
from shopstream.events import sources
from shopstream.events.codec import decode
from shopstream.lakehouse import ingest as ingest_module
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.ingest import ingest
from shopstream.lakehouse.ports import LakeTable
from shopstream.lakehouse.settings import LakehouseSettings
from shopstream.lakehouse.tables import create_views

CLOCK = ManualClock(1_600_000_000_000)
HEADER = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"


def line(number, *, second=None, price="1.50"):
    second = number // 3 if second is None else second
    clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    return f"2019-11-01 {clock} UTC,view,{number},7,,nan,{price},{number},s-{number % 4}\n"


def text_of(count, **options):
    return HEADER + "".join(line(number, **options) for number in range(count))


@pytest.fixture
def lakehouse(tmp_path):
    return EmbeddedLakehouse(tmp_path / "lake", LakehouseSettings(durable=False))


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of some ten rows, two of them a commit."""
    monkeypatch.setattr(sources, "BLOCK_BYTES", 800)
    monkeypatch.setattr(sources, "PARQUET_ROWS", 10)
    monkeypatch.setattr(ingest_module, "_BLOCKS_PER_COMMIT", 2)


def query(lakehouse, sql):
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        create_views(connection, lakehouse)
        return connection.execute(sql).fetchall()


def numbers_in(lakehouse):
    return [number for (number,) in query(lakehouse, "SELECT user_id FROM events ORDER BY 1")]


def counts(result):
    return result.rows, result.events, result.duplicates, result.dead_letters


def test_rows_are_events_duplicates_and_dead_letters(lakehouse, tmp_path):
    bad = [line(4, price="abc"), line(5, price="-1"), "\n", "cut 2019-11-0"]
    (tmp_path / "f.csv").write_text(HEADER + line(1) + line(1) + line(2) + "".join(bad))
    result = ingest(lakehouse, str(tmp_path / "f.csv"), CLOCK)
    assert counts(result) == (6, 2, 1, 3)
    assert result.complete
    assert numbers_in(lakehouse) == [1, 2]
    assert query(lakehouse, "SELECT reason, payload FROM dead_letters ORDER BY place") == [
        ("bad_price", bad[0].strip().encode()),
        ("negative_price", bad[1].strip().encode()),
        ("malformed_csv", b"cut 2019-11-0"),
    ]


@pytest.mark.usefixtures("small_blocks")
def test_events_are_those_that_the_codec_makes_of_the_whole_file(lakehouse, tmp_path):
    payload = (
        ("\ufeff" + text_of(200) + line(300, price="0.0001").replace("nan", '"a, ""b"""'))
        .replace("\n", "\r\n")
        .encode()
    )
    (tmp_path / "f.csv").write_bytes(payload)
    ingest(lakehouse, str(tmp_path / "f.csv"), CLOCK)
    expected = decode([payload], [CLOCK.now_ms()]).events.drop_columns(["record", "place"])
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        create_views(connection, lakehouse)
        kept = connection.sql("SELECT * EXCLUDE (arrival_time, is_late) FROM events ORDER BY user_id").to_arrow_table()
    assert kept.num_rows == 201
    assert kept.to_pylist() == expected.cast(kept.schema).sort_by("user_id").to_pylist()


def test_provenance_is_the_time_of_the_load(lakehouse, tmp_path):
    (tmp_path / "f.csv").write_text(text_of(3))
    ingest(lakehouse, str(tmp_path / "f.csv"), CLOCK)
    assert query(lakehouse, "SELECT DISTINCT epoch_ms(arrival_time), is_late FROM events") == [(CLOCK.now_ms(), False)]


def test_a_file_without_header_is_read_in_rees46_order(lakehouse, tmp_path):
    (tmp_path / "f.csv").write_text(line(1) + line(2))
    assert counts(ingest(lakehouse, str(tmp_path / "f.csv"), CLOCK)) == (2, 2, 0, 0)


@pytest.mark.usefixtures("small_blocks")
def test_the_header_names_the_columns_of_every_block(lakehouse, tmp_path):
    header = "user_id,event_time,event_type,product_id,category_id,price,ip\n"
    rows = [f"{n},2019-11-01 00:{n // 60:02}:{n % 60:02} UTC,cart,1,2,3.5,10.0.0.{n}\n" for n in range(100)]
    (tmp_path / "f.csv").write_text(header + "".join(rows))
    assert counts(ingest(lakehouse, str(tmp_path / "f.csv"), CLOCK)) == (100, 100, 0, 0)
    assert query(lakehouse, "SELECT ip FROM events WHERE user_id = 99") == [("10.0.0.99",)]


def write_csv(path, count):
    path.write_text(text_of(count))


def write_gzip(path, count):
    with gzip.open(path, "wt") as stream:
        stream.write(text_of(count))


def write_json(path, count):
    path.write_text(
        "".join(
            f'{{"event_time": "2019-11-01 00:00:{n // 3:02} UTC", "event_type": "view", "product_id": {n}, '
            f'"category_id": 7, "price": 1.5, "user_id": {n}}}\n'
            for n in range(count)
        )
    )


def write_parquet(path, count):
    table = decode([text_of(count).encode()], [CLOCK.now_ms()]).events.drop_columns(["record", "place", "event_id"])
    floats = table["price"].cast(pa.float64())
    table = table.set_column(table.schema.get_field_index("price"), "price", floats)
    pq.write_table(table, path, row_group_size=25)


@pytest.mark.parametrize("write", [write_csv, write_gzip, write_json, write_parquet])
@pytest.mark.usefixtures("small_blocks")
def test_each_kind_of_file_is_reported_by_its_content(lakehouse, tmp_path, write):
    write(tmp_path / "no-suffix", 100)
    seen = []
    result = ingest(lakehouse, str(tmp_path / "no-suffix"), CLOCK, lambda *progress: seen.append(progress))
    assert counts(result) == (100, 100, 0, 0)
    assert numbers_in(lakehouse) == list(range(100))
    assert query(lakehouse, "SELECT DISTINCT price FROM events") == [(Decimal("1.5000"),)]
    sizes = {size for _, size, _ in seen}
    assert sizes == {(tmp_path / "no-suffix").stat().st_size}
    consumed = [done for done, _, _ in seen]
    assert consumed == sorted(consumed)
    assert consumed[-1] in sizes
    assert len(consumed) > 3


def test_a_url_is_read(lakehouse, tmp_path):
    write_gzip(tmp_path / "f.csv.gz", 10)
    assert ingest(lakehouse, f"file://{tmp_path}/f.csv.gz", CLOCK).events == 10


def test_a_file_is_loaded_once_whatever_its_name(lakehouse, tmp_path):
    for name in ("a.csv", "b.csv"):
        write_csv(tmp_path / name, 10)
    assert not ingest(lakehouse, str(tmp_path / "a.csv"), CLOCK).skipped
    snapshots = lakehouse.status()[0].snapshots
    again = ingest(lakehouse, str(tmp_path / "b.csv"), CLOCK)
    assert again.skipped
    assert counts(again) == (10, 10, 0, 0)
    assert lakehouse.status()[0].snapshots == snapshots


def test_a_loaded_file_is_known_after_compaction_and_expiry(lakehouse, tmp_path):
    write_csv(tmp_path / "a.csv", 10)
    ingest(lakehouse, str(tmp_path / "a.csv"), CLOCK)
    write_csv(tmp_path / "b.csv", 20)
    ingest(lakehouse, str(tmp_path / "b.csv"), CLOCK)
    lakehouse.compact(LakeTable.EVENTS)
    lakehouse.expire(LakeTable.EVENTS, 1)
    assert ingest(lakehouse, str(tmp_path / "a.csv"), CLOCK).skipped


def test_a_file_that_grew_is_another_file(lakehouse, tmp_path):
    write_csv(tmp_path / "a.csv", 10)
    ingest(lakehouse, str(tmp_path / "a.csv"), CLOCK)
    write_csv(tmp_path / "a.csv", 11)
    assert not ingest(lakehouse, str(tmp_path / "a.csv"), CLOCK).skipped


class InterruptedLoadError(Exception):
    pass


@pytest.mark.parametrize("write", [write_csv, write_gzip, write_parquet])
@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 7])
@pytest.mark.usefixtures("small_blocks")
def test_an_interrupted_load_continues_without_loss_or_doubling(lakehouse, tmp_path, write, after):
    write(tmp_path / "f", 100)
    calls = []

    def interrupt(*_progress):
        calls.append(1)
        if len(calls) > after:
            raise InterruptedLoadError

    with pytest.raises(InterruptedLoadError):
        ingest(lakehouse, str(tmp_path / "f"), CLOCK, interrupt)
    result = ingest(lakehouse, str(tmp_path / "f"), CLOCK)
    assert counts(result) == (100, 100, 0, 0)
    assert numbers_in(lakehouse) == list(range(100))


@pytest.mark.usefixtures("small_blocks")
def test_dead_letters_are_committed_once_when_the_load_stops_before_the_events(lakehouse, tmp_path, monkeypatch):
    (tmp_path / "f.csv").write_text(HEADER + "".join(line(n, price="x" if n % 10 == 0 else "1") for n in range(100)))
    add = lakehouse.add
    seen = []

    def stop(table, *args, **kwargs):
        seen.append(table)
        if seen.count(LakeTable.EVENTS) == 2:
            raise InterruptedLoadError
        add(table, *args, **kwargs)

    monkeypatch.setattr(lakehouse, "add", stop)
    with pytest.raises(InterruptedLoadError):
        ingest(lakehouse, str(tmp_path / "f.csv"), CLOCK)
    monkeypatch.setattr(lakehouse, "add", add)
    assert counts(ingest(lakehouse, str(tmp_path / "f.csv"), CLOCK)) == (100, 90, 0, 10)
    assert query(lakehouse, "SELECT count(*), count(DISTINCT dead_letter_id) FROM dead_letters") == [(10, 10)]


@pytest.mark.usefixtures("small_blocks")
def test_duplicates_at_the_border_of_two_blocks_are_found(lakehouse, tmp_path):
    rows = [line(number, second=number // 3) for number in range(120) for _ in range(2)]
    (tmp_path / "f.csv").write_text(HEADER + "".join(rows))
    assert counts(ingest(lakehouse, str(tmp_path / "f.csv"), CLOCK)) == (240, 120, 120, 0)


def test_the_same_id_at_another_time_is_not_a_duplicate(lakehouse, tmp_path):
    header = HEADER.replace("\n", ",event_id\n")
    rows = [line(n, second=second).replace("\n", ",same\n") for n, second in [(1, 0), (1, 0), (2, 0), (1, 1)]]
    (tmp_path / "f.csv").write_text(header + "".join(rows))
    assert counts(ingest(lakehouse, str(tmp_path / "f.csv"), CLOCK)) == (4, 2, 2, 0)


def test_a_file_of_bad_rows_alone_adds_up(lakehouse, tmp_path):
    (tmp_path / "f.csv").write_text(HEADER + "nonsense\n" * 5)
    assert counts(ingest(lakehouse, str(tmp_path / "f.csv"), CLOCK)) == (5, 0, 0, 5)
    assert ingest(lakehouse, str(tmp_path / "f.csv"), CLOCK).skipped


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "found none"), (b"", "got nothing"), (b" \n ", "got nothing"), (b"ELF\x00\x01" * 9, "got something else")],
)
def test_a_file_without_events_is_refused(lakehouse, tmp_path, content, message):
    if content is not None:
        (tmp_path / "f").write_bytes(content)
    with pytest.raises(PermanentError, match=message):
        ingest(lakehouse, str(tmp_path / "f"), CLOCK)


def test_a_folder_is_refused(lakehouse, tmp_path):
    with pytest.raises(PermanentError, match="name a file"):
        ingest(lakehouse, str(tmp_path), CLOCK)


@pytest.mark.usefixtures("small_blocks")
def test_a_truncated_gzip_file_keeps_the_rows_before_the_cut(lakehouse, tmp_path):
    write_gzip(tmp_path / "whole.gz", 2000)
    whole = (tmp_path / "whole.gz").read_bytes()
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PermanentError, match="fetch the whole file again"):
        ingest(lakehouse, str(tmp_path / "cut.gz"), CLOCK)
    numbers = numbers_in(lakehouse)
    assert numbers == list(range(len(numbers)))


def test_a_damaged_parquet_file_is_refused(lakehouse, tmp_path):
    (tmp_path / "f.parquet").write_bytes(b"PAR1" + b"\0" * 100)
    with pytest.raises(PermanentError, match="cannot be read as Parquet"):
        ingest(lakehouse, str(tmp_path / "f.parquet"), CLOCK)


@pytest.mark.usefixtures("small_blocks")
def test_a_block_without_line_end_is_refused(lakehouse, tmp_path):
    (tmp_path / "f.csv").write_text(HEADER + "x" * 2000)
    with pytest.raises(PermanentError, match="expected lines"):
        ingest(lakehouse, str(tmp_path / "f.csv"), CLOCK)


def test_a_concurrent_load_of_the_same_file_is_refused(lakehouse, tmp_path):
    write_csv(tmp_path / "f.csv", 10)

    def again(*_progress):
        with pytest.raises(RetryableError, match="another process is loading"):
            ingest(lakehouse, str(tmp_path / "f.csv"), CLOCK)

    assert ingest(lakehouse, str(tmp_path / "f.csv"), CLOCK, again).events == 10


@pytest.mark.usefixtures("small_blocks")
def test_an_interrupted_load_leaves_no_files(lakehouse, tmp_path):
    write_csv(tmp_path / "f.csv", 100)

    def interrupt(*_progress):
        raise InterruptedLoadError

    with pytest.raises(InterruptedLoadError):
        ingest(lakehouse, str(tmp_path / "f.csv"), CLOCK, interrupt)
    assert list(Path(lakehouse.catalog.location(LakeTable.EVENTS)).rglob("*.parquet")) == []
