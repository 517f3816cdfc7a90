"""Events that carry a number, so that a test can tell which of them are in the lake, and how often."""

from collections import Counter

import duckdb

from shopstream.lakehouse.ports import LakeTable
from shopstream.stream.ports import NewRecord


def numbered(number, keys=16):
    """Event `number` (its user id) as a record of its own; every tenth cannot be decoded and becomes a dead letter."""
    key = f"category-{number % keys}"
    if number % 10 == 9:
        return NewRecord(b'{"event_time": "never", "user_id": %d}\n' % number, key)
    return NewRecord(
        b'{"event_time": "2019-11-01T10:%02d:%02dZ", "event_type": "view", "product_id": 7, "category_id": %d, '
        b'"user_id": %d, "user_session": "s", "price": 1.00}\n'
        % (number // 60 % 60, number % 60, number % keys, number),
        key,
    )


def expected(count):
    """What the lake holds once so many are archived: number → 1, of events and of dead letters."""
    good = Counter(number for number in range(count) if number % 10 != 9)
    return good, Counter(range(count)) - good


def archived(lakehouse):
    """Number → how often it is among the lake's events, and among its dead letters."""
    events = _rows(lakehouse, LakeTable.EVENTS, "user_id")
    letters = _rows(
        lakehouse, LakeTable.DEAD_LETTERS, "regexp_extract(decode(payload), 'user_id\": (\\d+)', 1)::BIGINT"
    )
    return events, letters


def _rows(lakehouse, table, column):
    if not (files := lakehouse.data_files(table)):
        return Counter()
    with duckdb.connect() as connection:
        if lakehouse.file_system is not None:
            connection.register_filesystem(lakehouse.file_system)
        rows = connection.execute(f"SELECT {column} FROM read_parquet(?)", [files]).fetchall()
    return Counter(number for (number,) in rows)
