"""What every lakehouse adapter does, whoever keeps the tables."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import duckdb
import pyarrow as pa
import pytest

from shopstream.errors import PermanentError, StateError
from shopstream.lakehouse.ports import LakeTable
from shopstream.lakehouse.tables import create_views

EVENTS = LakeTable.EVENTS


def rows_of(lakehouse, sql="SELECT user_id FROM events ORDER BY 1"):
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        create_views(connection, lakehouse)
        return connection.execute(sql).fetchall()


def numbers_of(lakehouse):
    return [number for (number,) in rows_of(lakehouse)]


def status_of(lakehouse, table=EVENTS):
    return next(status for status in lakehouse.status() if status.table == table)


def test_a_new_table_is_empty_and_has_all_columns(lakehouse, lake_events):
    assert lakehouse.data_files(EVENTS) == []
    assert lakehouse.positions(EVENTS) == {}
    assert status_of(lakehouse).rows == 0
    assert rows_of(lakehouse, "SELECT column_name FROM (DESCRIBE events)") == [
        (name,) for name in lake_events(0, 1).column_names
    ]


def test_values_are_read_as_they_were_stored(lakehouse, lake_events):
    rows = lake_events(0, 100)
    lakehouse.append(EVENTS, rows, {"a": 1})
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        create_views(connection, lakehouse)
        back = connection.sql("FROM events ORDER BY user_id").to_arrow_table()
    plain = pa.table({name: rows[name].cast(back.schema.field(name).type) for name in rows.column_names})
    assert back.cast(plain.schema).to_pydict() == plain.to_pydict()


def test_an_append_is_one_snapshot(lakehouse, lake_events):
    lakehouse.append(EVENTS, lake_events(0, 10, step_ms=86_400_000), {"a": 1})
    assert status_of(lakehouse).snapshots == 1
    assert status_of(lakehouse).rows == 10


def test_positions_of_all_shards_are_kept(lakehouse, lake_events):
    lakehouse.append(EVENTS, lake_events(0, 1), {"a": 1, "b": 7})
    lakehouse.append(EVENTS, lake_events(1, 1), {"a": 2})
    assert lakehouse.positions(EVENTS) == {"a": 2, "b": 7}
    assert status_of(lakehouse).positions == {"a": 2, "b": 7}


def test_a_position_never_goes_back(lakehouse, lake_events):
    lakehouse.append(EVENTS, lake_events(0, 1), {"a": 5})
    lakehouse.append(EVENTS, lake_events(1, 1), {"a": 3})
    assert lakehouse.positions(EVENTS) == {"a": 5}


def test_empty_rows_advance_positions(lakehouse, lake_events):
    lakehouse.append(EVENTS, lake_events(0, 3), {"a": 1})
    lakehouse.append(EVENTS, lake_events(0, 0), {"a": 9})
    assert lakehouse.positions(EVENTS) == {"a": 9}
    assert numbers_of(lakehouse) == [0, 1, 2]


def test_a_worker_continues_from_the_positions_it_committed_last(lakehouse, lake_events):
    lakehouse.append(EVENTS, lake_events(0, 1), {"a": 1, "b": 7}, after={})
    lakehouse.append(EVENTS, lake_events(1, 1), {"a": 2}, after={"a": 1, "b": 7})
    lakehouse.append(EVENTS, lake_events(2, 1), {"a": 4, "c": 1}, after={"a": 2, "b": 7})
    assert numbers_of(lakehouse) == [0, 1, 2]
    assert lakehouse.positions(EVENTS) == {"a": 4, "b": 7, "c": 1}


@pytest.mark.parametrize("after", [{}, {"a": 1}, {"a": 3}, {"b": 2}])
def test_a_worker_that_missed_a_commit_is_refused_and_leaves_nothing(lakehouse, lake_events, after):
    lakehouse.append(EVENTS, lake_events(0, 1), {"a": 2})
    with pytest.raises(StateError, match="another worker has committed"):
        lakehouse.append(EVENTS, lake_events(1, 1), {"a": 5}, after=after)
    assert numbers_of(lakehouse) == [0]
    assert lakehouse.positions(EVENTS) == {"a": 2}
    assert [path for path in lakehouse.orphans(EVENTS, timedelta(0), delete=False) if path.endswith(".parquet")] == []


def test_of_workers_that_continue_from_the_same_position_one_commits(open_lakehouse, lake_events):
    def write(worker):
        try:
            open_lakehouse().append(EVENTS, lake_events(worker * 10, 10), {"a": 1}, after={})
        except StateError:
            return 0
        return 1

    open_lakehouse()
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(write, range(4))) == 1
    assert len(numbers_of(open_lakehouse())) == 10


def test_tables_have_positions_of_their_own(lakehouse, lake_events, dead_letter_rows):
    lakehouse.append(EVENTS, lake_events(0, 1), {"a": 1})
    lakehouse.append(LakeTable.DEAD_LETTERS, dead_letter_rows([b"x", b"\xff\x00"]), {"a": 4})
    assert lakehouse.positions(EVENTS) == {"a": 1}
    assert lakehouse.positions(LakeTable.DEAD_LETTERS) == {"a": 4}
    assert rows_of(lakehouse, "SELECT payload FROM dead_letters ORDER BY dead_letter_id") == [(b"x",), (b"\xff\x00",)]


def test_another_process_sees_rows_and_positions(open_lakehouse, lake_events):
    open_lakehouse().append(EVENTS, lake_events(0, 5), {"a": 5})
    other = open_lakehouse()
    assert numbers_of(other) == [0, 1, 2, 3, 4]
    assert other.positions(EVENTS) == {"a": 5}


def test_rows_of_two_openers_are_both_seen(open_lakehouse, lake_events):
    one, two = open_lakehouse(), open_lakehouse()
    one.append(EVENTS, lake_events(0, 2), {"a": 1})
    two.append(EVENTS, lake_events(2, 2), {"b": 1})
    one.append(EVENTS, lake_events(4, 2), {"a": 2})
    assert numbers_of(two) == [0, 1, 2, 3, 4, 5]
    assert two.positions(EVENTS) == {"a": 2, "b": 1}


def test_concurrent_appends_lose_neither_rows_nor_positions(open_lakehouse, lake_events):
    def write(writer):
        lakehouse = open_lakehouse()
        for turn in range(5):
            lakehouse.append(EVENTS, lake_events(writer * 100 + turn * 10, 10), {f"shard-{writer}": turn})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert numbers_of(open_lakehouse()) == [writer * 100 + n for writer in range(4) for n in range(50)]
    assert open_lakehouse().positions(EVENTS) == {f"shard-{writer}": 4 for writer in range(4)}


def test_a_missing_column_is_refused_and_nothing_is_kept(lakehouse, lake_events):
    with pytest.raises(PermanentError, match="expected column price"):
        lakehouse.append(EVENTS, lake_events(0, 3).drop_columns("price"), {"a": 1})
    assert numbers_of(lakehouse) == []
    assert lakehouse.positions(EVENTS) == {}


def test_a_null_in_a_required_column_is_refused(lakehouse, lake_events):
    rows = lake_events(0, 2)
    rows = rows.set_column(rows.schema.get_field_index("event_id"), "event_id", pa.array(["x", None]))
    with pytest.raises(PermanentError, match=r"no null in events\.event_id"):
        lakehouse.append(EVENTS, rows, {"a": 1})


def test_compaction_leaves_one_file_a_day_and_keeps_rows_and_positions(lakehouse, lake_events):
    for turn in range(6):
        start_ms = 1_572_566_400_000 + turn % 2 * 86_400_000
        lakehouse.append(EVENTS, lake_events(turn * 10, 10, start_ms=start_ms), {"a": turn})
    assert len(lakehouse.data_files(EVENTS)) == 6
    assert lakehouse.compact(EVENTS) == 4
    assert len(lakehouse.data_files(EVENTS)) == 2
    assert numbers_of(lakehouse) == list(range(60))
    assert lakehouse.positions(EVENTS) == {"a": 5}


def test_compaction_sorts_by_time(lakehouse, lake_events):
    lakehouse.append(EVENTS, lake_events(10, 10, start_ms=1_572_566_410_000), {})
    lakehouse.append(EVENTS, lake_events(0, 10), {})
    lakehouse.compact(EVENTS)
    assert len(lakehouse.data_files(EVENTS)) == 1
    times = rows_of(lakehouse, "SELECT epoch_ms(event_time) FROM events")
    assert times == sorted(times)
    assert len(times) == 20


def test_compacting_twice_changes_nothing(lakehouse, lake_events):
    lakehouse.append(EVENTS, lake_events(0, 10), {"a": 1})
    snapshot = status_of(lakehouse).current_snapshot_id
    assert lakehouse.compact(EVENTS) == 0
    assert status_of(lakehouse).current_snapshot_id == snapshot


@pytest.mark.parametrize("table", list(LakeTable))
def test_an_empty_table_can_be_compacted_and_expired(lakehouse, table):
    assert lakehouse.compact(table) == 0
    assert lakehouse.expire(table, 1) == 0


def test_a_table_without_partitions_compacts(lakehouse, dead_letter_rows):
    for number in range(3):
        lakehouse.append(LakeTable.DEAD_LETTERS, dead_letter_rows([b"%d" % number]), {"a": number})
    assert lakehouse.compact(LakeTable.DEAD_LETTERS) == 2
    assert rows_of(lakehouse, "SELECT payload FROM dead_letters ORDER BY 1") == [(b"0",), (b"1",), (b"2",)]


def test_rows_appended_during_a_compaction_are_kept(open_lakehouse, lake_events):
    lakehouse = open_lakehouse()
    for turn in range(5):
        lakehouse.append(EVENTS, lake_events(turn * 10, 10), {"a": turn})

    def write():
        other = open_lakehouse()
        for turn in range(5, 15):
            other.append(EVENTS, lake_events(turn * 10, 10), {"a": turn})

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        while not writer.done():
            lakehouse.compact(EVENTS)
        writer.result()
    assert numbers_of(lakehouse) == list(range(150))
    assert lakehouse.positions(EVENTS) == {"a": 14}


def test_expiry_keeps_rows_and_positions(lakehouse, lake_events):
    for turn in range(5):
        lakehouse.append(EVENTS, lake_events(turn * 10, 10), {"a": turn, f"once-{turn}": 1})
    lakehouse.compact(EVENTS)
    assert lakehouse.expire(EVENTS, 1) >= 5
    assert status_of(lakehouse).snapshots == 1
    assert numbers_of(lakehouse) == list(range(50))
    assert lakehouse.positions(EVENTS) == {"a": 4} | {f"once-{turn}": 1 for turn in range(5)}


def test_expiry_wants_at_least_one_snapshot(lakehouse):
    with pytest.raises(ValueError, match="at least 1 snapshot"):
        lakehouse.expire(EVENTS, 0)
