"""A plan: the AWS capacity for a load, its monthly costs, and notes on both."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from shopstream.planning.assumptions import Assumptions
from shopstream.planning.cost import CostLine, StreamModes, cost_lines, stream_modes
from shopstream.planning.prices import PriceList
from shopstream.planning.sizing import Capacity, Load, required_capacity, round_up

__all__ = ["Plan", "make_plan"]

_DOUBLED = 2
_MUCH = 3
_VCPU = 1024
_MIB = 1024
_LEAST_LIMIT_GB = 10
_BUDGET = Decimal("1.25")
_ON_DEMAND_BYTES = 4_000_000  # a new on-demand stream takes so much a second


@dataclass(frozen=True, slots=True)
class Plan:
    """What `shopstream plan` prints.

    Attributes:
        capacity: sizes.
        costs: the monthly table.
        modes: the events stream in both capacity modes.
        prices: the list the costs are from.
        given: the assumptions.
    """

    capacity: Capacity
    costs: list[CostLine]
    modes: StreamModes
    prices: PriceList
    given: Assumptions

    @property
    def total(self) -> Decimal:
        """Dollars a month: the sum of the table."""
        return sum((line.monthly for line in self.costs), Decimal(0))

    def sizes(self) -> list[dict[str, object]]:
        """Rows of part, size, unit and reason."""
        return [
            {"part": part, "size": _short(size), "unit": unit, "why": why} for part, size, unit, why in self._rows()
        ]

    def _rows(self) -> Iterator[tuple[str, Decimal | int, str, str]]:
        stream, windows, function = self.capacity.stream, self.capacity.windows, self.capacity.function
        yield "events a month", self.capacity.load.events(self.given["hours"]) / 10**6, "million", "at the mean rate"
        yield "events stream", stream.shards, "shards", f"key {stream.key}, the peak is {_mb(stream.peak_bytes)}"
        yield "events stream, fullest shard", stream.fullest / 10**6, "MB/s", "at the peak"
        yield "signals stream", 1, "shards", f"one shard keeps their order; the peak is {_mb(function.signal_bytes)}"
        if windows.flink:
            why = f"one worker carries {windows.worker_limit:,.0f} events/s; it would hold {windows.state_gib:,.0f} GiB"
            yield "Flink application", windows.kpus, "KPU", why
        else:
            why = f"one active; enough up to {windows.worker_limit:,.0f} events/s at the peak"
            yield "worker", windows.vcpu, "vCPU", why
            yield "worker", windows.memory_gib, "GiB", "state grows with a day's shoppers"
        yield (
            "detection function",
            function.concurrency,
            "at once",
            f"busy {function.busy:.0%} of the time at the peak",
        )
        yield "detection function", function.gb_seconds, "GB-s/month", f"{function.seconds * 1000:,.0f} ms a call"
        yield "DynamoDB", self.capacity.table.writes / 10**6, "million writes/month", "state, incidents, leases"
        yield "lake", self.capacity.lake.gigabytes, "GB", f"after {self.capacity.load.days_kept} days"
        yield "Athena", self.capacity.lake.scanned_gb, "GB/month", "when the lake is full"

    def stage_settings(self) -> dict[str, str | int]:
        """Settings of a stage in infra/stages.toml: name → value."""
        stream, windows = self.capacity.stream, self.capacity.windows
        mode = self.modes.cheaper
        found: dict[str, str | int] = {"events_mode": mode}
        if mode == "provisioned":
            found["events_shards"] = stream.shards
        if windows.flink:
            found["flink_parallelism"] = windows.kpus
        else:
            found["worker_cpu"] = int(windows.vcpu * _VCPU)
            found["worker_memory_mib"] = int(windows.memory_gib * _MIB)
        found["query_limit_gb"] = max(_LEAST_LIMIT_GB, round_up(self.capacity.lake.gigabytes * 2))
        found["monthly_budget_usd"] = round_up(self.total * _BUDGET)
        return found

    def notes(self) -> list[str]:
        """What to know before you deploy this."""
        return [*self._limits(), *self._price_notes()]

    def _limits(self) -> Iterator[str]:
        stream, windows, given = self.capacity.stream, self.capacity.windows, self.given
        if stream.key != "category_id":
            yield (
                f"One category sends {given['hot_category_share']:.0%} of the events: more than a shard takes at this "
                f"peak. Producers must take the partition key {stream.key}; the engine reads all shards anyway."
            )
        elif stream.isolated:
            yield "The largest category fills most of a shard: split its shard until it is alone there."
        if stream.peak_bytes > _ON_DEMAND_BYTES:
            yield "A new on-demand stream takes 4 MB/s; warm it up, or begin provisioned."
        if windows.flink:
            yield (
                f"One worker carries about {windows.worker_limit:,.0f} events/s at the peak and "
                f"{given['worker_memory_limit']} GiB of state: windows go to Flink. Its KPUs are scaled from two "
                "windows to all rules, and not measured; archive workers, which keep the events, are not counted."
            )
        elif self.capacity.load.peak * _DOUBLED > windows.worker_limit:
            yield "The peak is more than half of what one worker carries: plan for Flink before the shop doubles."
        if self.capacity.function.busy > 1:
            yield "The function falls behind at the peak: give it more memory, or let the worker detect."
        if self.capacity.function.signal_bytes > given["shard_bytes"] * given["shard_load"]:
            yield "Signals fill more than their one shard at the peak: let the worker detect (aws.detection)."

        scanned = sum((line.monthly for line in self.costs if line.service == "Athena"), Decimal(0))
        if scanned * _MUCH > self.total:
            yield (
                "Reports that scan the lake are more than a third of the costs: build less often, or keep fewer days; "
                "reports_per_day and report_scans say what is assumed."
            )

    def _price_notes(self) -> Iterator[str]:
        yield (
            f"List prices of {self.prices.region} in US dollars, gathered {self.prices.as_of} ({self.prices.source}), "
            "without taxes, discounts, free tiers and support. AWS changes them: check before you decide."
        )
        used = {line.price_name for line in self.costs}
        unverified = {name: price for name, price in self.prices.unverified().items() if name in used}
        for name, price in unverified.items():
            yield f"Not verified: {name} ({price.page}){': ' + price.remark if price.remark else ''}."
        oldest = min((self.prices.prices[name].read for name in used), default=self.prices.as_of)
        yield f"The oldest price in the table was read {oldest}."


def make_plan(load: Load, prices: PriceList, given: Assumptions) -> Plan:
    """A plan for a load."""
    capacity = required_capacity(load, given)
    return Plan(capacity, cost_lines(capacity, prices, given), stream_modes(capacity, prices, given), prices, given)


def _short(value: Decimal | int) -> Decimal:
    """Rounded to three significant figures."""
    value = Decimal(value)
    if not value:
        return value
    places = min(value.adjusted() - 2, 0) if value.adjusted() < 2 else 0  # noqa: PLR2004  three figures
    return value.quantize(Decimal(1).scaleb(places), ROUND_HALF_UP).normalize() + 0


def _mb(value: Decimal) -> str:
    return f"{value / 10**6:,.2f} MB/s"
