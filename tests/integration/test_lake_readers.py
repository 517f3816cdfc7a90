"""Other programs read the tables: plain PyIceberg, and DuckDB's Iceberg extension; neither uses code of shopstream."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.ports import LakeTable

ROOT = Path(__file__).resolve().parents[2]
DUCKDB_READER = ROOT / ".venv-reader" / "bin" / "python"

PYICEBERG = """
import json, sys
from pyiceberg.catalog import load_catalog

assert not any(name.startswith("shopstream") for name in sys.modules)
catalog = load_catalog("shopstream", type="sql", uri="sqlite:///" + sys.argv[1] + "/catalog.db")
table = catalog.load_table("shop.events")
rows = table.scan(selected_fields=("event_time", "user_id", "price", "brand")).to_arrow().sort_by("user_id")
late = table.scan(row_filter="event_time >= '2019-11-02T00:00:00+00:00'").to_arrow()
letters = catalog.load_table("shop.dead_letters").scan().to_arrow()
print(json.dumps({
    "tables": sorted(name for _, name in catalog.list_tables("shop")),
    "users": rows["user_id"].to_pylist(),
    "prices": [str(price) for price in rows["price"].to_pylist()],
    "brands": rows["brand"].to_pylist(),
    "first": rows["event_time"][0].as_py().isoformat(),
    "second_day": late.num_rows,
    "payloads": [payload.hex() for payload in letters["payload"].to_pylist()],
    "positions": json.loads(table.current_snapshot().summary["shopstream.positions"]),
}))
"""

DUCKDB = """
import glob, json, os, sys
import duckdb, duckdb_extension_avro, duckdb_extension_iceberg

connection = duckdb.connect()
connection.execute("SET TimeZone = 'UTC'")
for package in (duckdb_extension_avro, duckdb_extension_iceberg):
    (file,) = glob.glob(os.path.dirname(package.__file__) + "/**/*.duckdb_extension", recursive=True)
    connection.execute("LOAD '" + file.replace("'", "''") + "'")
events, letters = sys.argv[1:]
count, first, total, nans = connection.execute(
    "SELECT count(*), min(event_time)::VARCHAR, sum(price)::VARCHAR, count(*) FILTER (brand = 'nan') "
    "FROM iceberg_scan(?)",
    [events],
).fetchone()
users = connection.execute("SELECT user_id FROM iceberg_scan(?) ORDER BY 1", [events]).fetchall()
day = connection.execute("SELECT count(*) FROM iceberg_scan(?) WHERE event_time >= '2019-11-02'", [events]).fetchone()
payloads = connection.execute("SELECT payload FROM iceberg_scan(?)", [letters]).fetchall()
print(json.dumps({
    "count": count, "first": first, "total": total, "nans": nans, "users": [user for (user,) in users],
    "second_day": day[0], "payloads": [payload.hex() for (payload,) in payloads],
}))
"""


def read_with(python, program, *arguments):
    done = subprocess.run(
        [str(python), "-c", program, *map(str, arguments)], capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(params=["as committed", "compacted", "expired"])
def lakehouse(request, tmp_path, lake_events, dead_letter_rows):
    """Three commits over two days, 30 events; and what maintenance makes of them."""
    lakehouse = EmbeddedLakehouse(tmp_path / "lake")
    for turn in range(3):
        rows = lake_events(turn * 10, 10, start_ms=1_572_566_400_000 + turn // 2 * 86_400_000)
        lakehouse.append(LakeTable.EVENTS, rows, {"shard-0": turn, "shard-1": 7})
    lakehouse.append(LakeTable.DEAD_LETTERS, dead_letter_rows([b"\x00\xff,bad"]), {"shard-0": 2})
    if request.param != "as committed":
        assert lakehouse.compact(LakeTable.EVENTS) == 1
    if request.param == "expired":
        assert lakehouse.expire(LakeTable.EVENTS, 1) > 0
    return lakehouse


def test_plain_pyiceberg_reads_the_tables(lakehouse):
    seen = read_with(sys.executable, PYICEBERG, lakehouse.catalog.path)
    assert seen == {
        "tables": ["dead_letters", "detections", "events"],
        "users": list(range(30)),
        "prices": [f"{number / 100:.4f}" for number in range(30)],
        "brands": [None if number % 2 else "nan" for number in range(30)],
        "first": "2019-11-01T00:00:00+00:00",
        "second_day": 10,
        "payloads": [b"\x00\xff,bad".hex()],
        "positions": {"shard-0": 2, "shard-1": 7},
    }


def test_duckdbs_own_iceberg_extension_reads_the_tables(lakehouse):
    assert DUCKDB_READER.exists(), "expected the reader's environment; make it with `make .venv-reader/.done`"
    metadata = [
        Path(lakehouse.catalog.load(table).metadata_location) for table in (LakeTable.EVENTS, LakeTable.DEAD_LETTERS)
    ]
    seen = read_with(DUCKDB_READER, DUCKDB, *metadata)
    assert seen == {
        "count": 30,
        "first": "2019-11-01 00:00:00+00",
        "total": "4.3500",
        "nans": 15,
        "users": list(range(30)),
        "second_day": 10,
        "payloads": [b"\x00\xff,bad".hex()],
    }
