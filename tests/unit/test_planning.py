"""What a shop needs on AWS and what it costs: figures somebody can check by hand, and files that are wrong."""

import ast
import json
import re
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from shopstream.cli import app
from shopstream.errors import ConfigurationError
from shopstream.planning.assumptions import packaged_prices, read_prices, shipped_assumptions
from shopstream.planning.plan import make_plan
from shopstream.planning.sizing import Load

ROOT = Path(__file__).resolve().parents[2]


def plan_of(events_per_second, peak=None, *, days=365, changes=()):
    load = Load.of(Decimal(events_per_second), None if peak is None else Decimal(peak), days)
    return make_plan(load, read_prices(), shipped_assumptions().with_changes(changes))


def line_of(plan, what):
    return next(line for line in plan.costs if line.what == what)


# sizes


def test_a_small_shop_needs_one_shard_and_one_small_worker():
    needed = plan_of("20").capacity
    assert (needed.stream.shards, needed.stream.key) == (1, "category_id")
    assert (needed.windows.flink, needed.windows.vcpu, needed.windows.memory_gib) == (False, 1, 4)


def test_the_default_peak_is_four_times_the_mean():
    assert Load.of(Decimal(20), None, 1).peak == 80


def test_a_category_that_fills_a_shard_asks_for_another_partition_key():
    load = ("10000", "40000")  # 27 % of 40,000 events of 110 B are 1.19 MB/s
    assert plan_of(*load).capacity.stream.key == "user_session"
    assert "user_session" in " ".join(plan_of(*load).notes())
    assert plan_of(*load, changes=["hot_category_share=0.1"]).capacity.stream.key == "category_id"


def test_producers_without_batching_send_more_bytes():
    gathered = plan_of("20").capacity.stream
    single = plan_of("20", changes=["producer_seconds=0.01"]).capacity.stream
    assert (gathered.records, single.records) == (1, 20)
    assert single.bytes == 20 * (2900 + 110)


def test_producers_that_send_too_often_are_refused():
    with pytest.raises(ConfigurationError, match="let them gather longer"):
        plan_of("20", changes=["producer_seconds=0.001"])
    with pytest.raises(ConfigurationError, match="records without events fill it"):
        plan_of("20", changes=["producer_seconds=0.01", "record_bytes=9000"])


def test_flink_is_needed_from_the_rate_that_one_worker_carries():
    limit = plan_of("1").capacity.windows.worker_limit
    assert not plan_of("100", str(limit)).capacity.windows.flink
    beyond = plan_of("100", str(limit + 1))
    assert beyond.capacity.windows.flink
    assert line_of(beyond, "windows, and one KPU more").quantity == (beyond.capacity.windows.kpus + 1) * 730
    assert not any(line.service == "ECS Fargate" for line in beyond.costs)


def test_flink_is_needed_when_a_day_s_shoppers_outgrow_the_memory():
    plan = plan_of("1000", "1000")
    assert plan.capacity.windows.flink
    assert plan.capacity.windows.state_gib > 16
    assert any("GiB of state" in note for note in plan.notes())


def test_the_signals_stream_has_one_shard_at_any_size():
    shards = {line_of(plan_of(rate), "signals: one shard").quantity for rate in ("1", "20000")}
    assert shards == {Decimal(730)}


def test_a_function_that_falls_behind_is_reported():
    plan = plan_of("4000", changes=["signal_us=9000"])
    assert plan.capacity.function.busy > 1
    assert any("falls behind" in note for note in plan.notes())


def test_signals_that_outgrow_their_shard_are_reported():
    assert any("one shard at the peak" in note for note in plan_of("10000", changes=["signal_bytes=2000"]).notes())


def test_a_category_that_needs_its_own_shard_is_reported():
    plan = plan_of("7000", "26000")
    assert plan.capacity.stream.isolated
    assert any("until it is alone" in note for note in plan.notes())


# costs


def test_the_cost_of_the_lake_follows_its_bytes():
    plan = plan_of("20", days=365)
    gigabytes = Decimal(20) * 86_400 * 365 * (58 + 3) / 10**9
    line = line_of(plan, "lake and marts, when full")
    assert line.quantity == pytest.approx(gigabytes)
    assert line.monthly == Decimal("0.88")


def test_the_stream_is_paid_in_the_cheaper_mode():
    plan = plan_of("20")
    assert plan.modes.cheaper == "provisioned"
    assert plan.modes.provisioned == line_of(plan, "events: shards").monthly + line_of(plan, "events: puts").monthly
    spiky = plan_of("20", "100000")
    assert spiky.modes.cheaper == "on-demand"
    assert line_of(spiky, "events: stream").monthly == Decimal("29.20")


def test_records_kept_longer_cost_more():
    assert plan_of("20", changes=["stream_hours=72"]).modes.provisioned > plan_of("20").modes.provisioned
    assert line_of(plan_of("20", changes=["stream_hours=72"]), "events: kept longer than 24 h").monthly > 0


def test_a_standby_worker_costs_as_much_as_the_active_one():
    one, two = plan_of("20"), plan_of("20", changes=["workers=2"])
    for what in ("worker: processors", "worker: memory"):
        assert line_of(two, what).quantity == 2 * line_of(one, what).quantity


def test_endpoints_can_replace_the_nat_gateway():
    plan = plan_of("20", changes=["nat_gateways=0", "endpoints=8"])
    assert line_of(plan, "interface endpoints").monthly == Decimal("116.80")
    assert not any("NAT" in line.what for line in plan.costs)


def test_quicksight_costs_nothing_until_it_has_users():
    assert not any(line.service == "QuickSight" for line in plan_of("20").costs)
    users = plan_of("20", changes=["quicksight_authors=1", "quicksight_readers=5"])
    assert sum(line.monthly for line in users.costs if line.service == "QuickSight") == Decimal("39.00")


def test_a_factor_multiplies_every_price():
    assert (
        line_of(plan_of("20", changes=["price_factor=2"]), "alarms").monthly
        == 2 * line_of(plan_of("20"), "alarms").monthly
    )


def test_unverified_prices_are_reported_only_where_they_count():
    assert any("firehose_iceberg" in note for note in plan_of("20").notes())
    assert not any("quicksight_author" in note for note in plan_of("20").notes())
    assert any("quicksight_author" in note for note in plan_of("20", changes=["quicksight_authors=1"]).notes())


def test_a_plan_has_the_settings_of_the_stage():
    assert plan_of("20").stage_settings() == {
        "events_mode": "provisioned",
        "events_shards": 1,
        "worker_cpu": 1024,
        "worker_memory_mib": 4096,
        "query_limit_gb": 77,
        "monthly_budget_usd": 245,
    }
    large = plan_of("10000", "40000").stage_settings()
    assert (large["events_shards"], large["flink_parallelism"]) == (7, 20)
    assert "worker_cpu" not in large


def test_what_a_plan_sets_are_settings_of_a_stage():
    tree = ast.parse((ROOT / "infra" / "shopstream_infra" / "config.py").read_text(encoding="utf-8"))
    (config,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "StageConfig")
    known = {node.target.id for node in config.body if isinstance(node, ast.AnnAssign)}
    for plan in (plan_of("20"), plan_of("20", "100000")):
        assert set(plan.stage_settings()) <= known


# what is given


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("reports=2", "known name"),
        ("report_per_day=2", "did you mean reports_per_day"),
        ("reports_per_day", "give a value: reports_per_day="),
        ("reports_per_day=many", "above 0"),
        ("reports_per_day=0", "above 0"),
        ("nat_gateways=-1", "at least 0"),
        ("shard_load=1.5", "from above 0 to 1"),
        ("hours=NaN", "above 0"),
        ("hours=Infinity", "above 0"),
    ],
)
def test_a_wrong_assumption_is_refused(change, message):
    with pytest.raises(ConfigurationError, match=message):
        shipped_assumptions().with_changes([change])


def test_a_changed_assumption_names_its_source():
    changed = shipped_assumptions().with_changes(["zones=3"]).root
    assert (changed["zones"].value, changed["zones"].source) == (3, "--assume")


def test_every_assumption_has_unit_and_source():
    assert [name for name, one in shipped_assumptions().root.items() if not (one.unit and one.source)] == []


@pytest.mark.parametrize(("events", "peak"), [("0", None), ("-1", None), ("NaN", None), ("20", "19"), ("20", "NaN")])
def test_an_invalid_load_is_refused(events, peak):
    with pytest.raises(ConfigurationError, match="expected"):
        Load.of(Decimal(events), None if peak is None else Decimal(peak), 1)


# price lists


def test_the_packaged_list_has_a_price_for_everything_with_its_date_and_page():
    prices = read_prices()
    source = (ROOT / "src" / "shopstream" / "planning" / "plan.py").read_text(encoding="utf-8")
    used = set(re.findall(r'_Use\(\s*"[^"]+", "[^"]+", "(\w+)"', source))
    assert set(prices.prices) == used
    assert all(price.page and price.read <= prices.as_of for price in prices.prices.values())
    assert all(price.remark for price in prices.unverified().values())


def test_own_prices_replace_packaged_ones(tmp_path):
    own = tmp_path / "own.yml"
    own.write_text(
        "as_of: 2027-01-31\ncurrency: USD\nregions:\n  us-east-1:\n    athena_scanned:\n"
        '      price: "4.00"\n      unit: TB\n      page: our contract\n      read: 2027-01-31\n'
    )
    prices = read_prices("us-east-1", own)
    assert prices.prices["athena_scanned"].price == 4
    assert prices.prices["s3_storage"] == read_prices().prices["s3_storage"]
    assert (prices.as_of.isoformat(), prices.source) == ("2027-01-31", str(own))


def test_a_list_for_another_region_needs_every_price(tmp_path):
    document = yaml.safe_load(packaged_prices())
    document["regions"] = {"eu-central-1": document["regions"]["us-east-1"]}
    own = tmp_path / "own.yml"
    own.write_text(yaml.safe_dump(document))
    assert read_prices("eu-central-1", own).region == "eu-central-1"
    del document["regions"]["eu-central-1"]["nat_hour"]
    own.write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigurationError, match="has none for nat_hour; add them"):
        read_prices("eu-central-1", own)


def test_a_region_without_prices_is_reported_with_a_remedy():
    with pytest.raises(ConfigurationError, match=r"us-east-1\), got 'eu-north-1'; give its prices with --prices"):
        read_prices("eu-north-1")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("currency: USD", "currency: EUR", r"own\.yml:2: price list own: currency: .*write USD"),
        ('price: "0.01"', "price: 0.01", r"own\.yml:5: .*price: expected a number in quotes"),
        ('price: "0.01"', 'price: "-1"', r"own\.yml:5: .*at least 0"),
        ('price: "0.01"', 'price: "cheap"', r"own\.yml:5: .*decimal number, got 'cheap'"),
        (
            "unit: GB",
            "unit: TB",
            r"own\.yml:6: price list own: expected the price of one GB, got one of 'TB'; convert it",
        ),
        ("nat_data", "nat_date", r"own\.yml:4: price list own: unknown word 'nat_date'; did you mean 'nat_data'"),
        ("page:", "title:", r"own\.yml:7: .*unknown word 'title'"),
        ("read: 2027-01-31", "read: soon", r"own\.yml:8: .*read: .*write the day"),
        ("as_of: 2027-01-31\n", "", r"own\.yml:1: price list own: as_of: missing; write the day"),
        ("nat_data:", "nat_data: &one", r"own\.yml:\d+: .*"),
        (
            "currency: USD",
            "currency: USD\ncurrency: USD",
            r"own\.yml:3: price list own: 'currency' stands here a second time",
        ),
    ],
)
def test_an_invalid_price_list_is_reported_with_file_line_and_remedy(tmp_path, old, new, message):
    text = (
        "as_of: 2027-01-31\ncurrency: USD\nregions: {us-east-1: {\n  nat_data: {\n"
        '    price: "0.01",\n    unit: GB,\n    page: our contract,\n    read: 2027-01-31\n  }}}\n'
    )
    if "&" in new:
        text = text.replace("page: our contract", "page: *one")
    own = tmp_path / "own.yml"
    own.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigurationError, match=message):
        read_prices("us-east-1", own)


def test_a_missing_price_list_is_reported_with_how_to_create_one(tmp_path):
    with pytest.raises(ConfigurationError, match="--show-prices"):
        read_prices("us-east-1", tmp_path / "none.yml")


# the command


def test_the_command_prints_sizes_costs_notes_and_assumptions():
    result = CliRunner().invoke(app, ["plan", "--events-per-second", "20"], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    for shown in ("20 events/s, 80 at the peak", "US dollars per month", "gathered 2026-11-22", "hot_category_share"):
        assert shown in result.stdout


def test_the_json_document_adds_up():
    result = CliRunner().invoke(app, ["plan", "--events-per-second", "500", "--format", "json"])
    document = json.loads(result.stdout)
    assert sum(Decimal(line["monthly"]) for line in document["costs"]) == Decimal(document["monthly_total"])
    assert document["prices_as_of"] == "2026-11-22"
    assert {one["name"] for one in document["assumptions"]} == set(shipped_assumptions().root)


def test_the_packaged_list_is_printed_as_it_is():
    result = CliRunner().invoke(app, ["plan", "--show-prices"])
    assert result.stdout == packaged_prices()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --events-per-second"),
        (["--events-per-second", "many"], "expected a number for --events-per-second, got 'many'"),
        (["--events-per-second", "5", "--peak", "much"], "expected a number for --peak"),
    ],
)
def test_a_plan_without_a_rate_is_refused(arguments, message):
    result = CliRunner().invoke(app, ["plan", *arguments])
    assert isinstance(result.exception, ConfigurationError)
    assert message in str(result.exception)
