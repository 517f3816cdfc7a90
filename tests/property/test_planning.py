"""Plans grow with the shop, carry its peak, and add up."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shopstream.planning.assumptions import read_prices, shipped_assumptions
from shopstream.planning.plan import make_plan
from shopstream.planning.sizing import Load

PRICES = read_prices()
RATES = st.decimals("0.01", 50_000, places=2)
FACTORS = st.decimals(1, 20, places=1)
SHARES = st.decimals("0.01", "0.9", places=2)


def plan_of(events_per_second, factor, share=Decimal("0.27"), days=365):
    assumed = shipped_assumptions().with_changes([f"hot_category_share={share}"])
    return make_plan(Load.of(events_per_second, events_per_second * factor, days), PRICES, assumed)


@given(RATES, RATES, FACTORS, SHARES)
@settings(deadline=None)
def test_more_events_never_need_or_cost_less(one, other, factor, share):
    less, more = (plan_of(rate, factor, share) for rate in sorted((one, other)))
    assert less.capacity.stream.shards <= more.capacity.stream.shards
    assert less.capacity.lake.gigabytes <= more.capacity.lake.gigabytes
    assert less.capacity.function.gb_seconds <= more.capacity.function.gb_seconds
    assert less.capacity.windows.flink <= more.capacity.windows.flink
    if less.capacity.windows.flink == more.capacity.windows.flink:
        assert less.capacity.windows.vcpu <= more.capacity.windows.vcpu
        assert less.capacity.windows.kpus <= more.capacity.windows.kpus
    assert less.total <= more.total


@given(RATES, FACTORS, SHARES)
@settings(deadline=None)
def test_shards_carry_the_peak_within_their_limits(rate, factor, share):
    plan = plan_of(rate, factor, share)
    stream, limit = plan.capacity.stream, plan.given["shard_bytes"] * plan.given["shard_load"]
    assert stream.peak_bytes <= stream.shards * limit
    assert stream.fullest <= limit * Decimal("1.0000001")
    assert stream.fullest * stream.shards >= stream.peak_bytes * Decimal("0.9999999")


@given(RATES, FACTORS, st.integers(1, 4000))
@settings(deadline=None)
def test_the_total_is_the_sum_of_the_lines(rate, factor, days):
    plan = plan_of(rate, factor, days=days)
    assert plan.total == sum(line.monthly for line in plan.costs)
    assert all(line.monthly == pytest.approx(line.quantity * line.price, abs=Decimal("0.00501")) for line in plan.costs)
    assert plan.total.as_tuple().exponent == -2


@given(RATES, st.integers(1, 2000), st.integers(1, 2000))
@settings(deadline=None)
def test_keeping_events_longer_never_costs_less(rate, one, other):
    shorter, longer = (plan_of(rate, Decimal(2), days=days) for days in sorted((one, other)))
    assert shorter.total <= longer.total
