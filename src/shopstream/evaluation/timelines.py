"""Pictures of what went wrong: the rate of the key that was hit or accused, around the time in question."""

from collections.abc import Mapping, Sequence

from shopstream.detection.baseline import Baselines
from shopstream.evaluation.forecast import expected_series, level_of
from shopstream.evaluation.ground_truth import Found, Truth
from shopstream.evaluation.results import Picture
from shopstream.evaluation.traffic import Traffic

__all__ = ["draw_false", "draw_miss"]

_MARGIN_MS = 20 * 60_000
_BINS = 240
_WIDTHS_MS = (10_000, 20_000, 30_000, 60_000, 120_000, 300_000, 600_000)
_MINUTE_MS = 60_000
_LEVEL_MS = 60 * _MINUTE_MS


def draw_miss(truth: Truth, marks: Sequence[Found], traffic: Traffic, baselines: Baselines, note: str) -> Picture:
    """An attack that was not found; `marks` are incidents of its run."""
    return _draw(
        f"missed: {truth.scenario}, {_words(truth.key)}",
        truth.key,
        (truth.from_ms, truth.until_ms),
        traffic,
        baselines,
        attack=(truth.from_ms, truth.until_ms),
        marks=marks,
        note=note,
        missed=True,
    )


def draw_false(found: Found, traffic: Traffic, baselines: Baselines, truth: Truth | None) -> Picture:
    """A false incident; `truth` is the attack during which it was told, if any."""
    return _draw(
        f"false: {found.rule}, {_words(found.key)}",
        found.key,
        (found.first_ms, found.last_ms),
        traffic,
        baselines,
        attack=None if truth is None else (truth.from_ms, truth.until_ms),
        marks=[found],
        note=found.note,
    )


def _draw(
    title: str,
    key: Mapping[str, str],
    span: tuple[int, int],
    traffic: Traffic,
    baselines: Baselines,
    *,
    attack: tuple[int, int] | None,
    marks: Sequence[Found],
    note: str,
    missed: bool = False,
) -> Picture:
    from_ms, until_ms = span[0] - _MARGIN_MS, span[1] + _MARGIN_MS
    bin_ms = next((width for width in _WIDTHS_MS if (until_ms - from_ms) // width <= _BINS), _WIDTHS_MS[-1])
    from_ms -= from_ms % bin_ms
    times, events, hostile = traffic.series(key, from_ms, until_ms, bin_ms)
    minutes, totals, attacks = traffic.series({}, span[0] - _LEVEL_MS, span[0], _MINUTE_MS)
    genuine = [(at, all_ - bad) for at, all_, bad in zip(minutes, totals, attacks, strict=True) if all_]
    return Picture(
        title=title,
        bin_ms=bin_ms,
        times_ms=times,
        events=events,
        hostile=hostile,
        expected=expected_series(baselines, key, times, bin_ms, level_of(baselines, genuine)),
        attack=attack,
        marks=[(one.detected_ms, f"{one.severity} {one.rule}") for one in marks],
        windows=[(one.first_ms, one.last_ms) for one in marks],
        note=note,
        missed=missed,
    )


def _words(key: Mapping[str, str]) -> str:
    return ", ".join(f"{column} {value}" for column, value in key.items()) or "whole site"
