"""Runs and scores one attack (or control): it starts from the saved state of the baseline run."""

import tempfile
import zlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from shopstream.clock import from_ms, to_ms
from shopstream.detection.baseline import Baselines
from shopstream.detection.detection import Nature
from shopstream.detection.detectors.shipped import shipped_runner
from shopstream.detection.settings import DetectionSettings
from shopstream.errors import ConfigurationError
from shopstream.evaluation.baseline_run import (
    BaselineJob,
    baseline_incidents,
    baseline_run_folder,
    cpu_seconds,
    enabled_rules,
    load_baselines,
    state_folder,
)
from shopstream.evaluation.plan import EvaluatedScenario, Shop, evaluated_scenarios, stratum_of
from shopstream.evaluation.results import AttackResult, Truth, read_found
from shopstream.evaluation.run_events import RunEvents
from shopstream.evaluation.scoring import GRACE_MS, IncidentRole, Score, score
from shopstream.evaluation.system_under_test import INCIDENTS, SystemUnderTest, batches, synthesis_of, world_of
from shopstream.evaluation.timelines import timeline_of_false, timeline_of_miss
from shopstream.simulation.injection import SITE, GroundTruth, busy_targets
from shopstream.simulation.scenario_file import DrawnScenario

__all__ = ["AttackJob", "run_attack"]

_LEAD = timedelta(seconds=60)
"""Attacks begin 60 to 120 seconds after the moment of the saved state."""
_EASE = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Factors on a scenario's min_rate, tried in turn: the best product of a calm day has 0.43 events/s."""
_MAX_TIMELINES = 4


@dataclass(frozen=True, slots=True)
class AttackJob:
    """One attack on a shop.

    Args:
        baseline: the shop and its run without attacks, which is in the cache or is made.
        scenario: id of the scenario.
        work: folder for temporary files; the caller removes it.
        place: number of the attack among those of the scenario in this shop.
    """

    baseline: BaselineJob
    scenario: str
    work: Path
    place: int = 0


def run_attack(job: AttackJob) -> AttackResult:
    """Run and score one attack."""
    started = cpu_seconds()
    shop, row = job.baseline.shop, evaluated_scenarios()[job.scenario]
    moment, scenario, until_ms = _draw(shop, row, job.place)
    baseline_run = baseline_run_folder(job.baseline)
    baselines = load_baselines(baseline_run)
    synthesis = synthesis_of(shop, (moment, from_ms(until_ms)), [scenario])
    with tempfile.TemporaryDirectory(dir=job.work) as folder:
        detectors = shipped_runner(DetectionSettings(), baselines)
        system = SystemUnderTest.restored(
            state_folder(baseline_run, to_ms(moment)), Path(folder), enabled_rules(), detectors
        )
        tables = []
        for table in batches(synthesis):
            system.feed(table)
            tables.append(table)
        system.close()
        found = read_found(Path(folder) / INCIDENTS)
    truth, *others = _truths(row, synthesis.ground_truth())
    with closing(RunEvents(tables, truth.actors)) as traffic:
        scored = score(truth, row.unit, found, baseline_incidents(baseline_run), traffic, faults=tuple(others))
        result = _result(job, truth, scored, traffic, baselines)
    return replace(result, seconds=cpu_seconds() - started)


def _draw(shop: Shop, row: EvaluatedScenario, place: int) -> tuple[datetime, DrawnScenario, int]:
    """The moment of the saved state, the attack, and the end of its run.

    If no case is possible near one moment (no category is busy enough at night), the next moment is tried. If no target
    is busy enough at any of them, a quieter one is taken, which is harder to detect; the parameters then have min_rate.
    """
    rng = np.random.default_rng([shop.seed, zlib.crc32(row.id.encode()), place])
    moments = (shop.test_from,) if row.whole_day else shop.moments()
    first = 0 if row.whole_day else stratum_of(row.id, place, shop.seed)
    problem = f"expected a moment for {row.id}, found none; give the shop test days"
    for ease in _EASE:
        file = row.file.model_copy(update={"min_rate": round(row.file.min_rate * ease, 4)})
        for turn in range(len(moments)):
            moment = moments[(first + turn) % len(moments)]
            begin = moment + _LEAD + timedelta(seconds=int(rng.integers(0, _LEAD.seconds)))
            world = world_of(shop)
            if not busy_targets(world.catalogue, file.target, file.min_rate / world.rate(SITE, to_ms(begin))):
                continue
            try:
                case = file.draw(rng, shop.test_from, world, begin)
            except ConfigurationError as error:
                problem = str(error)
                continue
            if ease < 1:
                case = replace(case, parameters={**case.parameters, "min_rate": file.min_rate})
            ends = [to_ms(truth.until_time) for truth in case.build(world_of(shop)).ground_truth()]
            return moment, case, min(max(ends) + GRACE_MS, to_ms(shop.test_until))
        if not row.file.min_rate:
            break
    raise ConfigurationError(problem)


def _second(moment: datetime) -> int:
    """Truncated to seconds, as event times are."""
    return to_ms(moment) // 1000 * 1000


def _truths(row: EvaluatedScenario, truths: Sequence[GroundTruth]) -> list[Truth]:
    """All truths of a run; the first one is scored: the surge of a control, else the attack or fault."""
    scored = [
        Truth(
            scenario=row.id,
            from_ms=_second(truth.from_time),
            until_ms=to_ms(truth.until_time),
            first_ms=_second(truth.first_time or truth.from_time),
            nature=truth.nature,
            key=truth.key,
            actors=frozenset(truth.actors),
            parameters=truth.parameters,
        )
        for truth in truths
    ]
    return sorted(scored, key=lambda truth: (truth.nature is Nature.SURGE) != row.control)


def _result(job: AttackJob, truth: Truth, scored: Score, traffic: RunEvents, baselines: Baselines) -> AttackResult:
    detected_ms = scored.detected_ms
    false = scored.top(IncidentRole.FALSE)
    total, hostile = traffic.totals(truth.from_ms, truth.until_ms)
    nearest, timelines = "", [timeline_of_false(one, traffic, baselines, truth) for one in false[:_MAX_TIMELINES]]
    missed = [actor for actor in scored.actors if actor.detected_ms is None]
    if truth.nature is not Nature.SURGE and (missed if scored.actors else detected_ms is None):
        nearest = _nearest(truth, scored, traffic)
        timelines.insert(
            0, timeline_of_miss(truth, [one.found for one in scored.incidents], traffic, baselines, nearest)
        )
    length_s = (truth.until_ms - truth.from_ms) / 1000
    return AttackResult(
        scenario=job.scenario,
        seed=job.baseline.shop.seed,
        place=job.place,
        from_ms=truth.from_ms,
        until_ms=truth.until_ms,
        nature=str(truth.nature),
        key=truth.key,
        parameters=truth.parameters,
        rate=(total - hostile) / length_s,
        events=total,
        hostile=hostile,
        found_after_s=None if detected_ms is None else (detected_ms - truth.first_ms) / 1000,
        events_until=None if detected_ms is None else _events_until(truth, detected_ms, traffic),
        progress=None if detected_ms is None else min(1.0, (detected_ms - truth.from_ms) / 1000 / length_s),
        actors=[
            None
            if actor.detected_ms is None or actor.events_until is None
            else ((actor.detected_ms - actor.first_ms) / 1000, actor.events_until)
            for actor in scored.actors
        ],
        true=[replace(one, members=frozenset()) for one in scored.top(IncidentRole.TRUE)],
        false=[replace(one, members=frozenset()) for one in false],
        surges=[replace(one, members=frozenset()) for one in scored.top(IncidentRole.SURGE)],
        timelines=timelines,
        nearest=nearest,
        seconds=0.0,
    )


def _events_until(truth: Truth, detected_ms: int, traffic: RunEvents) -> int:
    """Events of the attack, or of its target, from the first event until the detection."""
    total, hostile = traffic.key_totals(truth.key, truth.first_ms, detected_ms)
    return hostile if truth.actors else total


def _nearest(truth: Truth, scored: Score, traffic: RunEvents) -> str:
    """What detection saw, in one line: incidents, events of the attack, and the busiest missed actor."""
    seen = [f"{one.role} {one.found.rule} ({one.found.severity})" for one in scored.incidents if one.found.top]
    total, hostile = traffic.totals(truth.from_ms, truth.until_ms)
    lines = [f"incidents: {', '.join(seen) or 'none'}", f"{hostile:,} of {total:,} events are the attack's"]
    found = {user for one in scored.incidents if one.role is IncidentRole.TRUE for user in one.users}
    missed = sorted(truth.actors - found)
    if missed:
        lines.append(f"{len(missed):,} of {len(truth.actors):,} actors missed, the busiest: {traffic.habits(missed)}")
    return "; ".join(lines)
