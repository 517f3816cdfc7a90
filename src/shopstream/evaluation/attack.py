"""One attack (or control) on a shop: from the state of the genuine run at its beginning, through its stretch alone."""

import tempfile
import zlib
from collections.abc import Sequence
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
    GenuineJob,
    cpu_seconds,
    enabled_rules,
    genuine_folder,
    genuine_found,
    load_baselines,
    state_folder,
)
from shopstream.evaluation.ground_truth import Truth, read_found
from shopstream.evaluation.plan import Shop, stratum_of
from shopstream.evaluation.results import AttackResult, brief_of
from shopstream.evaluation.scoring import GRACE_MS, Role, Score, score
from shopstream.evaluation.slices import batches, synthesis_of, world_of
from shopstream.evaluation.system_under_test import INCIDENTS, Product
from shopstream.evaluation.targets import Row, load_rows
from shopstream.evaluation.timelines import draw_false, draw_miss
from shopstream.evaluation.traffic import Traffic
from shopstream.simulation.injection import Episode
from shopstream.simulation.scenario_file import DrawnScenario
from shopstream.simulation.target import SITE, busy_keys

__all__ = ["AttackJob", "run_attack"]

_LEAD = timedelta(seconds=60)
"""Attacks begin this long after the moment whose state was saved, and up to a minute later."""
_EASE = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""What part of a scenario's least rate a key must have, in turn: the best product of a calm day has 0.43 events/s."""
_MAX_PICTURES = 4


@dataclass(frozen=True, slots=True)
class AttackJob:
    """One attack on a shop whose genuine run is in the cache (or is made).

    Args:
        genuine: the shop and its run without attacks.
        scenario: id of the row.
        work: folder for what the run writes; whoever gave it clears it.
        place: which of the scenario's attacks in this shop.
    """

    genuine: GenuineJob
    scenario: str
    work: Path
    place: int = 0


def run_attack(job: AttackJob) -> AttackResult:
    """Run and score one attack."""
    started = cpu_seconds()
    shop, row = job.genuine.shop, load_rows()[job.scenario]
    moment, scenario, until_ms = _draw(shop, row, job.place)
    genuine = genuine_folder(job.genuine)
    baselines = load_baselines(genuine)
    synthesis = synthesis_of(shop, (moment, from_ms(until_ms)), [scenario])
    with tempfile.TemporaryDirectory(dir=job.work) as folder:
        bank = shipped_runner(DetectionSettings(), baselines)
        product = Product.restored(state_folder(genuine, to_ms(moment)), Path(folder), enabled_rules(), bank)
        tables = []
        for table in batches(synthesis):
            product.feed(table)
            tables.append(table)
        product.close()
        found = read_found(Path(folder) / INCIDENTS)
    truth, *others = _truths(row, synthesis.episodes())
    with Traffic(tables, truth.actors) as traffic:
        scored = score(truth, row.unit, found, genuine_found(genuine), traffic, grace_ms=GRACE_MS, faults=tuple(others))
        result = _result(job, truth, scored, traffic, baselines)
    return replace(result, seconds=cpu_seconds() - started)


def _draw(shop: Shop, row: Row, place: int) -> tuple[datetime, DrawnScenario, int]:
    """The moment whose state it starts from, the attack, and where its run ends.

    What fits at no time near one moment (no category is busy enough at night) is drawn at the next. If no key is busy
    enough at any of them, a quieter one is taken, which is harder to see, and the parameters say so.
    """
    rng = np.random.default_rng([shop.seed, zlib.crc32(row.id.encode()), place])
    moments = (shop.test_from,) if row.whole_day else shop.moments()
    first = 0 if row.whole_day else stratum_of(row.id, place, shop.seed)
    said = f"expected a moment for {row.id}, found none; give the shop test days"
    for ease in _EASE:
        file = row.file.model_copy(update={"min_rate": round(row.file.min_rate * ease, 4)})
        for turn in range(len(moments)):
            moment = moments[(first + turn) % len(moments)]
            begin = moment + _LEAD + timedelta(seconds=int(rng.integers(0, _LEAD.seconds)))
            world = world_of(shop)
            if not busy_keys(world.catalogue, file.hits, file.min_rate / world.rate(SITE, to_ms(begin))):
                continue
            try:
                case = file.draw(rng, shop.test_from, world, begin)
            except ConfigurationError as error:
                said = str(error)
                continue
            if ease < 1:
                case = replace(case, parameters={**case.parameters, "min_rate": file.min_rate})
            ends = [to_ms(episode.until_time) for episode in case.build(world_of(shop)).episodes()]
            return moment, case, min(max(ends) + GRACE_MS, to_ms(shop.test_until))
        if not row.file.min_rate:
            break
    raise ConfigurationError(said)


def _second(moment: datetime) -> int:
    """As events carry it: their times are cut to whole seconds."""
    return to_ms(moment) // 1000 * 1000


def _truths(row: Row, episodes: Sequence[Episode]) -> list[Truth]:
    """The one that is scored first: of a control the surge, else the attack or fault."""
    truths = [
        Truth(
            scenario=row.id,
            from_ms=_second(episode.from_time),
            until_ms=to_ms(episode.until_time),
            first_ms=_second(episode.first_time or episode.from_time),
            nature=episode.nature,
            key=episode.key,
            actors=frozenset(episode.actors),
            parameters=episode.parameters,
        )
        for episode in episodes
    ]
    return sorted(truths, key=lambda truth: (truth.nature is Nature.SURGE) != row.control)


def _result(job: AttackJob, truth: Truth, scored: Score, traffic: Traffic, baselines: Baselines) -> AttackResult:
    detected_ms = scored.detected_ms
    false = scored.top(Role.FALSE)
    total, hostile = traffic.totals(truth.from_ms, truth.until_ms)
    nearest, pictures = "", [draw_false(one, traffic, baselines, truth) for one in false[:_MAX_PICTURES]]
    missed = [actor for actor in scored.actors if actor.detected_ms is None]
    if truth.nature is not Nature.SURGE and (missed if scored.actors else detected_ms is None):
        nearest = _nearest(truth, scored, traffic)
        pictures.insert(0, draw_miss(truth, [one.found for one in scored.judged], traffic, baselines, nearest))
    length_s = (truth.until_ms - truth.from_ms) / 1000
    return AttackResult(
        scenario=job.scenario,
        seed=job.genuine.shop.seed,
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
        true=[brief_of(one) for one in scored.top(Role.TRUE)],
        false=[brief_of(one) for one in false],
        surges=[brief_of(one) for one in scored.top(Role.SURGE)],
        pictures=pictures,
        nearest=nearest,
        seconds=0.0,
    )


def _events_until(truth: Truth, detected_ms: int, traffic: Traffic) -> int:
    """Events of the attack, or of the key that it hits, from its first one until the detection."""
    total, hostile = traffic.key_totals(truth.key, truth.first_ms, detected_ms)
    return hostile if truth.actors else total


def _nearest(truth: Truth, scored: Score, traffic: Traffic) -> str:
    """What there was to see, in a line: incidents that came, and the busiest stretches of the attack."""
    said = [f"{one.role} {one.found.rule} ({one.found.severity})" for one in scored.judged if one.found.top]
    total, hostile = traffic.totals(truth.from_ms, truth.until_ms)
    lines = [f"incidents: {', '.join(said) or 'none'}", f"{hostile:,} of {total:,} events are the attack's"]
    found = {one for judged in scored.judged if judged.role is Role.TRUE for one in judged.users}
    missed = sorted(truth.actors - found)
    if missed:
        lines.append(f"{len(missed):,} of {len(truth.actors):,} actors missed, the busiest: {traffic.habits(missed)}")
    return "; ".join(lines)
