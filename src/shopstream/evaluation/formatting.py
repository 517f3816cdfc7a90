"""How figures are written, on screen and in reports, and what has to be said beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from shopstream.evaluation.plan import REPORTING_SEEDS, STRATA, TUNING_SEEDS
from shopstream.evaluation.runner import EVERY
from shopstream.evaluation.scoring import GRACE_MS
from shopstream.evaluation.summary import ControlSummary, GenuineSummary, RowSummary, Summary
from shopstream.evaluation.targets import TimeUnit

__all__ = [
    "Facts",
    "control_row",
    "genuine_rows",
    "how_it_was_done",
    "met",
    "row_of",
    "short_row_of",
    "time_text",
    "verdict",
]

_NONE = "-"
_MINUTE_S = 60
_HOUR_S = 3_600
_MINUTE_MS = 60_000
_LEAST_EVENTS = 3_000_000
_TARGETS = {"site": 1.0, "actors": 1.0, "precision": 0.90, "notifications": 1.2}


@dataclass(frozen=True, slots=True)
class Facts:
    """Where figures come from.

    Args:
        seeds: of the shops that gave results.
        test_days: of each.
        tuning: they are tuning seeds.
        commit: of the code, if known.
        machine: processor, cores, Python.
        finished: when.
        minutes: how long it took.
        partial: it was interrupted.
        tracker: events carried address and user agent.
        history_days: before the test days, for the baselines.
    """

    seeds: Sequence[int]
    test_days: int
    tuning: bool
    commit: str
    machine: str
    finished: datetime
    minutes: float
    partial: bool
    tracker: bool
    history_days: int


def met(reached: bool | None) -> str:
    """One word."""
    return _NONE if reached is None else "met" if reached else "missed"


def time_text(value: float | None, unit: TimeUnit) -> str:
    """A time to detect: `12 s`, `4.2 min`, `3.1 h`, `14 events`, `1.9x`."""
    if value is None:
        return _NONE
    if unit is TimeUnit.EVENTS:
        return f"{value:.0f} event{'' if round(value) == 1 else 's'}"
    if unit is TimeUnit.FACTOR:
        return f"{value:.2f}x"
    if value < 2 * _MINUTE_S:
        return f"{value:.0f} s"
    return f"{value / _MINUTE_S:.1f} min" if value < 2 * _HOUR_S else f"{value / _HOUR_S:.1f} h"


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}".removeprefix("0") if value < 1 else "1.000"


def _figure(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"


def row_of(row: RowSummary) -> dict[str, object]:
    """One line of the catalogue."""
    return {
        "scenario": row.title,
        "found": f"{row.found:,} of {row.trials:,} {row.unit}",
        "recall": _share(row.recall),
        "95 %": f"{_share(row.low)} to {_share(row.high)}",
        "target": _NONE if row.target_recall is None else f"≥ {_share(row.target_recall)}",
        "median": time_text(row.median, row.time_unit),
        "p95": time_text(row.p95, row.time_unit),
        "at most": time_text(row.target_time, row.time_unit),
        "incidents": _figure(row.incidents_per_attack),
        "told": _figure(row.notifications_per_incident),
        "false": row.false,
        "target met": met(row.reached),
    }


def short_row_of(row: RowSummary) -> dict[str, object]:
    """One line of the catalogue for a terminal."""
    full = row_of(row)
    return {
        "scenario": row.title,
        "found": f"{row.found:,}/{row.trials:,}",
        "recall": f"{row.recall:.2f}",
        "target": _NONE if row.target_recall is None else f"{row.target_recall:.2f}",
        "median": full["median"],
        "limit": full["at most"],
        "p95": full["p95"],
        "inc.": full["incidents"],
        "told": full["told"],
        "false": row.false,
        "target met": met(row.reached),
    }


def control_row(row: ControlSummary) -> dict[str, object]:
    """One line of the controls."""
    return {
        "control": row.title,
        "runs": row.runs,
        "critical": row.critical,
        "other": row.other,
        "informational": row.informational,
        "good runs": f"{row.good_runs} of {row.runs}",
        "target met": met(row.reached),
    }


def genuine_rows(summary: Summary) -> list[dict[str, object]]:
    """What the genuine days say, a figure a line."""
    genuine = summary.genuine
    errors = genuine.forecast_error
    lines: list[tuple[str, str, str, bool | None]] = [
        (
            "genuine events",
            f"{genuine.events:,} in {genuine.days:g} days",
            "≥ 3,000,000",
            genuine.events >= _LEAST_EVENTS,
        ),
        (
            "false site incidents a week",
            f"{genuine.site_per_week:.2f} ({genuine.site} found; bound {genuine.site_bound:.2f})",
            "≤ 1",
            genuine.site_per_week <= _TARGETS["site"],
        ),
        (
            "false actor incidents per million events",
            f"{genuine.actors_per_million:.3f} ({genuine.actors} found; bound {genuine.actors_bound:.3f})",
            "≤ 1",
            genuine.actors_per_million <= _TARGETS["actors"],
        ),
        ("false incidents a day", f"{genuine.per_day:.2f}", _NONE, None),
        ("incidents about resident robots", f"{genuine.residents}", _NONE, None),
        ("organic surges told", f"{genuine.surges}", _NONE, None),
        (
            "incident precision",
            f"{_share(summary.precision)} ({summary.true} true, {summary.false} false)",
            "≥ .900",
            None if summary.precision is None else summary.precision >= _TARGETS["precision"],
        ),
        (
            "notifications per notified incident",
            _figure(summary.notifications_per_incident),
            "≤ 1.2",
            None
            if summary.notifications_per_incident is None
            else summary.notifications_per_incident <= _TARGETS["notifications"],
        ),
        *(
            (
                f"forecast error, {series}",
                f"{error:.1%} (the baseline states {genuine.stated_error.get(series, 0):.1%})",
                _NONE,
                None,
            )
            for series, error in errors.items()
        ),
    ]
    names = ("figure", "value", "target", "target met")
    return [dict(zip(names, (*line[:3], met(line[3])), strict=True)) for line in lines]


def verdict(summary: Summary) -> str:
    """How many targets were met, and which rows missed theirs."""
    judged = [(row.title, row.reached) for row in summary.rows if row.reached is not None]
    judged += [(row.title, row.reached) for row in summary.controls]
    missed = [title for title, reached in judged if not reached]
    missed += [str(row["figure"]) for row in genuine_rows(summary) if row["target met"] == met(reached=False)]
    count = len(judged) + sum(row["target met"] != met(None) for row in genuine_rows(summary))
    return f"{count - len(missed)} of {count} targets met; missed: {', '.join(missed) or 'none'}."


def how_it_was_done(facts: Facts, genuine: GenuineSummary) -> list[str]:
    """Sentences without which the figures mislead."""
    kind, others = ("tuning", REPORTING_SEEDS) if facts.tuning else ("reporting", TUNING_SEEDS)
    hours = ", ".join(f"{low:g} to {high:g}" for low, high in STRATA)
    seeds = f"{min(facts.seeds)} to {max(facts.seeds)}" if facts.seeds else "none"
    split = (
        f"Seeds used: {seeds}, of the {kind} range. Thresholds are chosen on seeds {TUNING_SEEDS.start} to "
        f"{TUNING_SEEDS.stop - 1} only, figures are published from {REPORTING_SEEDS.start} to "
        f"{REPORTING_SEEDS.stop - 1} only; the two ranges have no seed in common"
    )
    shops = (
        f"A seed is a synthetic shop of its own: catalogue, {facts.history_days} days of history for the baselines, "
        f"the last of which warms the state up, then {facts.test_days} test day(s); "
        f"{genuine.days:g} genuine day(s) are in these figures."
    )
    starts = (
        f"Attacks begin at random moments in these hours of the day, in turn (UTC): {hours}. An attack's run starts "
        "from the saved state of the genuine run at that moment and differs from it by the attack alone."
    )
    counting = (
        "Incidents are counted, never windows, and nothing is point-adjusted. An incident that the genuine run has, "
        "too, is not the attack's. One that only the attack's run has, and that the attack does not explain, is false."
    )
    late = (
        f"An incident may begin up to {GRACE_MS // _MINUTE_MS} minutes after the attack's end. What the product calls "
        "an organic surge never counts as the detection of an attack."
    )
    columns = (
        "In the tables, incidents are true ones per attack that gave any, told are notifications per incident that "
        "somebody was told of, false are incidents that only the runs with the attack have. For controls the worst run "
        "is shown; a run is good with no critical incident, at most one informational, and no other."
    )
    recall = (
        "Recall is counted over attacks, or over actors where single bots are to be found. Medians and p95 are of "
        "those that were found. Times are event time; live, the allowed out-of-orderness (5 s) comes on top."
    )
    end = f", so these figures are no evidence: take seeds from {others.start} on for that." if facts.tuning else "."
    return [
        split + end,
        shops,
        starts,
        counting,
        late,
        recall,
        columns,
        f"Promotion days are laid over one shop in {EVERY} only: each is several days of traffic.",
        "Precision depends on how many attacks there are: here each shop has one of each scenario for its test days.",
        "Robots that live in the genuine traffic are known to the truth; incidents about them are listed apart.",
        "Events carry address and user agent."
        if facts.tracker
        else "Events carry the nine columns of a shop's log: no address, no user agent.",
    ]
