"""Rows of the lakehouse, for every test that needs some."""

from decimal import Decimal

import pyarrow as pa
import pytest

from shopstream.events.schema import DEAD_LETTER_FIELDS, LAKE_FIELDS, arrow_schema

pytest_plugins = ["standins.plugin"]

DAY_MS = 86_400_000
FIRST_MS = 1_572_566_400_000  # 2019-11-01


def make_lake_events(first, count, *, start_ms=FIRST_MS, step_ms=1000):
    """Events numbered from `first`; the number is user_id and, in hex, event_id."""
    numbers = range(first, first + count)
    times = pa.array([(start_ms + (n - first) * step_ms) * 1000 for n in numbers], pa.int64())
    stamps = times.cast(pa.timestamp("us", "UTC"))
    columns = {
        "event_time": stamps,
        "event_type": pa.array(["view", "cart", "purchase"] * count)[:count].dictionary_encode(),
        "product_id": pa.array([n % 7 for n in numbers], pa.int64()),
        "category_id": pa.array([n % 3 for n in numbers], pa.int64()),
        "category_code": pa.array([None if n % 3 else "home.garden" for n in numbers], pa.string()).dictionary_encode(),
        "brand": pa.array([None if n % 2 else "nan" for n in numbers], pa.string()).dictionary_encode(),
        "price": pa.array([Decimal(n).scaleb(-2) for n in numbers], pa.decimal128(18, 4)),
        "user_id": pa.array(numbers, pa.int64()),
        "user_session": pa.array([f"session-{n % 5}" for n in numbers]),
        "event_id": pa.array([f"{n:032x}" for n in numbers]),
        "ip": pa.nulls(count, pa.string()),
        "user_agent": pa.nulls(count, pa.string()),
        "url": pa.nulls(count, pa.string()),
        "arrival_time": stamps,
        "is_late": pa.array([False] * count),
    }
    return pa.table(columns).select([field.name for field in LAKE_FIELDS])


def make_dead_letters(payloads, *, reason="bad_price", arrival_ms=FIRST_MS):
    """One dead letter a payload; ids d0, d1, …"""
    rows = [
        {
            "dead_letter_id": f"d{number}",
            "reason": reason,
            "detail": "expected, got, do",
            "payload": payload,
            "shard_id": "shard-0",
            "sequence_number": str(number),
            "place": 0,
            "arrival_time": (arrival_ms + number) * 1000,
        }
        for number, payload in enumerate(payloads)
    ]
    return pa.Table.from_pylist(rows, schema=arrow_schema(DEAD_LETTER_FIELDS))


@pytest.fixture
def lake_events():
    return make_lake_events


@pytest.fixture
def dead_letter_rows():
    return make_dead_letters


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """A skipped test proves nothing: it fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
