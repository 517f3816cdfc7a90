"""What each attack, fault and surge does to the traffic, and that the truth says so."""

from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
import pytest

from shopstream.detection.detection import Nature
from shopstream.errors import ConfigurationError
from shopstream.events.columns import REES46_COLUMNS
from shopstream.simulation.attacks import Carding, Crawler, Crowd, Flood, Hoarding, Rotation, Scalping, Scraper
from shopstream.simulation.faults_and_surges import DuplicateStorm, FlashSale, Outage, PriceError, PurchaseCollapse
from shopstream.simulation.injection import Target, busy_targets
from shopstream.simulation.scenario_file import load_scenarios
from shopstream.simulation.synthesis import Synthesis, SynthesisSettings

START = datetime(2019, 11, 5, tzinfo=UTC)
SMALL = {"events": 60_000, "products": 3_000, "seed": 1_003}
SHIPPED = load_scenarios()
COLUMNS = ", ".join(REES46_COLUMNS)


def _at(hour, minute=0):
    return START + timedelta(hours=hour, minutes=minute)


def _minutes(count):
    return timedelta(minutes=count)


def _laid(*scenarios, **options):
    """(Database with `events` in order of arrival, the scenarios' truths)."""
    synthesis = Synthesis(SynthesisSettings(**(SMALL | options), scenarios=scenarios))
    table = pa.concat_tables(synthesis.batches(), promote_options="default").unify_dictionaries()
    base = duckdb.connect()
    base.execute("set timezone = 'UTC'")
    base.register("rows", table)
    base.execute("create table events as select *, row_number() over () as place from rows")
    truths = synthesis.ground_truth()
    base.execute("create table actors (user_id bigint)")
    for truth in truths:
        if truth.actors:
            base.execute("insert into actors select unnest(?::bigint[])", [list(truth.actors)])
    base.execute("create view mine as select * from events semi join actors using (user_id)")
    base.execute("create view others as select * from events anti join actors using (user_id)")
    return base, truths


def _one(base, query, *values):
    return base.execute(query, values).fetchall()[0][0]


def _product(column="product", share=0.002):
    world = SynthesisSettings(**SMALL).world()
    return busy_targets(world.catalogue, column, share)[0]


@pytest.fixture(scope="module")
def calm():
    base, _ = _laid()
    return base


# the truth


@pytest.mark.parametrize("name", sorted(name for name, file in SHIPPED.items() if file.hostile))
def test_the_truth_of_every_attack_is_exact_and_genuine_events_do_not_change(name, calm):
    file = SHIPPED[name].model_copy(update={"min_rate": 0.0})
    if name == "distributed":  # a small shop takes longer for so many ids
        case = Crowd(_at(9), timedelta(hours=10), 2_000, 0.3)
    else:
        case = file.draw(file.chance(1_003), START, SynthesisSettings(**SMALL).world())
    base, (truth,) = _laid(case)
    assert truth.nature is Nature.ATTACK
    assert truth.scenario == (None if name == "distributed" else name)
    count, first, last, users = base.execute(
        "select count(*), min(event_time), max(event_time), count(distinct user_id) from mine"
    ).fetchall()[0]
    assert count == truth.events > 0
    assert users <= len(truth.actors) == len(set(truth.actors))
    assert first == truth.first_time.replace(microsecond=0)
    assert truth.from_time.replace(microsecond=0) <= first <= last < truth.until_time
    kept = base.execute(f"select {COLUMNS} from others order by all").fetchall()
    assert kept == calm.execute(f"select {COLUMNS} from events order by all").fetchall()
    if truth.key:
        ((column, value),) = truth.key.items()
        assert _one(base, f"select count(distinct {column}) from mine") == 1
        assert str(_one(base, f"select any_value({column}) from mine")) == value


def test_the_truth_file_has_scenario_parameters_key_and_residents(tmp_path):
    file = SHIPPED["carding_many_ids"]
    settings = SynthesisSettings(**SMALL)
    case = file.draw(file.chance(1_003), START, settings.world(), _at(13))
    synthesis = Synthesis(SynthesisSettings(**SMALL, scenarios=(case,)))
    synthesis.write(tmp_path / "day.csv")
    (truth,) = synthesis.truth()["injections"]
    assert truth["scenario"] == "carding_many_ids"
    assert truth["nature"] == "attack"
    assert truth["key"] == {}
    assert truth["parameters"] == dict(case.parameters)
    assert truth["from"] == "2019-11-05T13:00:00+00:00"
    assert truth["from"] <= truth["first"] < "2019-11-05T13:01"
    assert synthesis.truth()["residents"] == []
    assert "carding" not in (tmp_path / "day.csv").read_text()


# floods


def test_a_category_flood_stays_in_its_category():
    key = _product("category", 0.05)
    base, (truth,) = _laid(Flood(_at(13), _minutes(30), 5, 300, target=key))
    during = f"event_time >= '{_at(13)}' and event_time < '{_at(13, 30)}' and category_id = {key.value}"
    usual = _one(base, f"select count(*) from others where {during}")
    assert truth.events == pytest.approx(4 * usual, rel=0.25)
    assert _one(base, "select count(distinct product_id) from mine") > 3


def test_a_ramp_grows_linearly():
    base, (truth,) = _laid(Flood(_at(12), timedelta(hours=2), 3, 500, shape="ramp"), events=300_000)
    quarter = f"floor(epoch(event_time - timestamptz '{_at(12)}') / 1800)"
    quarters = base.execute(f"select count(*) from mine group by {quarter} order by any_value({quarter})").fetchall()
    shares = [count / truth.events for (count,) in quarters]
    assert shares == pytest.approx([1 / 16, 3 / 16, 5 / 16, 7 / 16], abs=0.03)


def test_pulses_alternate_with_usual_traffic():
    begin = _at(12) + timedelta(seconds=7)
    base, _ = _laid(Flood(begin, _minutes(30), 40, 500, shape="pulse", pulse_s=10, every_s=60))
    assert _one(base, f"select max(epoch(event_time - timestamptz '{begin}')::int % 60) from mine") < 10
    assert _one(base, f"select count(distinct epoch(event_time - timestamptz '{begin}')::int // 60) from mine") == 30


# bots


@pytest.mark.parametrize(("jitter", "least", "most"), [(0.0, 19, 21), (0.3, 13, 27), (0.5, 9, 31)])
def test_uniform_gaps_stay_within_the_jitter(jitter, least, most):
    base, _ = _laid(Crawler(_at(9), timedelta(hours=2), 1, 20.0, jitter))
    gaps = "(select epoch(event_time - lag(event_time) over (order by place)) as gap from mine)"
    assert _one(base, f"select min(gap) from {gaps}") >= least
    assert _one(base, f"select max(gap) from {gaps}") <= most
    assert _one(base, f"select avg(gap) from {gaps}") == pytest.approx(20, rel=0.05)
    assert _one(base, "select count(*) - count(distinct product_id) from mine") == 0


def test_a_human_like_crawler_has_the_gaps_of_shoppers_and_continues_all_day():
    base, (truth,) = _laid(Crawler(_at(0), timedelta(days=1), 1, 33.0, timing="log_normal", pages_per_session=20))
    gaps = "(select epoch(event_time - lag(event_time) over (order by place)) as gap from mine)"
    quartiles = _one(base, f"select quantile_cont(gap, [0.25, 0.5, 0.75]) from {gaps}")
    assert quartiles == pytest.approx([17, 33, 63], rel=0.12)
    assert _one(base, "select count(distinct hour(event_time)) from mine") == 24
    assert _one(base, "select count(distinct user_session) from mine") == pytest.approx(truth.events / 20, rel=0.35)
    assert 1_200 < truth.events < 2_100


def test_a_crowd_uses_each_id_a_few_times_and_takes_as_long_as_the_share_says():
    lasts = Crowd.lasts({"ids": 2_000, "share": 0.2}, 8.0)
    assert lasts == timedelta(seconds=2_000 * 3 / 1.6)
    base, (truth,) = _laid(Crowd(_at(9), timedelta(hours=6), 2_000, 0.2))
    uses = "(select count(*) as n from mine group by user_id)"
    assert _one(base, f"select min(n) from {uses}") == 1
    assert _one(base, f"select max(n) from {uses}") == 5
    assert len(truth.actors) == 2_000
    assert truth.events == pytest.approx(6_000, rel=0.05)


def test_rotating_ids_are_a_share_of_the_traffic_with_a_few_pages_each():
    base, (truth,) = _laid(Rotation(_at(10), timedelta(hours=4), 0.05), events=300_000)
    during = f"event_time >= '{_at(10, 30)}' and event_time < '{_at(14)}'"
    share = _one(base, f"select (select count(*) from mine where {during}) / count(*) from others where {during}")
    assert share == pytest.approx(0.05, abs=0.01)
    ended = f"(select count(*) as n from mine group by user_id having max(event_time) < '{_at(13)}')"
    assert _one(base, f"select min(n) from {ended}") >= 5
    assert _one(base, f"select max(n) from {ended}") <= 20
    assert _one(base, "select count(*) - count(distinct product_id) from mine") <= max(truth.events - 3_000, 0)
    assert _one(base, "select count(distinct event_type) from mine") == 1


# fraud


def test_hoarders_fill_carts_at_their_pace_and_never_buy():
    base, _ = _laid(Hoarding(_at(13), _minutes(30), 5, 4.0, products=3))
    carts = "(select count(*) filter (event_type = 'cart') / 30 as pace from mine group by user_id)"
    assert _one(base, f"select min(pace) from {carts}") > 3.4
    assert _one(base, f"select max(pace) from {carts}") < 4.6
    assert _one(base, "select count(*) from mine where event_type = 'purchase'") == 0
    assert _one(base, "select count(distinct product_id) from mine") <= 3
    assert 0.2 < _one(base, "select avg((event_type = 'view')::int) from mine") < 0.45


def test_scalpers_buy_one_product_each_within_five_seconds_of_the_cart():
    base, (truth,) = _laid(Scalping(_at(13), _minutes(5), 80, target=_product()))
    bought, carted = (f"max(event_time) filter (event_type = '{kind}')" for kind in ("purchase", "cart"))
    count = "count(*) filter (event_type = 'purchase') as bought"
    per_id = f"(select {count}, epoch({bought} - {carted}) as pause from mine group by user_id)"
    assert _one(base, f"select count(*) from {per_id} where bought = 1 and pause between 0 and 5") == 80
    half = f"select avg((event_time < '{_at(13, 2)}')::int) from mine where event_type = 'purchase'"
    assert _one(base, half) > 0.45
    assert truth.key == {"product_id": str(_one(base, "select any_value(product_id) from mine"))}


@pytest.mark.parametrize("ids", [1, 200])
def test_carding_makes_only_small_purchases(ids):
    base, (truth,) = _laid(Carding(_at(13), _minutes(20), ids, 12.0), tracker=True)
    assert truth.events == pytest.approx(240, rel=0.1)
    assert len(truth.actors) == min(ids, 200)
    assert base.execute("select distinct event_type from mine").fetchall() == [("purchase",)]
    low, high = base.execute("select min(price), max(price) from mine").fetchall()[0]
    assert 2 <= low <= high <= 20
    networks = "select count(distinct regexp_extract(ip, '^(.*)[.]', 1)) from mine"
    assert _one(base, networks) <= 4
    assert _one(base, "select count(distinct user_agent) from mine") == 1


# faults


def test_an_outage_of_one_event_type_keeps_the_others(calm):
    base, (truth,) = _laid(Outage(_at(13), _minutes(30), target=Target("event_type", "cart")))
    during = f"event_time >= '{_at(13)}' and event_time < '{_at(13, 30)}'"
    kinds = f"select event_type, count(*) from events where {during} group by all order by all"
    before, after = dict(calm.execute(kinds).fetchall()), dict(base.execute(kinds).fetchall())
    assert after == {kind: count for kind, count in before.items() if kind != "cart"}
    assert (truth.nature, truth.events, truth.key) == (Nature.FAULT, before["cart"], {"event_type": "cart"})


def test_a_storm_repeats_events_exactly_and_soon():
    base, (truth,) = _laid(DuplicateStorm(_at(13), _minutes(30), 0.5, copies=2, delay_s=20), tracker=True)
    during = f"event_time >= '{_at(13)}' and event_time < '{_at(13, 30)}'"
    names = ", ".join(("event_id", "ip", "user_agent", "url", *REES46_COLUMNS))
    groups = f"(select count(*) as n from events where {during} group by {names})"
    assert _one(base, f"select avg((n >= 3)::int) from {groups}") == pytest.approx(0.5, abs=0.05)
    total, once = base.execute(f"select sum(n), count(*) from {groups}").fetchall()[0]
    assert truth.events == pytest.approx(total - once, rel=0.02)
    assert (truth.nature, truth.actors) == (Nature.FAULT, ())
    late = "(select event_time, max(event_time) over (order by place) as seen from events)"
    assert 0 < _one(base, f"select max(epoch(seen - event_time)) from {late}") <= 20


@pytest.mark.parametrize("loss", [0.5, 0.9])
def test_purchases_collapse_by_the_share(calm, loss):
    base, (truth,) = _laid(PurchaseCollapse(_at(8), timedelta(hours=6), loss))
    during = f"event_time >= '{_at(8)}' and event_time < '{_at(14)}'"
    bought = f"select count(*) from events where {during} and event_type = 'purchase'"
    before, after = _one(calm, bought), _one(base, bought)
    assert after / before == pytest.approx(1 - loss, abs=0.08)
    assert truth.events == before - after
    other = f"select count(*) from events where not ({during} and event_type = 'purchase')"
    assert _one(base, other) == _one(calm, other)


@pytest.mark.parametrize("factor", [0.01, 0.1, 10])
def test_a_wrong_price_is_shown_for_one_product_for_a_while(calm, factor):
    key = _product()
    base, (truth,) = _laid(PriceError(_at(8), timedelta(hours=6), factor, target=key))
    prices = (
        f"select price, count(*), min(event_time) from events where product_id = {key.value} "
        f"and event_time >= '{_at(8)}' and event_time < '{_at(14)}' group by price"
    )
    ((right, usual, _),) = calm.execute(prices).fetchall()
    ((wrong, hit, first),) = base.execute(prices).fetchall()
    assert float(wrong / right) == pytest.approx(factor, rel=0.05)
    assert hit == usual == truth.events
    assert truth.first_time.replace(microsecond=0) == first
    names = "product_id, category_id, category_code, brand, user_id, user_session, event_type, event_time"
    same = f"select {names} from events order by all"
    assert base.execute(same).fetchall() == calm.execute(same).fetchall()


def test_two_price_errors_do_not_meet(calm):
    world = SynthesisSettings(**SMALL).world()
    one, two = busy_targets(world.catalogue, "product", 0.004)[:2]
    base, truths = _laid(
        PriceError(_at(8), timedelta(hours=3), 0.1, target=one), PriceError(_at(9), timedelta(hours=3), 10, target=two)
    )
    assert all(truth.events > 0 for truth in truths)
    odd = "select product_id from events group by product_id having count(distinct price) > 1"
    assert {str(row[0]) for row in base.execute(odd).fetchall()} == {one.value, two.value}
    assert calm.execute(odd).fetchall() == []


# controls


def test_shoppers_return_little_by_little_or_all_at_once(calm):
    after = f"event_time >= '{_at(13, 30)}' and event_time < '{_at(13, 40)}'"
    count = f"select count(*) from events where {after}"
    ramp, truth = _laid(Outage(_at(13), _minutes(30), "ramp", recovery_minutes=20))
    assert _one(ramp, count) / _one(calm, count) == pytest.approx(0.25, abs=0.08)
    assert [(truth.kind, truth.nature) for truth in truth] == [
        ("outage", Nature.FAULT),
        ("recovery", Nature.SURGE),
    ]
    assert (truth[1].from_time, truth[1].until_time) == (_at(13, 30), _at(13, 50))
    rush, _ = _laid(Outage(_at(13), _minutes(30), "rush", recovery_minutes=20, rush=3.0))
    assert _one(rush, count) / _one(calm, count) > 1.5
    for base in (ramp, rush):
        inside = f"select count(*) from events where event_time >= '{_at(13)}' and event_time < '{_at(13, 30)}'"
        assert _one(base, inside) == 0


def test_a_backlog_loses_nothing_and_arrives_after_the_outage(calm):
    base, truth = _laid(Outage(_at(13), _minutes(30), "backlog", recovery_minutes=5))
    same = f"select {COLUMNS} from events order by all"
    assert base.execute(same).fetchall() == calm.execute(same).fetchall()
    late = "(select event_time, max(event_time) over (order by place) as seen from events)"
    held = f"event_time >= '{_at(13)}' and event_time < '{_at(13, 30)}'"
    assert _one(base, f"select min(seen) from {late} where {held}") >= _at(13, 29)
    assert _one(base, f"select max(seen) from {late} where {held}") < _at(13, 36)
    assert truth[0].events == truth[1].events > 500


def test_a_sale_does_not_change_the_usual_visits(calm):
    base, (truth,) = _laid(FlashSale(_at(13), _minutes(60), 4))
    base.register("calm_rows", calm.sql("from events").to_arrow_table())
    missing = f"select count(*) from (select {COLUMNS} from calm_rows except all select {COLUMNS} from events)"
    assert _one(base, missing) == 0
    assert truth.nature is Nature.SURGE


def test_a_promotion_day_is_busy_all_day(calm):
    base, _ = _laid(FlashSale(_at(0), timedelta(days=1), 3.7, ramp_minutes=120))
    count = "select count(*) from events where event_time >= ?"
    assert _one(base, count, _at(4)) / _one(calm, count, _at(4)) == pytest.approx(3.7, rel=0.05)


# what does not fit


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        (Crawler(START, _minutes(5), 1, 0), r"gap of 0\.05 to 86400 s for a crawler, got 0"),
        (Crawler(START, timedelta(days=1), 1_000_000, 1), r"at most 5,000,000 events for a crawler"),
        (Crawler(START, _minutes(5), 1, 1, timing="random"), r"timing of uniform, log_normal"),
        (Crowd(START, _minutes(5), 10, 0), r"share of 0 to 10 for a crowd"),
        (Rotation(START, _minutes(5), 2), r"share of 0 to 1 for a rotation"),
        (Hoarding(START, _minutes(5), 0, 1), r"at least 1 bot for a hoarding"),
        (Scalping(START, _minutes(5), 10), r"expected a product for a scalping, got the site"),
        (Carding(START, _minutes(5), 10, 0), r"0 to 6000 purchases a minute"),
        (Outage(START, _minutes(5), "soon"), r"recovery of at_once, ramp, rush, backlog"),
        (DuplicateStorm(START, _minutes(5), 0), r"share above 0, up to 1"),
        (PurchaseCollapse(START, _minutes(5), 1.5), r"loss above 0, up to 1"),
        (PriceError(START, _minutes(5), 1, target=Target("product_id", "1", 1)), r"factor of 0 to 1000, not 1"),
        (Flood(START, _minutes(5), 3, 10, shape="square"), r"shape of steady, ramp, pulse"),
        (Scraper(START, _minutes(5), 0, 1), r"at least 1 bot for a scraper"),
    ],
)
def test_parameters_out_of_range_are_refused(scenario, message):
    with pytest.raises(ConfigurationError, match=message):
        Synthesis(SynthesisSettings(**SMALL, scenarios=(scenario,)))
