"""Synthetic traffic against a uniform sample of 10,912 real events; there are such tests only where the sample is."""

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from shopstream.simulation.synthesis import Synthesis, SynthesisSettings

SAMPLE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "rees46" / "2019-oct-nov-random-sample.csv"


@pytest.fixture(scope="module")
def base():
    settings = SynthesisSettings(start=datetime(2019, 11, 5, tzinfo=UTC), days=2, events=400_000, seed=11)
    rows = pa.concat_tables(Synthesis(settings).batches(), promote_options="default").unify_dictionaries()
    base = duckdb.connect()
    base.execute("set timezone = 'UTC'")
    base.register("rows", rows.select(rows.column_names[:9]))
    base.execute("create table synthetic as select * from rows")
    base.execute(
        "create table real as select * replace (replace(event_time, ' UTC', '+00')::timestamptz as event_time, "
        "price::double as price) from read_csv(?, all_varchar = true)",
        [str(SAMPLE)],
    )
    return base


@pytest.mark.parametrize(
    ("condition", "tolerance"),
    [
        ("event_type = 'view'", 0.02),
        ("event_type = 'cart'", 0.015),
        ("event_type = 'purchase'", 0.005),
        ("category_code is null", 0.02),
        ("brand is null", 0.025),
        ("price = 0", 0.0015),
        ("coalesce(category_code = 'electronics.smartphone', false)", 0.04),
        ("coalesce(brand = 'samsung', false)", 0.03),
    ],
)
def test_shares_are_those_of_the_sample(base, condition, tolerance):
    synthetic, real = (
        base.execute(f"select avg(({condition})::int) from {table}").fetchone()[0] for table in ("synthetic", "real")
    )
    assert synthetic == pytest.approx(real, abs=tolerance)


def test_hours_are_those_of_the_sample(base):
    synthetic, real = (
        base.execute(
            f"select hour(event_time), count(*) / (select count(*) from {table}) from {table} group by 1"
        ).fetchall()
        for table in ("synthetic", "real")
    )
    synthetic, real = dict(synthetic), dict(real)
    # Sessions follow the hours of all real sessions; the sample's evening sessions are a little longer than others.
    assert sum(abs(synthetic[hour] - real[hour]) for hour in range(24)) / 2 < 0.07
    assert max(abs(synthetic[hour] - real[hour]) for hour in range(24)) < 0.016


def test_prices_are_those_of_the_sample(base):
    quantiles = "[0.05, 0.25, 0.5, 0.75, 0.95]"
    synthetic, real = (
        base.execute(f"select quantile_cont(price, {quantiles}) from {table}").fetchone()[0]
        for table in ("synthetic", "real")
    )
    assert [float(price) for price in synthetic] == pytest.approx([float(price) for price in real], rel=0.08)


def test_ids_lie_where_the_real_ones_lie(base):
    for column, low, high in (("user_id", 0.02, 0.98), ("category_id", 0.02, 0.9)):
        lower, upper = base.execute(
            f"select quantile_disc({column}::bigint, {low}), quantile_disc({column}::bigint, {high}) from real"
        ).fetchone()
        share = f"select avg(({column} between ? and ?)::int) from synthetic"
        assert base.execute(share, [lower, upper]).fetchone()[0] > 0.6
