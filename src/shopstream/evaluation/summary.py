"""Summarises runs: recall and time to detection of each scenario, and false incidents on days without attacks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shopstream.evaluation.plan import EvaluatedScenario
from shopstream.evaluation.results import AttackResult, BaselineResult, FoundIncident
from shopstream.evaluation.runner import RunResults
from shopstream.evaluation.scoring import TimeUnit, Unit, percentile, rule_of_three
from shopstream.incidents.incident import wilson

_MILLION = 1_000_000
_INFORMATIONAL = "informational"
_CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class RowSummary:
    """An attack or fault.

    Args:
        runs: number of attacks; `trials` are attacks or actors, as recall counts.
        low, high: 95 % interval of the recall (Wilson).
        median, p95: time to detection, in `time_unit`; None if nothing was found.
        incidents_per_attack: listed true incidents per attack that has any.
        notifications_per_incident: per true incident with notifications.
        false: false incidents of the runs.
        reached: whether the goal was met; None without a goal.
    """

    scenario: str
    title: str
    runs: int
    unit: Unit
    trials: int
    found: int
    recall: float
    low: float
    high: float
    median: float | None
    p95: float | None
    time_unit: TimeUnit
    target_recall: float | None
    target_time: float | None
    incidents_per_attack: float | None
    notifications_per_incident: float | None
    false: int
    reached: bool | None


@dataclass(frozen=True, slots=True)
class ControlSummary:
    """A control: the worst counts of one run, and the number of runs within the limits."""

    scenario: str
    title: str
    runs: int
    critical: int
    other: int
    informational: int
    good_runs: int
    reached: bool


@dataclass(frozen=True, slots=True)
class BaselineSummary:
    """Days without attacks.

    Args:
        site, actors: false incidents about the site or a part of it, and about actors.
        residents: incidents about robots of the genuine traffic, which are neither false nor required.
        surges: informational incidents about organic surges.
        actors_per_million, actors_bound: false actor incidents per million genuine events, and the upper bound.
        site_per_week, site_bound: false site incidents a week, and the upper bound.
        per_rule: rule → false incidents.
        forecast_error, stated_error: series → mean over seeds.
    """

    days: float
    events: int
    site: int
    actors: int
    residents: int
    surges: int
    per_day: float
    actors_per_million: float
    actors_bound: float
    site_per_week: float
    site_bound: float
    per_rule: Mapping[str, int]
    forecast_error: Mapping[str, float]
    stated_error: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Summary:
    """All figures.

    Args:
        precision: share of true incidents among true and false ones, over attacks, controls and days without attacks.
        notifications_per_incident: per incident with notifications.
    """

    rows: Sequence[RowSummary]
    controls: Sequence[ControlSummary]
    baseline: BaselineSummary
    true: int
    false: int
    precision: float | None
    notifications_per_incident: float | None


def summarise(results: RunResults, rows: Mapping[str, EvaluatedScenario]) -> Summary:
    """Figures of the runs so far."""
    tested = [(row, results.attacks[row.id]) for row in rows.values() if results.attacks.get(row.id)]
    attacks = [run for row, runs in tested if not row.control for run in runs]
    controls = [run for row, runs in tested if row.control for run in runs]
    baseline = _baseline(results.baseline)
    true = sum(len(run.true) for run in attacks)
    false = baseline.site + baseline.actors + sum(len(run.false) for run in attacks)
    false += sum(one.severity != _INFORMATIONAL for run in controls for one in run.false)
    incidents = [one for run in [*attacks, *controls] for one in [*run.true, *run.false, *run.surges]]
    incidents += [one for result in results.baseline for one in result.incidents]
    return Summary(
        rows=[_row(row, runs) for row, runs in tested if not row.control],
        controls=[_control(row, runs) for row, runs in tested if row.control],
        baseline=baseline,
        true=true,
        false=false,
        precision=true / (true + false) if true + false else None,
        notifications_per_incident=_notifications(incidents),
    )


def _notifications(incidents: Sequence[FoundIncident]) -> float | None:
    counts = [one.notifications for one in incidents if one.notifications]
    return sum(counts) / len(counts) if counts else None


def _row(row: EvaluatedScenario, runs: Sequence[AttackResult]) -> RowSummary:
    if row.unit is Unit.ACTOR:
        outcomes = [actor for run in runs for actor in run.actors]
        trials, hits = len(outcomes), [actor for actor in outcomes if actor is not None]
        times = [float(events if row.time_unit is TimeUnit.EVENTS else seconds) for seconds, events in hits]
        found = len(hits)
    else:
        trials = len(runs)
        times = [time for run in runs if (time := _time(row, run)) is not None]
        found = sum(run.found_after_s is not None for run in runs)
    recall = found / trials if trials else 0.0
    median = percentile(times, 0.5)
    low, high = wilson(found, trials)
    reached = None
    if row.recall is not None and row.within is not None:
        reached = recall >= row.recall and median is not None and median <= row.within
    counted = [len(run.true) for run in runs if run.true]
    return RowSummary(
        scenario=row.id,
        title=row.title,
        runs=len(runs),
        unit=row.unit,
        trials=trials,
        found=found,
        recall=recall,
        low=low,
        high=high,
        median=median,
        p95=percentile(times, 0.95),
        time_unit=row.time_unit,
        target_recall=row.recall,
        target_time=row.within,
        incidents_per_attack=sum(counted) / len(counted) if counted else None,
        notifications_per_incident=_notifications([one for run in runs for one in run.true]),
        false=sum(len(run.false) for run in runs),
        reached=reached,
    )


def _time(row: EvaluatedScenario, run: AttackResult) -> float | None:
    if run.found_after_s is None:
        return None
    if row.time_unit is TimeUnit.EVENTS:
        return run.events_until
    if row.time_unit is TimeUnit.FACTOR:
        return row.factor_at(run.parameters, run.progress or 0.0)
    return max(0.0, run.found_after_s)


def _control(row: EvaluatedScenario, runs: Sequence[AttackResult]) -> ControlSummary:
    counts = []
    for run in runs:
        severities = [one.severity for one in [*run.false, *run.surges]]
        critical, informational = severities.count(_CRITICAL), severities.count(_INFORMATIONAL)
        counts.append((critical, len(severities) - critical - informational, informational))
    good = [
        critical <= row.critical and other == 0 and informational <= row.informational
        for critical, other, informational in counts
    ]
    return ControlSummary(
        scenario=row.id,
        title=row.title,
        runs=len(runs),
        critical=max(critical for critical, _, _ in counts),
        other=max(other for _, other, _ in counts),
        informational=max(informational for _, _, informational in counts),
        good_runs=sum(good),
        reached=all(good),
    )


def _baseline(results: Sequence[BaselineResult]) -> BaselineSummary:
    days, events = sum(result.days for result in results), sum(result.events for result in results)
    incidents = [one for result in results for one in result.incidents]
    surges = [one for one in incidents if one.nature == "surge"]
    residents = [one for one in incidents if one.resident]
    false = [one for one in incidents if not one.resident and one.nature != "surge"]
    actors = sum(one.about_actors for one in false)
    site = len(false) - actors
    per_rule: dict[str, int] = {}
    for one in false:
        per_rule[one.rule] = per_rule.get(one.rule, 0) + 1
    return BaselineSummary(
        days=days,
        events=events,
        site=site,
        actors=actors,
        residents=len(residents),
        surges=len(surges),
        per_day=len(false) / days if days else 0.0,
        actors_per_million=actors * _MILLION / events if events else 0.0,
        actors_bound=rule_of_three(actors, events / _MILLION),
        site_per_week=site * 7 / days if days else 0.0,
        site_bound=rule_of_three(site, days / 7),
        per_rule=dict(sorted(per_rule.items(), key=lambda item: -item[1])),
        forecast_error=_means([result.forecast_error for result in results]),
        stated_error=_means([result.stated_error for result in results]),
    )


def _means(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = {name for value in values for name in value}
    return {
        name: sum(known) / len(known)
        for name in sorted(names)
        if (known := [value[name] for value in values if name in value])
    }
