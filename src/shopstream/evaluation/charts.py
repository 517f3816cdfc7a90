"""Figures of the report as plotly draws them in the browser: data and layout, no Python object left in them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from shopstream.evaluation.results import AttackResult, Picture
from shopstream.evaluation.runner import Done
from shopstream.evaluation.summary import RowSummary, Summary
from shopstream.evaluation.targets import TimeUnit

__all__ = ["Figure", "delay_figure", "false_figure", "picture_figure", "recall_figure"]

Figure = Mapping[str, Any]
"""`data` and `layout`, JSON-ready."""

_GOOD: Final = "#1a7f5a"
_BAD: Final = "#c2410c"
_PLAIN: Final = "#475569"
_EXPECTED: Final = "#64748b"
_ROW_PX = 30


def _figure(data: Sequence[Mapping[str, Any]], **layout: Any) -> Figure:  # noqa: ANN401  plotly's own keys
    usual = {
        "margin": {"l": 60, "r": 20, "t": 30, "b": 40},
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
    }
    return {"data": list(data), "layout": usual | layout}


def _colour(row: RowSummary) -> str:
    return {True: _GOOD, False: _BAD, None: _PLAIN}[row.reached]


def recall_figure(summary: Summary) -> Figure:
    """Recall with its interval, and the target, a line a scenario."""
    rows = list(reversed(summary.rows))
    names = [row.title for row in rows]
    found = {
        "type": "scatter",
        "mode": "markers",
        "name": "recall, 95 % interval",
        "x": [row.recall for row in rows],
        "y": names,
        "marker": {"size": 11, "color": [_colour(row) for row in rows]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [row.high - row.recall for row in rows],
            "arrayminus": [row.recall - row.low for row in rows],
            "color": _EXPECTED,
            "thickness": 1.5,
        },
        "hovertext": [f"{row.found} of {row.trials} {row.unit}" for row in rows],
    }
    target = {
        "type": "scatter",
        "mode": "markers",
        "name": "target",
        "x": [row.target_recall for row in rows],
        "y": names,
        "marker": {"symbol": "line-ns-open", "size": 18, "color": _PLAIN, "line": {"width": 2}},
        "hoverinfo": "x+name",
    }
    return _figure(
        [found, target],
        height=110 + _ROW_PX * len(rows),
        xaxis={"range": [-0.02, 1.03], "title": {"text": "share found"}, "zeroline": False},
        yaxis={"automargin": True},
        legend={"orientation": "h", "y": 1, "yanchor": "bottom"},
    )


def delay_figure(done: Done, summary: Summary) -> Figure:
    """Seconds to detect, a point an attack (or actor), on a logarithmic axis."""
    data: list[Mapping[str, Any]] = []
    for row in reversed(summary.rows):
        seconds = [max(value, 1.0) for run in done.attacks[row.scenario] for value in _seconds(run)]
        data.append(
            {
                "type": "box",
                "name": row.title,
                "x": seconds,
                "boxpoints": "all",
                "jitter": 0.4,
                "pointpos": 0,
                "marker": {"size": 4, "color": _colour(row)},
                "line": {"width": 1},
                "showlegend": False,
            }
        )
    timed = [row for row in summary.rows if row.time_unit is TimeUnit.SECONDS and row.target_time]
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "target for the median",
            "x": [row.target_time for row in timed],
            "y": [row.title for row in timed],
            "marker": {"symbol": "line-ns-open", "size": 18, "color": _PLAIN, "line": {"width": 2}},
        }
    )
    return _figure(
        data,
        height=110 + _ROW_PX * len(summary.rows),
        xaxis={"type": "log", "title": {"text": "seconds from the first event to the detection"}},
        yaxis={"automargin": True},
        legend={"orientation": "h", "y": 1, "yanchor": "bottom"},
    )


def _seconds(run: AttackResult) -> list[float]:
    if run.actors:
        return [actor[0] for actor in run.actors if actor is not None]
    return [] if run.found_after_s is None else [run.found_after_s]


def false_figure(summary: Summary) -> Figure:
    """False incidents on genuine days, by rule."""
    rules = list(summary.genuine.per_rule.items())[::-1]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [count for _, count in rules],
        "y": [rule for rule, _ in rules],
        "marker": {"color": _BAD},
    }
    return _figure(
        [bars],
        height=90 + _ROW_PX * len(rules),
        xaxis={"title": {"text": "false incidents on genuine days"}},
        yaxis={"automargin": True},
    )


def picture_figure(picture: Picture) -> Figure:
    """Events of a key over time, those of the attack, what was expected, and when something was said."""
    times = [_moment(time_ms) for time_ms in picture.times_ms]
    per_second = 1000 / picture.bin_ms
    lines: list[Mapping[str, Any]] = [_line("events", times, [n * per_second for n in picture.events], _PLAIN)]
    if any(picture.hostile):
        hostile = _line("of the attack", times, [n * per_second for n in picture.hostile], _BAD)
        lines.append({**hostile, "fill": "tozeroy"})
    if picture.expected:
        expected = _line("baseline", times, [n * per_second for n in picture.expected], _EXPECTED)
        lines.append({**expected, "line": {"color": _EXPECTED, "dash": "dot", "width": 2}})
    shapes: list[Mapping[str, Any]] = []
    if picture.attack is not None:
        edges = {"x0": _moment(picture.attack[0]), "x1": _moment(picture.attack[1]), "y0": 0, "y1": 1, "yref": "paper"}
        shapes.append({"type": "rect", **edges, "fillcolor": _BAD, "opacity": 0.08, "line": {"width": 0}})
    for from_ms, until_ms in picture.windows:
        edges = {"x0": _moment(from_ms), "x1": _moment(until_ms), "y0": 0, "y1": 0.03, "yref": "paper"}
        shapes.append({"type": "rect", **edges, "fillcolor": _GOOD, "opacity": 0.5, "line": {"width": 0}})
    notes = []
    for place, (time_ms, words) in enumerate(picture.marks):
        at = _moment(time_ms)
        line = {"color": _GOOD, "width": 1.5, "dash": "dash"}
        shapes.append({"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "line": line})
        height = 1 - 0.08 * (place % 6)
        notes.append({"x": at, "y": height, "yref": "paper", "text": words, "showarrow": False, "xanchor": "left"})
    return _figure(
        lines,
        height=320,
        xaxis={"title": {"text": f"UTC, bins of {picture.bin_ms // 1000} s"}},
        yaxis={"title": {"text": "events per second"}, "rangemode": "tozero"},
        shapes=shapes,
        annotations=notes,
        legend={"orientation": "h", "y": 1, "yanchor": "bottom"},
    )


def _line(name: str, times: Sequence[str], values: Sequence[float], colour: str) -> Mapping[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": times,
        "y": [round(value, 3) for value in values],
        "line": {"color": colour, "width": 1.5, "shape": "hv"},
    }


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
