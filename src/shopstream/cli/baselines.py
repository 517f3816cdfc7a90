"""`shopstream baselines`: learns and shows what normal traffic looks like."""

from pathlib import Path
from typing import Annotated

import plotly.graph_objects as go
import typer
from plotly.subplots import make_subplots

from shopstream.adapters.ports import adapters_of
from shopstream.cli.output import Format, FormatOption, emit, err, out, settings_of
from shopstream.cli.rule_tools import EventsOption, FromOption, ToOption, past_events
from shopstream.clock import DAY_MS, SystemClock, from_ms
from shopstream.detection.baseline import Baselines, SeriesProfile, Share
from shopstream.detection.baseline_builder import build_baselines
from shopstream.errors import ConfigurationError

_BLOCKS = "▁▂▃▄▅▆▇█"
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def build(
    ctx: typer.Context,
    *,
    since: FromOption = None,
    until: ToOption = None,
    events: EventsOption = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Learn baselines from past events, so that detectors start without a week of learning.

    Baselines are rates by quarter of an hour and weekday with their measured forecast error, the composition of the
    traffic, rates of the busiest categories and products, and usual prices. Two weeks of history or more are good; one
    day works with a wider error. The next `shopstream run` loads them. Build them again about every week, and after
    changes of the catalogue.

    Examples:
      shopstream baselines build
      shopstream baselines build --from 2019-10-01 --to 2019-10-31
      shopstream baselines build --events 2019-Oct.csv.gz
    """
    settings = settings_of(ctx)
    with past_events(settings, events, since, until) as history:
        history.connection.execute(f"CREATE TEMP VIEW normal AS FROM past_events WHERE {history.limits()}")
        baselines = build_baselines(history.connection, "normal")
    place = adapters_of(settings).save_baselines(baselines)
    _show(baselines, fmt)
    err.print(f"Saved to {place}; the next `shopstream run` loads them.")


def show(
    ctx: typer.Context,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write charts into a self-contained web page.")
    ] = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Show the baselines, their forecast error, and their age.

    Each row is a series or a share, with its day from midnight to midnight (UTC). The error of a series is the mean
    deviation of hours of held-out days from the forecast, without chance; the error of a share is its variation from
    minute to minute.

    Examples:
      shopstream baselines show
      shopstream baselines show --html baselines.html
      shopstream baselines show --format json
    """
    settings = settings_of(ctx)
    baselines = adapters_of(settings).load_baselines()
    if baselines is None:
        raise ConfigurationError(
            f"expected baselines in {settings.baselines_path}, found none; run `shopstream baselines build`"
        )
    _show(baselines, fmt)
    if html is not None:
        html.write_text(_page(baselines), encoding="utf-8")
        err.print(f"Charts written to {html}.")


def _show(baselines: Baselines, fmt: Format) -> None:
    rows: list[dict[str, object]] = [_series_row(name, one, fmt) for name, one in baselines.series.items()]
    rows += [_share_row(name, one, fmt) for name, one in baselines.shares.items()]
    emit(rows, fmt)
    if fmt is not Format.TABLE:
        return
    days = (baselines.until_ms - baselines.from_ms) / DAY_MS
    age = max(0, SystemClock().now_ms() - baselines.until_ms) / DAY_MS
    categories, products = (len(baselines.keys.get(key, {})) for key in ("category_id", "product_id"))
    prices = baselines.products.num_rows if baselines.products is not None else 0
    out.print(
        f"Learned from {from_ms(baselines.from_ms):%Y-%m-%d %H:%M} to {from_ms(baselines.until_ms):%Y-%m-%d %H:%M} UTC "
        f"({days:,.1f} days), {age:,.1f} days old; {baselines.events:,} events, {categories:,} categories and "
        f"{products:,} products with their own rate, {prices:,} with usual prices"
    )
    site = baselines.series.get("site")
    if site is not None:
        factors = ", ".join(f"{day} {factor:.2f}" for day, factor in zip(_WEEKDAYS, site.weekdays, strict=True))
        out.print(f"Weekdays relative to the mean: {factors}")


def _series_row(name: str, profile: SeriesProfile, fmt: Format) -> dict[str, object]:
    hours = [sum(profile.slots[4 * hour : 4 * hour + 4]) / 4 for hour in range(24)]
    row: dict[str, object] = {"name": name, "kind": "events/s", "mean": sum(hours) / 24, "error": profile.error}
    return _with_day(row, hours, fmt)


def _share_row(name: str, share: Share, fmt: Format) -> dict[str, object]:
    row: dict[str, object] = {"name": name, "kind": "share", "mean": sum(share.hours) / 24, "error": share.error}
    return _with_day(row, list(share.hours), fmt)


def _with_day(row: dict[str, object], hours: list[float], fmt: Format) -> dict[str, object]:
    if fmt is Format.TABLE:
        mean, error = row["mean"], row["error"]
        return row | {"mean": f"{mean:.3g}", "error": f"{error:.1%}", "day (UTC)": _spark(hours)}
    if fmt is Format.JSON:
        return row | {"hours": hours}
    return row


def _spark(values: list[float]) -> str:
    """A bar chart in one line."""
    top = max(values, default=0.0) or 1.0
    return "".join(_BLOCKS[min(int(value / top * len(_BLOCKS)), len(_BLOCKS) - 1)] for value in values)


def _page(baselines: Baselines) -> str:
    figure = make_subplots(
        rows=2, cols=1, subplot_titles=("Events per second, with one standard error", "Shares of the events")
    )
    for name, profile in baselines.series.items():
        hours = [place / 4 + 0.125 for place in range(len(profile.slots))]
        wide = {"type": "data", "array": [value * profile.error for value in profile.slots], "thickness": 0.5}
        figure.add_trace(go.Scatter(x=hours, y=list(profile.slots), name=name, error_y=wide), row=1, col=1)
    for name, share in baselines.shares.items():
        hours = [hour + 0.5 for hour in range(24)]
        figure.add_trace(go.Scatter(x=hours, y=list(share.hours), name=name), row=2, col=1)
    figure.update_xaxes(title_text="hour of the day, UTC", dtick=3)
    figure.update_layout(title="Baselines", height=900, template="plotly_white")
    return str(figure.to_html(include_plotlyjs=True))
