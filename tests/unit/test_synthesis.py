"""What a synthetic file holds, and what its ground truth says."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shopstream.errors import ConfigurationError
from shopstream.events.columns import REES46_COLUMNS
from shopstream.events.schema import WIRE_SCHEMA
from shopstream.simulation.attacks import Flood, Scraper
from shopstream.simulation.faults_and_surges import FlashSale, Outage
from shopstream.simulation.synthesis import OutOfOrder, Synthesis, SynthesisSettings, truth_path

START = datetime(2019, 11, 5, tzinfo=UTC)
SMALL = {"events": 30_000, "products": 5_000, "seed": 3}


def _at(hour, minute=0):
    return START + timedelta(hours=hour, minutes=minute)


def _minutes(count):
    return timedelta(minutes=count)


def _rows(**options):
    synthesis = Synthesis(SynthesisSettings(**(SMALL | options)))
    table = pa.concat_tables(synthesis.batches(), promote_options="default").unify_dictionaries()
    base = duckdb.connect()
    base.execute("set timezone = 'UTC'")
    base.register("rows", table)
    base.execute("create table events as select *, row_number() over () as place from rows")
    return base, synthesis


def _one(base, query, *values):
    return base.execute(query, values).fetchone()[0]


def test_a_file_has_the_form_of_the_real_data_set(tmp_path):
    path = tmp_path / "day.csv"
    summary = Synthesis(SynthesisSettings(**SMALL)).write(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session"
    assert len(lines) == summary.events + 1
    times = [line[:23] for line in lines[1:]]
    assert times == sorted(times)
    assert all(line[19:24] == " UTC," and line.count(",") == 8 for line in lines[1:])
    prices = [line.split(",")[6] for line in lines[1:]]
    assert all(Decimal(price).as_tuple().exponent == -2 for price in prices)
    assert summary.first_time == datetime.fromisoformat(times[0].replace(" UTC", "+00:00"))
    assert summary.last_time == datetime.fromisoformat(times[-1].replace(" UTC", "+00:00"))
    assert abs(summary.events - 30_000) < 1_500


@pytest.mark.parametrize("tracker", [False, True])
def test_csv_gz_parquet_and_tables_hold_the_same_events(tmp_path, tracker):
    settings = SynthesisSettings(**SMALL, tracker=tracker, out_of_order=OutOfOrder(0.1, 60))
    for name in ("a.csv", "a.csv.gz", "a.parquet"):
        Synthesis(settings).write(tmp_path / name)
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()) == (tmp_path / "a.csv").read_bytes()
    table = pa.concat_tables(Synthesis(settings).batches(), promote_options="default").unify_dictionaries()
    base = duckdb.connect()
    base.execute("set timezone = 'UTC'")
    base.register("wanted", table)
    columns = table.column_names if tracker else table.column_names[:9]
    texts = ", ".join(f"{name}::varchar" for name in columns[1:] if name != "price")
    query = f"select epoch(event_time), price::decimal(18, 4), {texts}"
    wanted = base.sql(f"{query} from wanted").fetchall()
    csv = base.sql(
        f"{query} from (select * replace (replace(event_time, ' UTC', '+00')::timestamptz as event_time) "
        f"from read_csv('{tmp_path / 'a.csv'}', all_varchar = true))"
    )
    assert csv.fetchall() == wanted
    parquet = pq.read_table(tmp_path / "a.parquet")
    assert parquet.column_names == list(columns)
    base.register("parquet", parquet)
    assert base.sql(f"{query} from parquet").fetchall() == wanted


def test_tables_have_the_columns_of_the_wire_schema():
    batch = next(Synthesis(SynthesisSettings(**SMALL)).batches(100))
    assert batch.column_names == WIRE_SCHEMA.names
    for field in batch.schema:
        plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        assert plain == WIRE_SCHEMA.field(field.name).type
    assert pa.types.is_dictionary(batch.schema.field("user_session").type)
    assert batch.select(list(REES46_COLUMNS)).cast(pa.schema([WIRE_SCHEMA.field(c) for c in REES46_COLUMNS])).num_rows


def test_events_of_the_tracker_have_ids_of_their_own_except_exact_duplicates():
    base, _ = _rows(tracker=True)
    repeated = "select count(*) from (select event_id from events group by event_id having count(*) > 1)"
    alike = (
        "select count(*) from (select event_id from events group by all having count(distinct (event_time, ip)) > 1)"
    )
    assert 0 < _one(base, repeated) < 200
    assert _one(base, alike) == 0
    assert _one(base, "select count(distinct ip) / count(distinct user_id) from events") > 0.95
    assert _one(base, "select max(n) from (select count(distinct ip) as n from events group by user_id)") == 1
    assert _one(base, "select count(*) from events where url not like '%' || product_id") == 0


def test_the_same_settings_give_the_same_bytes_and_another_seed_gives_others(tmp_path):
    texts = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        Synthesis(SynthesisSettings(**SMALL | {"seed": seed})).write(tmp_path / f"{name}.csv")
        texts[name] = (tmp_path / f"{name}.csv").read_bytes()
    assert texts["a"] == texts["b"]
    assert texts["a"] != texts["c"]


def test_the_truth_names_exactly_the_events_of_each_attack(tmp_path):
    scenarios = (Flood(_at(14), _minutes(5), 10, 300), Scraper(_at(9), _minutes(90), 4, 2.5))
    path = tmp_path / "attack.csv"
    summary = Synthesis(SynthesisSettings(**SMALL, scenarios=scenarios)).write(path)
    truth = json.loads(truth_path(path).read_text())
    base = duckdb.connect()
    base.execute(
        "create table events as select * replace (replace(event_time, ' UTC', '')::timestamp as event_time) "
        "from read_csv(?, all_varchar = true)",
        [str(path)],
    )
    assert truth["events"] == summary.events == _one(base, "select count(*) from events")
    found = 0
    for injection in truth["injections"]:
        mine = "from events where list_contains(?::varchar[], user_id)"
        count = _one(base, f"select count(*) {mine}", injection["actors"])
        assert count == injection["events"] > 0
        begin, until = (datetime.fromisoformat(injection[edge]).replace(tzinfo=None) for edge in ("from", "until"))
        assert _one(base, f"select min(event_time) {mine}", injection["actors"]) >= begin
        assert _one(base, f"select max(event_time) {mine}", injection["actors"]) < until
        assert _one(base, f"select count(distinct event_type) {mine}", injection["actors"]) == 1
        found += count
    assert truth["genuine_events"] == truth["events"] - found
    flood, scraper = truth["injections"]
    assert (flood["kind"], flood["hostile"], len(flood["actors"])) == ("flood", True, 300)
    # the flood makes ten times the traffic of about 30,000 · 6.4 % an hour
    assert 9 * 30_000 * 0.064 / 12 * 0.8 < flood["events"] < 9 * 30_000 * 0.064 / 12 * 1.2
    assert scraper["events"] == pytest.approx(4 * 90 * 60 / 2.5, abs=8)


def test_a_scraper_keeps_its_pace_and_walks_the_catalogue():
    base, synthesis = _rows(scenarios=(Scraper(_at(9), _minutes(60), 3, 10),))
    (truth,) = synthesis.ground_truth()
    base.execute(
        "create table bot as select *, epoch(event_time - lag(event_time) over (order by place)) as gap from events "
        "where user_id = ?",
        [truth.actors[0]],
    )
    assert _one(base, "select count(*) - count(distinct product_id) from bot") == 0
    assert _one(base, "select min(gap) from bot") >= 7
    assert _one(base, "select max(gap) from bot") <= 13
    assert _one(base, "select count(distinct user_session) from bot") == 1


def test_genuine_events_are_the_same_with_and_without_attacks():
    calm, _ = _rows()
    attacked, synthesis = _rows(scenarios=(Flood(_at(1), _minutes(200), 5, 50), Scraper(_at(3), _minutes(60), 2, 1)))
    actors = [actor for truth in synthesis.ground_truth() for actor in truth.actors]
    columns = ", ".join(REES46_COLUMNS)
    wanted = calm.execute(f"select {columns} from events order by place").fetchall()
    kept = attacked.execute(
        f"select {columns} from events where not list_contains(?::bigint[], user_id) order by place", [actors]
    ).fetchall()
    assert sorted(kept, key=str) == sorted(wanted, key=str)
    assert len(actors) == len(set(actors)) == 52


def test_nothing_is_recorded_during_an_outage_and_shopping_continues_after_it():
    calm, _ = _rows()
    base, synthesis = _rows(scenarios=(Outage(_at(10), _minutes(30)),))
    inside = "select count(*) from events where event_time >= ? and event_time < ?"
    assert _one(base, inside, _at(10), _at(10, 30)) == 0
    (truth,) = synthesis.ground_truth()
    assert (truth.kind, truth.hostile) == ("outage", False)
    assert truth.events == _one(calm, inside, _at(10), _at(10, 30)) > 500
    assert _one(base, inside, _at(10, 30), _at(11)) == _one(calm, inside, _at(10, 30), _at(11))


def test_an_outage_silences_attacks_too():
    scenarios = (Flood(_at(14), _minutes(10), 10, 100), Outage(_at(14, 5), _minutes(5)))
    base, synthesis = _rows(scenarios=scenarios)
    flood, outage = synthesis.ground_truth()
    mine = "select count(*) from events where list_contains(?::bigint[], user_id)"
    assert _one(base, mine, list(flood.actors)) == flood.events > 0
    assert (
        _one(base, "select count(*) from events where event_time >= ? and event_time < ?", _at(14, 5), _at(14, 10)) == 0
    )
    assert outage.events > flood.events / 2


def test_a_flash_sale_is_ten_times_the_traffic_with_the_same_composition():
    settings = {"events": 300_000, "products": 20_000}
    calm, _ = _rows(**settings)
    base, synthesis = _rows(**settings, scenarios=(FlashSale(_at(13), _minutes(60), 10),))
    (truth,) = synthesis.ground_truth()
    assert (truth.kind, truth.hostile, truth.actors) == ("flash_sale", False, ())
    during = f"event_time >= '{_at(13, 20)}' and event_time < '{_at(14)}'"
    count = f"select count(*) from events where {during}"
    assert _one(base, count) / _one(calm, count) == pytest.approx(9.5, abs=1.2)
    for condition, tolerance in (
        ("event_type = 'view'", 0.012),
        ("event_type = 'cart'", 0.008),
        ("event_type = 'purchase'", 0.006),
        ("category_code is null", 0.02),
        ("brand is null", 0.02),
        ("coalesce(category_code = 'electronics.smartphone', false)", 0.03),
    ):
        share = f"select avg(({condition})::int) from events where {during}"
        assert _one(base, share) == pytest.approx(_one(calm, share), abs=tolerance), condition
    people = f"select count(distinct user_id) / count(distinct user_session) from events where {during}"
    assert _one(base, people) == pytest.approx(_one(calm, people), abs=0.05)


def test_genuine_shoppers_of_a_flash_sale_are_not_busier_than_others():
    base, _ = _rows(events=300_000, scenarios=(FlashSale(_at(13), _minutes(60), 10),))
    busiest = (
        "select max(n) from (select count(*) over (partition by user_id order by epoch(event_time) "
        "range between 59 preceding and current row) as n from events)"
    )
    assert _one(base, busiest) <= 17


def test_a_scenario_ends_with_the_period():
    _, synthesis = _rows(scenarios=(Scraper(_at(23), timedelta(days=3), 1, 60),))
    (truth,) = synthesis.ground_truth()
    assert truth.until_time == START + timedelta(days=1)
    assert truth.events == 60


def test_half_of_the_additional_visits_of_a_sale_may_start_in_one_category():
    base, _ = _rows(events=100_000, scenarios=(FlashSale(_at(13), _minutes(60), 10, "electronics.video.tv"),))
    share = (
        "select avg(coalesce(category_code = 'electronics.video.tv', false)::int) from events "
        "where event_time >= ? and event_time < ?"
    )
    assert _one(base, share, _at(13, 20), _at(14)) > 0.3
    assert _one(base, share, _at(9), _at(12)) < 0.1


def test_out_of_order_arrival_loses_no_events():
    calm, _ = _rows()
    base, _ = _rows(out_of_order=OutOfOrder(0.05, 30))
    columns = ", ".join(REES46_COLUMNS)
    assert sorted(base.execute(f"select {columns} from events").fetchall(), key=str) == sorted(
        calm.execute(f"select {columns} from events").fetchall(), key=str
    )
    behind = "(select event_time, max(event_time) over (order by place) as seen from events)"
    late = _one(base, f"select avg((event_time < seen)::int) from {behind}")
    assert 0.01 < late < 0.05  # an event is overtaken only if another one came meanwhile
    assert _one(base, f"select max(epoch(seen - event_time)) from {behind}") <= 30


def test_sessions_are_under_way_when_the_period_begins():
    base, _ = _rows(events=400_000)
    first = _one(base, "select count(*) from events where event_time < ?", _at(0, 10))
    later = _one(base, "select count(*) from events where event_time >= ? and event_time < ?", _at(0, 10), _at(0, 20))
    assert first == pytest.approx(later, rel=0.35)


def test_users_return_with_several_sessions_and_on_other_days():
    base, _ = _rows(days=3, events=150_000)
    base.execute("create table users as select user_id, count(distinct user_session) as s, "
                 "count(distinct event_time::date) as d from events group by user_id")  # fmt: skip
    assert _one(base, "select avg((s > 1)::int) from users") > 0.15
    assert _one(base, "select avg((d > 1)::int) from users") > 0.05
    most = _one(base, "select sum(e) filter (r <= .2 * n) / sum(e) from (select count(*) as e, row_number() over "
                "(order by count(*) desc) as r, count(*) over () as n from events group by user_id)")  # fmt: skip
    assert 0.5 < most < 0.85


def test_a_flood_of_many_events_comes_minute_by_minute():
    scenarios = (Flood(_at(13), _minutes(30), 100, 5_000),)
    synthesis = Synthesis(SynthesisSettings(**SMALL, scenarios=scenarios))
    sizes = [batch.num_rows for batch in synthesis.batches(1_000_000)]
    assert max(sizes) < 6_000
    assert synthesis.ground_truth()[0].events > 80_000


@pytest.mark.parametrize("days", [1, 2])
@pytest.mark.parametrize("events", [1, 50])
def test_a_synthesis_of_a_few_events_is_possible(days, events, tmp_path):
    summary = Synthesis(SynthesisSettings(days=days, events=events, products=1_000)).write(tmp_path / "a.csv")
    assert 0 <= summary.events < 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"days": 0}, r"1 to 3660 days, got 0"),
        ({"events": 0}, r"events a day, got 0"),
        ({"products": 10}, r"1,000 to 5,000,000 products, got 10"),
        ({"seed": -1}, r"seed of 0 or more, got -1"),
        ({"users": 0}, r"users, got 0"),
        ({"start": datetime(2019, 11, 5, 1, tzinfo=UTC)}, r"midnight UTC"),
        ({"scenarios": (Flood(_at(30), _minutes(5), 10, 5),)}, r"flood to begin inside the period 2019-11-05 00:00"),
        ({"scenarios": (Flood(_at(3), _minutes(0), 10, 5),)}, r"longer than 0 s"),
        ({"scenarios": (Flood(_at(3), _minutes(5), 1, 5),)}, r"factor above 1"),
        ({"scenarios": (Flood(_at(3), _minutes(5), 2, 0),)}, r"at least 1 id"),
        ({"scenarios": (Flood(_at(3), _minutes(5), 2, 70_000_000),)}, r"at most 67,.* further ids, got 70,000,000"),
        ({"scenarios": (Outage(datetime(2019, 11, 5, 3), _minutes(5)),)}, r"outage with a time zone"),  # noqa: DTZ001
        ({"scenarios": (Scraper(_at(3), _minutes(5), 2, 0),)}, r"gap of 0.01 to 86400 s"),
        ({"scenarios": (FlashSale(_at(3), _minutes(5), 5, "no.such"),)}, r"category code of the shop"),
    ],
)
def test_invalid_settings_are_refused_with_rule_value_and_remedy(options, message):
    with pytest.raises(ConfigurationError, match=message):
        Synthesis(SynthesisSettings(**(SMALL | options)))


def test_out_of_order_settings_are_checked():
    with pytest.raises(ConfigurationError, match=r"share of 0 to 1, got 2"):
        OutOfOrder(2, 30)
    with pytest.raises(ConfigurationError, match=r"delay of 0 to 86400 s, got 0"):
        OutOfOrder(0.1, 0)


def test_a_file_of_unknown_kind_or_place_is_refused_and_nothing_is_left_behind(tmp_path):
    with pytest.raises(ConfigurationError, match=r"ending in .csv, .csv.gz, .parquet, got a.txt"):
        Synthesis(SynthesisSettings(**SMALL)).write(tmp_path / "a.txt")
    with pytest.raises(ConfigurationError, match=r"found none; create it"):
        Synthesis(SynthesisSettings(**SMALL)).write(tmp_path / "none" / "a.csv")
    assert list(tmp_path.iterdir()) == []


def test_a_synthesis_runs_once():
    synthesis = Synthesis(SynthesisSettings(**SMALL))
    list(synthesis.batches())
    with pytest.raises(ConfigurationError, match="one run per Synthesis"):
        next(synthesis.batches())
