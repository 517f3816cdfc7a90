"""What is particular to the lakehouse on local files."""

from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import CommitFailedException

from factories import make_detection
from shopstream.clock import ManualClock, SystemClock
from shopstream.errors import PermanentError, RetryableError, StateError
from shopstream.lakehouse import catalog, maintenance
from shopstream.lakehouse.catalog import CATALOG_NAME, POSITIONS_PROPERTY
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.files import by_day, conform
from shopstream.lakehouse.ports import LakeTable
from shopstream.lakehouse.reader import LocalLakeReader
from shopstream.lakehouse.settings import LakehouseSettings
from shopstream.lakehouse.tables import TABLES, create_views, detection_rows

EVENTS = LakeTable.EVENTS
DAY_MS = 86_400_000


@pytest.fixture
def lakehouse(tmp_path):
    return EmbeddedLakehouse(tmp_path / "lake", LakehouseSettings(keep_snapshots=50))


def foreign(lakehouse, table=EVENTS):
    """The table as a program opens it that knows nothing of shopstream."""
    return load_catalog(CATALOG_NAME, type="sql", uri=lakehouse.catalog.uri).load_table(f"shop.{table.value}")


def files_under(lakehouse, table=EVENTS):
    return {path for path in Path(lakehouse.catalog.location(table)).rglob("*") if path.is_file()}


def test_events_are_divided_by_day_of_event_time(lakehouse, lake_events):
    lakehouse.append(EVENTS, lake_events(0, 4, step_ms=DAY_MS // 2), {})
    days = [task.file.partition[0] for task in foreign(lakehouse).scan().plan_files()]
    assert sorted(days) == [18201, 18202]
    assert {Path(file).parent.name for file in lakehouse.data_files(EVENTS)} == {
        "event_time_day=2019-11-01",
        "event_time_day=2019-11-02",
    }


@pytest.mark.parametrize("moment_us", [-1, 0, 86_400_000_000 - 1, 86_400_000_000, 4_102_444_799_999_999])
def test_a_day_is_a_whole_utc_day(moment_us):
    times = pa.array([moment_us, moment_us + 10 * 86_400_000_000]).cast(pa.timestamp("us", "UTC"))
    days = [day for day, _ in by_day(pa.table({"t": times}), "t")]
    assert days == [moment_us // 86_400_000_000, moment_us // 86_400_000_000 + 10]


def test_a_filter_on_time_reads_only_its_days(lakehouse, lake_events):
    lakehouse.append(EVENTS, lake_events(0, 4, step_ms=DAY_MS), {})
    scan = foreign(lakehouse).scan(row_filter="event_time >= '2019-11-04T00:00:00+00:00'")
    assert len(list(scan.plan_files())) == 1
    assert scan.to_arrow()["user_id"].to_pylist() == [3]


@pytest.mark.parametrize("table", list(LakeTable))
def test_iceberg_columns_carry_type_requirement_and_description(lakehouse, table):
    schema = foreign(lakehouse, table).schema()
    for field in TABLES[table].fields:
        column = schema.find_field(field.name)
        assert column.doc == field.doc
        assert column.required == (field.required or field.name == "event_id")
    assert schema.as_arrow().names == [field.name for field in TABLES[table].fields]


def test_a_foreign_writer_may_append_and_positions_stay(lakehouse, lake_events):
    lakehouse.append(EVENTS, lake_events(0, 5), {"a": 3})
    rows = conform(lake_events(5, 5), TABLES[EVENTS])
    plain = pa.schema(
        [f.with_type(f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in rows.schema]
    )
    foreign(lakehouse).append(rows.cast(plain))
    assert lakehouse.positions(EVENTS) == {"a": 3}
    assert foreign(lakehouse).scan().count() == 10
    assert lakehouse.expire(EVENTS, 1) > 0
    assert lakehouse.positions(EVENTS) == {"a": 3}
    lakehouse.append(EVENTS, lake_events(10, 5), {"b": 1})
    assert lakehouse.positions(EVENTS) == {"a": 3, "b": 1}


def test_the_newest_snapshot_holds_the_positions(lakehouse, lake_events):
    lakehouse.append(EVENTS, lake_events(0, 5), {"a": 3})
    lakehouse.append(EVENTS, lake_events(5, 5), {"b": 4})
    assert foreign(lakehouse).current_snapshot().summary[POSITIONS_PROPERTY] == '{"a": 3, "b": 4}'


def test_every_kept_snapshot_is_readable_after_expiry(lakehouse, lake_events):
    for turn in range(8):
        lakehouse.append(EVENTS, lake_events(turn * 10, 10), {"a": turn})
        if turn in {3, 5}:
            lakehouse.compact(EVENTS)
    kept = [
        (s.snapshot_id, foreign(lakehouse).scan(snapshot_id=s.snapshot_id).count())
        for s in foreign(lakehouse).snapshots()
    ][-4:]
    lakehouse.expire(EVENTS, 4)
    table = foreign(lakehouse)
    assert {snapshot.snapshot_id for snapshot in table.snapshots()} == {snapshot for snapshot, _ in kept}
    for snapshot, rows in kept:
        numbers = table.scan(snapshot_id=snapshot).to_arrow()["user_id"].to_pylist()
        assert sorted(numbers) == list(range(rows))


def test_expiry_leaves_exactly_the_files_that_are_named(lakehouse, lake_events):
    for turn in range(6):
        lakehouse.append(EVENTS, lake_events(turn * 10, 10), {"a": turn})
    lakehouse.compact(EVENTS)
    lakehouse.expire(EVENTS, 1)
    data = {path for path in files_under(lakehouse) if path.suffix == ".parquet"}
    assert {str(path) for path in data} == set(lakehouse.data_files(EVENTS))
    assert lakehouse.orphans(EVENTS, timedelta(0), delete=False) == []
    assert len([path for path in files_under(lakehouse) if path.name.startswith("snap-")]) == 1


def test_a_tagged_snapshot_outlives_expiry(lakehouse, lake_events):
    lakehouse.append(EVENTS, lake_events(0, 10), {})
    table = foreign(lakehouse)
    tagged = table.current_snapshot().snapshot_id
    table.manage_snapshots().create_tag(tagged, "audit").commit()
    lakehouse.append(EVENTS, lake_events(10, 10), {})
    lakehouse.compact(EVENTS)
    lakehouse.expire(EVENTS, 1)
    assert foreign(lakehouse).scan(snapshot_id=tagged).to_arrow().num_rows == 10


def test_commits_forget_old_snapshots_but_keep_replaced_data_for_readers(tmp_path, lake_events):
    lakehouse = EmbeddedLakehouse(tmp_path, LakehouseSettings(keep_snapshots=3))
    for turn in range(4):
        lakehouse.append(EVENTS, lake_events(turn * 10, 10), {"a": turn})
    planned = lakehouse.data_files(EVENTS)
    lakehouse.compact(EVENTS)
    for turn in range(4, 12):
        lakehouse.append(EVENTS, lake_events(turn * 10, 10), {"a": turn})
        assert len(foreign(lakehouse).snapshots()) < 6
    assert all(Path(file).exists() for file in planned)
    assert foreign(lakehouse).scan().count() == 120
    orphans = lakehouse.orphans(EVENTS, timedelta(0), delete=True)
    assert set(orphans) == set(planned)
    assert foreign(lakehouse).scan().to_arrow().num_rows == 120


def test_young_files_are_no_orphans(tmp_path, lake_events):
    clock = ManualClock(SystemClock().now_ms())
    lakehouse = EmbeddedLakehouse(tmp_path, clock=clock)
    (uncommitted,) = lakehouse.write(EVENTS, lake_events(0, 10))
    assert lakehouse.orphans(EVENTS, delete=True) == []
    clock.advance(timedelta(days=1, seconds=5))
    assert lakehouse.orphans(EVENTS, delete=False) == [uncommitted]
    assert Path(uncommitted).exists()
    assert lakehouse.orphans(EVENTS, delete=True) == [uncommitted]
    assert not Path(uncommitted).exists()


def test_files_of_a_commit_that_failed_for_sure_go_away(lakehouse, lake_events, monkeypatch):
    def busy(*_args, **_kwargs):
        raise CommitFailedException("somebody was faster")

    monkeypatch.setattr(lakehouse.catalog._catalog, "commit_table", busy)
    monkeypatch.setattr(catalog, "_COMMIT_PATIENCE_S", 0.05)
    with pytest.raises(RetryableError, match="nothing was committed"):
        lakehouse.append(EVENTS, lake_events(0, 10), {"a": 1})
    assert [path for path in files_under(lakehouse) if path.suffix in {".parquet", ".avro"}] == []


def test_a_commit_that_lost_a_race_is_applied_to_the_next_version(lakehouse, lake_events, monkeypatch):
    original = lakehouse.catalog._catalog.commit_table
    calls = []

    def late(table, requirements, updates):
        if not calls:
            calls.append(1)
            raise CommitFailedException("somebody was faster")
        return original(table, requirements, updates)

    monkeypatch.setattr(lakehouse.catalog._catalog, "commit_table", late)
    lakehouse.append(EVENTS, lake_events(0, 10), {"a": 1})
    assert foreign(lakehouse).scan().count() == 10
    assert lakehouse.orphans(EVENTS, timedelta(0), delete=False) == []


def test_maintenance_is_done_by_one_at_a_time(lakehouse):
    with lakehouse.catalog.maintenance():
        other = EmbeddedLakehouse(lakehouse.catalog.path)
        with pytest.raises(RetryableError, match="is running"):
            other.compact(EVENTS)
        with pytest.raises(RetryableError, match="is running"):
            other.expire(EVENTS, 1)


def test_compaction_fails_if_another_program_replaced_its_files(lakehouse, lake_events, monkeypatch):
    for turn in range(3):
        lakehouse.append(EVENTS, lake_events(turn * 10, 10), {"a": turn})
    merge = maintenance._merge

    def merge_while_another_deletes(*args):
        merge(*args)
        foreign(lakehouse).delete("user_id >= 20")

    monkeypatch.setattr(maintenance, "_merge", merge_while_another_deletes)
    with pytest.raises(RetryableError, match="another program replaced files"):
        lakehouse.compact(EVENTS)
    assert sorted(foreign(lakehouse).scan().to_arrow()["user_id"].to_pylist()) == list(range(20))
    assert len([path for path in files_under(lakehouse) if path.suffix == ".parquet"]) == 3


def test_an_append_between_reading_and_commit_of_a_compaction_is_kept(lakehouse, lake_events, monkeypatch):
    for turn in range(3):
        lakehouse.append(EVENTS, lake_events(turn * 10, 10), {"a": turn})
    merge = maintenance._merge

    def merge_while_another_appends(*args):
        merge(*args)
        EmbeddedLakehouse(lakehouse.catalog.path).append(EVENTS, lake_events(30, 10), {"a": 3, "b": 1})

    monkeypatch.setattr(maintenance, "_merge", merge_while_another_appends)
    assert lakehouse.compact(EVENTS) == 2
    assert sorted(foreign(lakehouse).scan().to_arrow()["user_id"].to_pylist()) == list(range(40))
    assert lakehouse.positions(EVENTS) == {"a": 3, "b": 1}


def test_compaction_fills_files_up_to_the_target_size(tmp_path, lake_events):
    lakehouse = EmbeddedLakehouse(tmp_path, LakehouseSettings(target_file_bytes=1 << 20, durable=False))
    for turn in range(12):
        lakehouse.append(EVENTS, lake_events(turn * 8000, 8000, step_ms=1), {})
    sizes = [Path(file).stat().st_size for file in lakehouse.data_files(EVENTS)]
    lakehouse.compact(EVENTS)
    after = [Path(file).stat().st_size for file in lakehouse.data_files(EVENTS)]
    assert 1 < len(after) < len(sizes)
    assert max(after) < 1.25 * (1 << 20)
    assert foreign(lakehouse).scan().to_arrow()["user_id"].to_pylist().__len__() == 96_000


def test_a_slice_of_dictionary_text_does_not_carry_the_whole_dictionary(tmp_path, lake_events):
    lakehouse = EmbeddedLakehouse(tmp_path)
    rows = lake_events(0, 20_000)
    sessions = pa.array([f"a-session-of-some-length-{n}" for n in range(20_000)]).dictionary_encode()
    rows = rows.set_column(rows.schema.get_field_index("user_session"), "user_session", sessions)
    lakehouse.append(EVENTS, rows.slice(0, 100), {})
    (file,) = lakehouse.data_files(EVENTS)
    assert Path(file).stat().st_size < 30_000


def test_chunks_with_dictionaries_of_their_own_are_written_right(tmp_path, lake_events):
    lakehouse = EmbeddedLakehouse(tmp_path)
    lakehouse.append(EVENTS, pa.concat_tables([lake_events(n * 10, 10) for n in range(20)]), {})
    (file,) = lakehouse.data_files(EVENTS)
    back = pq.read_table(file, partitioning=None).sort_by("user_id")
    assert back["brand"].to_pylist() == [None if n % 2 else "nan" for n in range(200)]


@pytest.mark.parametrize("name", ["with space", "a'b", "hash#mark", "per%20cent", "[glob]*", "Ümlaut", "what?"])
def test_any_folder_will_do(tmp_path, lake_events, name):
    lakehouse = EmbeddedLakehouse(tmp_path / name)
    lakehouse.append(EVENTS, lake_events(0, 10), {"a": 1})
    lakehouse.append(EVENTS, lake_events(10, 10), {"a": 2})
    lakehouse.compact(EVENTS)
    lakehouse.expire(EVENTS, 1)
    with duckdb.connect() as connection:
        create_views(connection, lakehouse)
        assert connection.execute("SELECT count(*), max(user_id) FROM events").fetchone() == (20, 19)
    assert foreign(lakehouse).scan().count() == 20
    assert LocalLakeReader(tmp_path / name).data_files(EVENTS) == lakehouse.data_files(EVENTS)


def test_a_reader_names_the_files_of_the_current_snapshot(lakehouse, lake_events):
    reader = LocalLakeReader(lakehouse.catalog.path)
    assert reader.data_files(EVENTS) == []
    for turn in range(3):
        lakehouse.append(EVENTS, lake_events(turn, 1), {})
        assert reader.data_files(EVENTS) == lakehouse.data_files(EVENTS)
        assert len(reader.data_files(EVENTS)) == turn + 1


def test_a_reader_makes_no_lake(tmp_path):
    assert LocalLakeReader(tmp_path / "none").data_files(EVENTS) == []
    assert list(tmp_path.iterdir()) == []


def test_a_moved_folder_is_distinguished_from_an_empty_one(tmp_path, lake_events):
    EmbeddedLakehouse(tmp_path / "here").append(EVENTS, lake_events(0, 1), {})
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(StateError, match="move the folder back"):
        EmbeddedLakehouse(tmp_path / "there").status()
    with pytest.raises(StateError, match="move the folder back"):
        LocalLakeReader(tmp_path / "there").data_files(EVENTS)


def test_a_column_added_to_the_declaration_is_null_in_older_files(lakehouse, lake_events, monkeypatch):
    lakehouse.append(EVENTS, lake_events(0, 3), {})
    declaration = TABLES[EVENTS]
    added = type(declaration.fields[0])("campaign", "VARCHAR", False, "Where the shopper came from.")
    wider = type(declaration)(
        EVENTS,
        (*declaration.fields, added),
        declaration.doc,
        declaration.day_of,
        declaration.sort_by,
        declaration.bounds,
    )
    monkeypatch.setitem(TABLES, EVENTS, wider)
    with duckdb.connect() as connection:
        create_views(connection, lakehouse)
        assert connection.execute("SELECT count(*), count(campaign) FROM events").fetchone() == (3, 0)


def test_a_recreated_view_shows_later_commits(lakehouse, lake_events):
    with duckdb.connect() as connection:
        for turn in range(3):
            lakehouse.append(EVENTS, lake_events(turn, 1), {})
            create_views(connection, lakehouse)
            assert connection.execute("SELECT count(*) FROM events").fetchone() == (turn + 1,)


def test_a_detection_is_kept_whole(lakehouse):
    detection = make_detection(
        1_572_566_400_000,
        first_event_ms=1_572_566_400_123,
        tags=("bot", "flood"),
        measures={"events": 12},
    )
    lakehouse.append(LakeTable.DETECTIONS, detection_rows([detection]), {"a": 1})
    lakehouse.append(LakeTable.DETECTIONS, detection_rows([]), {"a": 2})
    (row,) = foreign(lakehouse, LakeTable.DETECTIONS).scan().to_arrow().to_pylist()
    assert row["key"] == '{"user_id": "7"}'
    assert row["measures"] == '{"events": 12}'
    assert row["tags"] == '["bot", "flood"]'
    assert row["severity"] == "high"
    assert row["first_event_time"].isoformat() == "2019-11-01T00:00:00.123000+00:00"


def test_wrong_types_are_refused(lakehouse, lake_events):
    rows = lake_events(0, 2)
    rows = rows.set_column(rows.schema.get_field_index("user_id"), "user_id", pa.array(["x", "y"]))
    with pytest.raises(PermanentError, match=r"events\.user_id"):
        lakehouse.append(EVENTS, rows, {})
