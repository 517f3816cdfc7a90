"""`shopstream plan`: estimates capacity and monthly cost on AWS."""

import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from shopstream.cli.output import Format, FormatOption, emit, emit_object, out
from shopstream.errors import ConfigurationError
from shopstream.planning.assumptions import DEFAULT_REGION, packaged_prices, read_prices, shipped_assumptions
from shopstream.planning.plan import Plan, make_plan
from shopstream.planning.sizing import Load


def plan(
    *,
    events_per_second: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Mean over a month.", show_default="required")
    ] = None,
    peak: Annotated[
        str | None,
        typer.Option(metavar="NUMBER", help="Events per second at the peak.", show_default="4 times the mean"),
    ] = None,
    days_kept: Annotated[int, typer.Option(min=1, help="Days that events stay in the lake.")] = 365,
    region: Annotated[
        str | None, typer.Option(help="AWS region of the prices.", show_default="us-east-1, the packaged list")
    ] = None,
    prices: Annotated[Path | None, typer.Option(help="Your own price list, YAML.", show_default="packaged")] = None,
    assume: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Override an assumption; repeatable.")
    ] = None,
    show_prices: Annotated[bool, typer.Option("--show-prices", help="Print the packaged price list and exit.")] = False,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Estimate what a shop of a given size needs on AWS, and what that costs per month.

    Shards, CPUs, function calls, storage and requests follow from the event rate and from assumptions, each listed with
    its source (measured or estimated). Costs are list prices as of the date of the price list, without free tiers
    and discounts. --format csv prints only the table of monthly costs.

    Examples:
      shopstream plan --events-per-second 20
      shopstream plan --events-per-second 500 --peak 6000 --days-kept 90
      shopstream plan --events-per-second 20 --assume reports_per_day=24
      shopstream plan --events-per-second 20 --format json
      shopstream plan --show-prices > prices.yml
    """
    if show_prices:
        sys.stdout.write(packaged_prices())
        return
    if events_per_second is None:
        raise ConfigurationError("expected --events-per-second, the mean over a month; see `shopstream plan --help`")
    load = Load.of(
        _number("--events-per-second", events_per_second), None if peak is None else _number("--peak", peak), days_kept
    )
    given = shipped_assumptions().with_changes(assume or ())
    made = make_plan(load, read_prices(region or DEFAULT_REGION, prices), given)
    if fmt is Format.JSON:
        emit_object(_document(made), fmt)
    elif fmt is Format.CSV:
        emit(_costs(made), fmt)
    else:
        _tables(made)


def _number(option: str, text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:
        raise ConfigurationError(f"expected a number for {option}, got {text!r}") from None


def _costs(made: Plan) -> list[dict[str, object]]:
    return [
        {
            "service": line.service,
            "what": line.what,
            "quantity": round(line.quantity, 3),
            "unit": line.unit,
            "price": line.price,
            "monthly": line.monthly,
        }
        for line in made.costs
    ]


def _assumptions(made: Plan) -> list[dict[str, object]]:
    return [
        {"name": name, "value": one.value, "unit": one.unit, "from": one.source}
        for name, one in made.given.root.items()
    ]


def _document(made: Plan) -> dict[str, object]:
    load = made.capacity.load
    return {
        "events_per_second": load.events_per_second,
        "peak": load.peak,
        "days_kept": load.days_kept,
        "region": made.prices.region,
        "prices_as_of": made.prices.as_of,
        "sizes": made.sizes(),
        "costs": _costs(made),
        "monthly_total": made.total,
        "events_stream": {
            "provisioned": made.modes.provisioned,
            "on_demand": made.modes.on_demand,
            "cheaper": made.modes.cheaper,
        },
        "stage_settings": made.stage_settings(),
        "notes": made.notes(),
        "assumptions": _assumptions(made),
    }


def _tables(made: Plan) -> None:
    load = made.capacity.load
    title = f"{load.events_per_second:,} events/s, {load.peak:,} at the peak, kept {load.days_kept:,} days"
    emit([{**row, "size": f"{row['size']:,}"} for row in made.sizes()], Format.TABLE, title=title)
    rows = [
        {**row, "quantity": f"{row['quantity']:,.2f}", "price": f"{row['price']:f}", "monthly": f"{row['monthly']:,}"}
        for row in _costs(made)
    ]
    emit(rows, Format.TABLE, title="Costs per month, US dollars")
    out.print(f"[bold]{made.total:,} US dollars per month[/], {made.prices.region}")
    out.print(
        f"The events stream costs {made.modes.provisioned:,} provisioned, {made.modes.on_demand:,} on demand; the "
        f"table uses the cheaper one: {made.modes.cheaper}.",
    )
    settings = (f"{name} = {json.dumps(value)}" for name, value in made.stage_settings().items())
    out.print(f"In infra/stages.toml: {', '.join(settings)}", markup=False)
    for note in made.notes():
        out.print(f"- {note}", markup=False)
    emit(
        [{**row, "value": f"{row['value']:f}"} for row in _assumptions(made)],
        Format.TABLE,
        title="Assumptions; change one with --assume NAME=VALUE",
    )
