"""Timelines of missed attacks and false incidents, and how well the baseline forecast the traffic."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shopstream.clock import HOUR_MS, MINUTE_MS
from shopstream.detection.baseline import Baselines, SeriesProfile
from shopstream.detection.wording import describe_key
from shopstream.evaluation.results import FoundIncident, Timeline, Truth
from shopstream.evaluation.run_events import RunEvents

_MARGIN_MS = 20 * 60_000
_BINS = 240
_WIDTHS_MS = (10_000, 20_000, 30_000, 60_000, 120_000, 300_000, 600_000)
_LEVEL_MS = 60 * MINUTE_MS


def timeline_of_miss(
    truth: Truth, marks: Sequence[FoundIncident], traffic: RunEvents, baselines: Baselines, note: str
) -> Timeline:
    """Timeline of a missed attack; `marks` are incidents of its run."""
    return _draw(
        f"missed: {truth.scenario}, {describe_key(truth.key)}",
        truth.key,
        (truth.from_ms, truth.until_ms),
        traffic,
        baselines,
        attack=(truth.from_ms, truth.until_ms),
        marks=marks,
        note=note,
        missed=True,
    )


def timeline_of_false(found: FoundIncident, traffic: RunEvents, baselines: Baselines, truth: Truth | None) -> Timeline:
    """Timeline of a false incident; `truth` is the attack of the run, if any."""
    return _draw(
        f"false: {found.rule}, {describe_key(found.key)}",
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
    traffic: RunEvents,
    baselines: Baselines,
    *,
    attack: tuple[int, int] | None,
    marks: Sequence[FoundIncident],
    note: str,
    missed: bool = False,
) -> Timeline:
    from_ms, until_ms = span[0] - _MARGIN_MS, span[1] + _MARGIN_MS
    bin_ms = next((width for width in _WIDTHS_MS if (until_ms - from_ms) // width <= _BINS), _WIDTHS_MS[-1])
    from_ms -= from_ms % bin_ms
    times, events, hostile = traffic.series(key, from_ms, until_ms, bin_ms)
    minutes, totals, attacks = traffic.series({}, span[0] - _LEVEL_MS, span[0], MINUTE_MS)
    genuine = [(at, all_ - bad) for at, all_, bad in zip(minutes, totals, attacks, strict=True) if all_]
    return Timeline(
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


_LEVEL_HOURS = 3
_LEAST_EVENTS = 100
"""Hours with fewer expected events are ignored: their errors are chance."""
_STEPS = 12


@dataclass(slots=True)
class HourCounts:
    """Events per hour: series (`site`, `event_type=view` …) → hour since the epoch → events."""

    counts: dict[str, dict[int, int]] = field(default_factory=dict)

    def add(self, events: pa.Table) -> None:
        """Add events."""
        hours = pc.divide(events.column("event_time").cast(pa.int64()), HOUR_MS * 1000)
        kinds = events.column("event_type").cast(pa.string())
        table = pa.table({"hour": hours, "kind": kinds}).group_by(["hour", "kind"]).aggregate([([], "count_all")])
        for row in table.to_pylist():
            for series in ("site", f"event_type={row['kind']}"):
                of_series = self.counts.setdefault(series, {})
                of_series[row["hour"]] = of_series.get(row["hour"], 0) + row["count_all"]


def forecast_errors(baselines: Baselines, counts: HourCounts) -> dict[str, float]:
    """Series → root mean square of the relative error of hourly forecasts.

    The forecast of an hour is the profile times the level of the three hours before, as in detectors.
    """
    errors = {}
    for series, profile in baselines.series.items():
        error = _error(profile, counts.counts.get(series, {}))
        if error is not None:
            errors[series] = error
    return errors


def _error(profile: SeriesProfile, counts: Mapping[int, int]) -> float | None:
    squares = []
    for hour in sorted(counts):
        before = [hour - step for step in range(1, _LEVEL_HOURS + 1)]
        if not all(one in counts for one in before):
            continue
        usual = sum(_hour(profile, one) for one in before)
        expected = _hour(profile, hour) * sum(counts[one] for one in before) / usual if usual > 0 else 0.0
        if expected >= _LEAST_EVENTS:
            squares.append((counts[hour] / expected - 1) ** 2)
    return math.sqrt(sum(squares) / len(squares)) if squares else None


def _hour(profile: SeriesProfile, hour: int) -> float:
    """Expected events of an hour."""
    step_ms = HOUR_MS // _STEPS
    return sum(profile.rate(hour * HOUR_MS + step_ms // 2 + step * step_ms) for step in range(_STEPS)) * step_ms / 1000


def expected_series(
    baselines: Baselines, key: Mapping[str, str], times_ms: Sequence[int], bin_ms: int, level: float
) -> list[float]:
    """Expected events of each bin; empty if the baseline does not know the key.

    Args:
        baselines: the baselines.
        key: key of the series; empty for the site.
        times_ms: start of each bin.
        bin_ms: width of the bins.
        level: present traffic relative to the profile.
    """
    share, name = 1.0, "site"
    for column, value in key.items():
        if column == "event_type":
            name = f"event_type={value}"
        elif value in baselines.keys.get(column, {}):
            share = baselines.keys[column][value].share
        else:
            return []
    profile = baselines.series.get(name)
    if profile is None:
        return []
    return [profile.rate(time_ms + bin_ms // 2) * share * level * bin_ms / 1000 for time_ms in times_ms]


def level_of(baselines: Baselines, totals: Iterable[tuple[int, int]]) -> float:
    """Events relative to the site's profile, from (start of a minute, events); 1 without a profile."""
    profile = baselines.series.get("site")
    pairs = list(totals)
    usual = 0.0 if profile is None else float(np.sum([profile.rate(time_ms) * 60 for time_ms, _ in pairs]))
    return sum(events for _, events in pairs) / usual if usual > 0 else 1.0
