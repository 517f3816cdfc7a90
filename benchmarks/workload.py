"""The events that every engine gets, written once as Parquet and CSV, and the expected answer.

Organic traffic: `RATE` events a second of event time, in time order, by `USERS` shoppers drawn uniformly. That is the
hard case for windows per user: about one event per user and window, so that state is as large as the traffic.
Every few seconds one more user, never seen before, sends `BURST_EVENTS` events within `BURST_S` seconds: the rules must
fire there and every engine must find the same windows.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from windows import CLASSIC, RULES, WINDOWS, batch_sql

RATE = 20_000
USERS = 1_000_000
PRODUCTS = 200_000
CATEGORIES = 600
BURST_EVENTS = 24
BURST_S = 4
START_MS = 1_793_491_200_000  # 2026-11-01T00:00:00Z, on a minute
FIRST_USER = 500_000_000
FIRST_BURST_USER = 900_000_000
VERSION = 4  # of this generator; files of another version are written again

CHUNK_MS = 25_000  # of event time that is made at once, about half a million events
FLINK_FILES = 2  # CSV files are not split by Flink: one time-ordered file per source subtask
SPARK_FILES = 40  # Spark reads whole files per micro-batch

DEFINITION = f"""\
{{events:,}} events with REES46's nine columns, {RATE:,} a second of event time ({{seconds:,.0f}} s), in time order,
none late, none twice; {USERS:,} shoppers drawn uniformly, {PRODUCTS:,} products with Zipf popularity (exponent 0.9) in
{CATEGORIES} categories; 94.4 % views, 4.0 % carts, 1.6 % purchases. Every {{burst_every_s}} s one more user sends
{BURST_EVENTS} events within {BURST_S} s, so that rules fire ({{bursts}} bursts)."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Files of the workload.

    Args:
        events: how many.
        burst_every_s: distance of planted bursts, one user each.
        bursts: how many bursts.
        parquet: one file, row groups of 100,000 events in time order.
        flink_csv: folder of two interleaved CSV files, each in time order.
        spark_csv: folder of consecutive CSV files, names and modification times in time order.
        answer: folder of Parquet files, one per window definition, with columns window_start (epoch ms), key, n.
    """

    events: int
    burst_every_s: int
    bursts: int
    parquet: Path
    flink_csv: Path
    spark_csv: Path
    answer: Path

    @property
    def definition(self) -> str:
        """Description of the events, in Markdown."""
        return DEFINITION.format(
            events=self.events, seconds=self.events / RATE, burst_every_s=self.burst_every_s, bursts=self.bursts
        )


def prepare(folder: Path, events: int, burst_every_s: int = 5) -> Workload:
    """Write the workload and its answer, unless they exist.

    Args:
        folder: parent of all workloads.
        events: how many events.
        burst_every_s: distance of planted bursts.
    """
    home = folder / f"workload-{events}-{burst_every_s}"
    bursts = max(1, int(events / RATE / burst_every_s))
    made = Workload(
        events, burst_every_s, bursts, home / "events.parquet", home / "flink-csv", home / "spark-csv", home / "answer"
    )
    stamp = home / "done.json"
    if stamp.is_file() and json.loads(stamp.read_text())["version"] == VERSION:
        return made
    shutil.rmtree(home, ignore_errors=True)
    for part in (made.flink_csv, made.spark_csv, made.answer):
        part.mkdir(parents=True)
    _write_parquet(made)
    _write_csv(made)
    _write_answer(made)
    stamp.write_text(json.dumps({"version": VERSION}))
    return made


def _catalogue(rng: np.random.Generator) -> pa.Table:
    """Products with fixed attributes: category (one holds 27 %), code (null in 32 %), brand (null in 14 %), price."""
    share = np.full(CATEGORIES, 0.73 / (CATEGORIES - 1))
    share[0] = 0.27
    category = rng.choice(CATEGORIES, PRODUCTS, p=share)
    brand = rng.integers(0, 3_000, PRODUCTS)
    coded = rng.random(CATEGORIES) > 0.32
    return pa.table(
        {
            "product_id": np.arange(PRODUCTS) + 1_000_000,
            "category_id": category + 2_053_013_550_000_000_000,
            "category_code": pa.array(
                [f"department{c % 14}.section{c % 60}.shelf{c}" if coded[c] else None for c in category]
            ),
            "brand": pa.array(
                [
                    None if missing else f"brand{b}"
                    for b, missing in zip(brand, rng.random(PRODUCTS) < 0.14, strict=True)
                ]
            ),
            "price": pa.array(np.round(np.exp(rng.normal(4.9, 1.2, PRODUCTS)), 2)).cast(
                pa.decimal128(18, 4), safe=False
            ),
        }
    )


def _sessions(users: int) -> pa.Array:
    """One session id per user, shaped like a UUID."""
    texts = (md5(str(u).encode(), usedforsecurity=False).hexdigest() for u in range(users))
    return pa.array([f"{t[:8]}-{t[8:12]}-{t[12:16]}-{t[16:20]}-{t[20:]}" for t in texts])


def _chunks(made: Workload) -> Iterator[pa.Table]:
    """The events in time order, as tables."""
    rng = np.random.default_rng(20261101)
    catalogue = _catalogue(rng)
    sessions = _sessions(USERS)
    kinds = pa.array(["view", "cart", "purchase"])
    weight = np.arange(1, PRODUCTS + 1) ** -0.9
    popularity = np.cumsum(weight) / weight.sum()
    organic = made.events - made.bursts * BURST_EVENTS
    per_chunk = RATE * CHUNK_MS // 1000
    burst = np.arange(made.bursts * BURST_EVENTS) // BURST_EVENTS
    place = np.arange(made.bursts * BURST_EVENTS) % BURST_EVENTS
    burst_ms = burst * made.burst_every_s * 1000 + 1_500 + place * (BURST_S * 1000 // BURST_EVENTS)
    for first in range(0, organic, per_chunk):
        count = min(per_chunk, organic - first)
        ms = np.arange(first, first + count) * 1000 // RATE
        end = ms[-1] + 1 if first + count < organic else np.iinfo(np.int64).max
        planted = np.flatnonzero((burst_ms >= ms[0]) & (burst_ms < end))
        user = _no_twins(rng, ms, rng.integers(0, USERS, count))
        product = np.searchsorted(popularity, rng.random(count + len(planted)))
        product[count:] = (burst[planted] * 1009 + place[planted]) % PRODUCTS  # a burst never repeats an event
        kind = rng.choice(3, len(product), p=[0.944, 0.04, 0.016])
        kind[count:] = 0
        when = np.concatenate([ms, burst_ms[planted]])
        order = np.argsort(when, kind="stable")
        things = catalogue.take(pa.array(product[order]))
        session = pc.take(sessions, pa.array(np.concatenate([user, burst[planted]])[order]))
        who = np.concatenate([user + FIRST_USER, burst[planted] + FIRST_BURST_USER])[order]
        yield pa.table(
            {
                "event_time": pa.array((when[order] + START_MS) * 1000, pa.timestamp("us", "UTC")),
                "event_type": pc.take(kinds, pa.array(kind[order])),
                **{name: things[name] for name in catalogue.column_names},
                "user_id": pa.array(who),
                "user_session": session,
            }
        )


def _no_twins(rng: np.random.Generator, ms: np.ndarray, user: np.ndarray) -> np.ndarray:
    """No shopper has two events in one millisecond: equal events are duplicates, which only some engines remove."""
    while True:
        first = np.unique(ms * USERS + user, return_index=True)[1]
        if len(first) == len(user):
            return user
        again = np.setdiff1d(np.arange(len(user)), first)
        user[again] = rng.integers(0, USERS, len(again))


def _write_parquet(made: Workload) -> None:
    writer: pq.ParquetWriter | None = None
    for chunk in _chunks(made):
        writer = writer or pq.ParquetWriter(made.parquet, chunk.schema, compression="lz4")
        writer.write_table(chunk, row_group_size=100_000)
    if writer:
        writer.close()


def _write_csv(made: Workload) -> None:
    """CSV without header; times are UTC SQL timestamps with milliseconds, which all engines can parse."""
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    columns = "strftime(event_time, '%Y-%m-%d %H:%M:%S.%g') AS event_time, * EXCLUDE (event_time, file_row_number)"
    source = "read_parquet(?, file_row_number = true)"
    for part in range(FLINK_FILES):
        con.execute(
            f"COPY (SELECT {columns} FROM {source} WHERE file_row_number % {FLINK_FILES} = {part}) TO ? (HEADER false)",
            [str(made.parquet), str(made.flink_csv / f"part-{part}.csv")],
        )
    step = -(-made.events // SPARK_FILES)
    for part in range(SPARK_FILES):
        con.execute(
            f"COPY (SELECT {columns} FROM {source} "
            f"WHERE file_row_number BETWEEN {part * step} AND {(part + 1) * step - 1}) TO ? (HEADER false)",
            [str(made.parquet), str(made.spark_csv / f"part-{part:03}.csv")],
        )
    con.close()


def _write_answer(made: Workload) -> None:
    con = duckdb.connect()
    for window in (*RULES, *CLASSIC):
        con.execute(
            f"COPY ({batch_sql(window, 'read_parquet(?)')}) TO ?",
            [str(made.parquet), str(made.answer / f"{window.name}.parquet")],
        )
    con.close()


@dataclass(frozen=True, slots=True)
class Check:
    """Comparison of an engine's windows with the batch answer."""

    expected: int
    missing: int
    extra: int
    what: str = "windows"

    @property
    def text(self) -> str:
        """One table cell."""
        if not self.missing and not self.extra:
            return f"equal ({self.expected:,} {self.what})"
        return f"DIFFERS: {self.missing:,} missing, {self.extra:,} extra of {self.expected:,} {self.what}"


_OUTPUT = """header = false, auto_detect = false, delim = ',', quote = '"',
    columns = {'window_start': 'VARCHAR', 'key': 'VARCHAR', 'n': 'BIGINT'}"""


def check(made: Workload, windows: str, output: Path, lag_ms: int = 0) -> Check:
    """Compare an engine's output with the answer, over the windows that end inside the workload.

    Args:
        made: the workload.
        windows: `rules` or `classic`.
        output: folder with one sub-folder per window definition, of CSV files window_start (SQL timestamp), key, n.
        lag_ms: how far the engine keeps its watermark behind the newest event; later windows are still open.
    """
    expected = missing = extra = 0
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    last = con.execute("SELECT max(epoch_ms(event_time)) FROM read_parquet(?)", [str(made.parquet)]).fetchall()[0][0]
    for window in WINDOWS[windows]:
        inside = f"WHERE window_start + {window.size_ms} <= {last - lag_ms}"
        # Files that an engine has not committed, and its own notes, start with a dot or an underscore.
        files = [str(f) for f in (output / window.name).rglob("[!._]*") if f.is_file() and f.parent.name[0] != "_"]
        found = (
            f"SELECT epoch_ms(window_start::TIMESTAMP) AS window_start, key, n FROM read_csv({files!r}, {_OUTPUT})"
            if any(Path(f).stat().st_size for f in files)
            else "SELECT 0::BIGINT AS window_start, '' AS key, 0::BIGINT AS n LIMIT 0"
        )
        con.execute(f"CREATE OR REPLACE TEMP TABLE found AS SELECT * FROM ({found}) {inside}")
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE wanted AS SELECT * FROM read_parquet(?) {inside}",
            [str(made.answer / f"{window.name}.parquet")],
        )
        counts = con.execute(
            "SELECT (SELECT count(*) FROM wanted), (SELECT count(*) FROM (FROM wanted EXCEPT ALL FROM found)), "
            "(SELECT count(*) FROM (FROM found EXCEPT ALL FROM wanted))"
        ).fetchall()[0]
        expected, missing, extra = expected + counts[0], missing + counts[1], extra + counts[2]
    con.close()
    return Check(expected, missing, extra)
