"""The four reports over real rows equal figures that plain DuckDB and Python get from the raw CSV."""

import statistics
from collections import defaultdict
from datetime import timedelta
from decimal import Decimal
from math import sqrt
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from shopstream.events.codec import decode
from shopstream.lakehouse.embedded import EmbeddedLakehouse
from shopstream.lakehouse.ports import LakeTable
from shopstream.models.dbt import build
from shopstream.models.names import ReportName
from shopstream.models.reports import report

ROWS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "rees46"
CASES = [
    ("2019-11-01-first-minutes.csv", "UTC"),
    ("2019-oct-nov-random-sample.csv", "Asia/Almaty"),
]
ABANDONED_AFTER = timedelta(minutes=30)
ECHO = timedelta(minutes=5)


class Case:
    """The reports of one file, and the raw rows for another way of counting."""

    def __init__(self, path, timezone, folder):
        payload = path.read_bytes()
        decoded = decode([payload], [1_700_000_000_000])
        events = decoded.events.drop_columns(["record", "place"])
        events = events.append_column(
            "arrival_time", pa.array([1_700_000_000_000_000] * len(events), pa.timestamp("us", "UTC"))
        ).append_column("is_late", pa.array([False] * len(events)))
        self.rejects = len(decoded.rejects)
        self.rows_in = payload.count(b"\n") - 1
        lakehouse = EmbeddedLakehouse(folder / "lake")
        lakehouse.append(LakeTable.EVENTS, events, {"shard-0": 1})
        self.result = build(lakehouse, folder / "reports.duckdb", timezone)
        self.marts = duckdb.connect(folder / "reports.duckdb", read_only=True)
        self.reports_path = folder / "reports.duckdb"
        self.raw = duckdb.connect()
        self.raw.execute(
            f"""create table raw as
            with rows as (
                select distinct * from read_csv('{path}', all_varchar = true, header = true, nullstr = '', quote = '"')
            ), timed as (
                select *, strptime(replace(event_time, ' UTC', ''), '%Y-%m-%d %H:%M:%S')
                    at time zone 'UTC' at time zone '{timezone}' as t
                from rows
            )
            select t, t::date as day, isodow(t) as weekday, hour(t) as hour, event_type as kind, product_id as product,
                coalesce(category_code, '(no code) ' || category_id) as category, brand,
                price::decimal(18, 4) as price, user_id as shopper, user_session as visit
            from timed"""
        )

    def mart(self, sql):
        return self.marts.execute(sql).fetchall()

    def plain(self, sql):
        return self.raw.execute(sql).fetchall()


@pytest.fixture(scope="module", params=CASES, ids=[name.split(".")[0] for name, _ in CASES])
def case(request, tmp_path_factory):
    name, timezone = request.param
    return Case(ROWS / name, timezone, tmp_path_factory.mktemp("home"))


def test_every_row_is_an_event_a_duplicate_or_a_reject(case):
    assert case.result.events + case.result.duplicates + case.rejects == case.rows_in
    assert case.result.events == case.plain("select count(*) from raw")[0][0]


def test_unique_visitors_equal_plain_counts(case):
    expected = case.plain("""
        select day, count(distinct shopper), count(distinct (shopper, coalesce(visit, ''))),
            count(distinct case when kind = 'purchase' then shopper end),
            (select count(*) from (select min(day) as first from raw group by shopper) s where s.first = r.day),
            count(*), count(*) filter (kind = 'view'), count(*) filter (kind = 'cart'),
            count(*) filter (kind = 'purchase'), coalesce(sum(price) filter (kind = 'purchase'), 0), min(t), max(t)
        from raw r group by day order by 1""")
    found = case.mart("""
        select shop_date, visitors, sessions, buyers, new_visitors, events, views, carts, purchases, revenue,
            first_event_at, last_event_at
        from unique_visitors order by 1""")
    assert found == expected


def test_abandoned_carts_equal_carts_with_nothing_after_them(case):
    last = case.plain("select max(t) from raw")[0][0]
    expected = {}
    # Another way: a cart event counts when no purchase or removal of the pair comes at or after it, and no purchase
    # shortly before it; the latest such event is the line.
    for shopper, product, at, price, category, brand in case.plain("""
        select shopper, product, t, price, category, brand from raw cart
        where kind = 'cart'
            and not exists (from raw r where r.shopper = cart.shopper and r.product = cart.product
                and r.kind in ('purchase', 'remove_from_cart') and r.t >= cart.t)
            and not exists (from raw r where r.shopper = cart.shopper and r.product = cart.product
                and r.kind = 'purchase' and r.t < cart.t and r.t >= cart.t - interval 5 minutes)
        order by t"""):
        state = "abandoned" if at + ABANDONED_AFTER <= last else "open"
        expected[int(shopper), int(product)] = (at, price, category, brand, state)
    found = {
        (row[0], row[1]): row[2:]
        for row in case.mart(
            "select user_id, product_id, last_carted_at, value, category, brand, state from abandoned_carts"
        )
    }
    assert found == expected
    assert found


def test_abandoned_carts_daily_equal_a_walk_through_the_events(case):
    last = case.plain("select max(t) from raw")[0][0]
    days = defaultdict(lambda: defaultdict(lambda: Decimal(0)))
    lines = {}  # (shopper, product) → [time of the last cart event, price]
    bought_at = {}

    def end(line, how):
        day = days[line[0].date()]
        day["cart_lines"] += 1
        day[how] += 1
        if how in ("bought", "abandoned"):
            day[f"{how}_value"] += line[1]

    for at, kind, shopper, product, price in case.plain("""
        select t, kind, shopper, product, price from raw where kind <> 'view'
        order by t, case kind when 'cart' then 0 when 'remove_from_cart' then 1 else 2 end"""):
        pair = (shopper, product)
        if kind == "cart":
            if pair not in bought_at or at - bought_at[pair] > ECHO:
                lines[pair] = [at, price]
        else:
            if kind == "purchase":
                bought_at[pair] = at
                days[at.date()]["purchases"] += 1
                days[at.date()]["purchases_without_cart"] += pair not in lines
            if pair in lines:
                end(lines.pop(pair), "bought" if kind == "purchase" else "removed")
    for line in lines.values():
        end(line, "abandoned" if line[0] + ABANDONED_AFTER <= last else "still_open")

    names = ["cart_lines", "bought", "removed", "still_open", "abandoned", "bought_value", "abandoned_value"]
    names += ["purchases", "purchases_without_cart"]
    found = {row[0]: row[1:] for row in case.mart(f"select shop_date, {', '.join(names)} from abandoned_carts_daily")}
    all_days = [row[0] for row in case.plain("select distinct t::date from raw")]
    assert found == {day: tuple(days[day][name] for name in names) for day in all_days}


def test_top_categories_equal_plain_counts(case):
    expected = case.plain("""
        select weekday, hour, category, count(*) filter (kind = 'view'), count(distinct shopper),
            count(*) filter (kind = 'cart'), count(*) filter (kind = 'purchase'),
            coalesce(sum(price) filter (kind = 'purchase'), 0),
            (select count(distinct day) from raw s where s.weekday = r.weekday and s.hour = r.hour)
        from raw r group by weekday, hour, category order by 1, 2, 4 desc, 5 desc, 8 desc, 3""")
    found = case.mart("""
        select weekday, hour, category, views, visitors, carts, purchases, revenue, days
        from top_categories order by weekday, hour, rank""")
    assert found == expected
    shares = case.mart("select sum(views_share) from top_categories group by weekday, hour having sum(views) > 0")
    assert all(share == pytest.approx(1) for (share,) in shares)


def test_brand_marketing_equals_the_interval_by_its_textbook_formula(case):
    brands = case.plain("""
        select brand, count(distinct shopper), count(distinct case when kind = 'purchase' then shopper end),
            count(*) filter (kind = 'view'), count(*) filter (kind = 'purchase'),
            coalesce(sum(price) filter (kind = 'purchase'), 0), avg(price)
        from raw where brand is not null group by brand""")
    large = [(buyers / visitors, visitors) for _, visitors, buyers, *_ in brands if visitors >= 100]
    rate = statistics.median(x for x, _ in large) if large else None
    reach = statistics.median(n for _, n in large) if large else None
    z = statistics.NormalDist().inv_cdf(0.995)
    expected = {}
    for brand, visitors, buyers, views, purchases, revenue, average in brands:
        centre = (buyers + z * z / 2) / (visitors + z * z)
        half = z / (visitors + z * z) * sqrt(buyers * (visitors - buyers) / visitors + z * z / 4)
        each = float(revenue) / buyers if buyers else average
        verdict, missed = "in_line", 0.0
        if visitors < 100:
            verdict = "too_few_visitors"
        elif centre + half < rate:
            verdict, missed = "seen_not_bought", (rate * visitors - buyers) * each
        elif centre - half > rate and visitors < reach:
            verdict, missed = "bought_not_seen", (reach - visitors) * buyers / visitors * each
        expected[brand] = (verdict, visitors, buyers, views, purchases, revenue, pytest.approx(missed, abs=0.01))
    found = {
        row[0]: (*row[1:-1], float(row[-1]))
        for row in case.mart(
            "select brand, verdict, visitors, buyers, views, purchases, revenue, missed_revenue from brand_marketing"
        )
    }
    assert found == expected


@pytest.mark.parametrize("name", list(ReportName))
def test_a_report_shows_its_mart(case, name):
    shown = report(name, case.reports_path, 5)
    assert shown.headline
    assert 0 < len(shown.rows) == min(5, shown.total_rows)
