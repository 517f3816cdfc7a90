"""The runs of an evaluation: a shop's baseline run, and one run per attack or control.

The baseline run has no attacks. It shows false incidents and forecast errors, and saves the states from which attacks
start. It goes through the day before the test (warm-up) and the test days. Baselines and states are kept in a cache,
under a digest of the code that made them.
"""

import hashlib
import os
import resource
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from filelock import FileLock
from pydantic import TypeAdapter

from shopstream.clock import from_ms, to_ms
from shopstream.detection.baseline import Baselines
from shopstream.detection.detection import Nature
from shopstream.detection.detectors.shipped import shipped_runner
from shopstream.detection.rule import Rule, load_rules
from shopstream.detection.settings import DetectionSettings
from shopstream.errors import ConfigurationError, StateError
from shopstream.evaluation.plan import EvaluatedScenario, Shop, evaluated_scenarios, stratum_of
from shopstream.evaluation.results import AttackResult, BaselineResult, FoundIncident, Timeline, Truth, read_found
from shopstream.evaluation.run_events import RunEvents
from shopstream.evaluation.scoring import GRACE_MS, IncidentRole, Score, score
from shopstream.evaluation.system_under_test import (
    INCIDENTS,
    SystemUnderTest,
    batches,
    cut,
    learn,
    synthesis_of,
    world_of,
)
from shopstream.evaluation.timelines import HourCounts, forecast_errors, timeline_of_false, timeline_of_miss
from shopstream.simulation.injection import SITE, GroundTruth, busy_targets
from shopstream.simulation.scenario_file import DrawnScenario

BASELINES = "baselines.json"
_RESULT = "result.json"
_FOUND = "found"
_MAJORITY = 0.5
_LEARNT_FROM = (
    "simulation",
    "detection/baseline.py",
    "detection/baseline_builder.py",
    "detection/product_reference.py",
)
_RUN_BY = (
    "simulation",
    "events",
    "engine",
    "detection",
    "incidents",
    "notify",
    "evaluation/system_under_test.py",
    "evaluation/plan.py",
)
_MAX_BASELINE_TIMELINES = 12


@dataclass(frozen=True, slots=True)
class BaselineJob:
    """The baseline run of one shop.

    Args:
        shop: the shop.
        cache: folder of the cache.
        learnt_by, run_by: digests of the code that makes the baselines and the states; taken once for a whole
            evaluation, because the code may change meanwhile.
    """

    shop: Shop
    cache: Path
    learnt_by: str
    run_by: str

    @staticmethod
    def of(shop: Shop, cache: Path) -> "BaselineJob":
        """With the digests of the present code."""
        return BaselineJob(shop, cache, code_digest(_LEARNT_FROM), code_digest(_RUN_BY))


def cpu_seconds() -> float:
    """User and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@lru_cache(maxsize=1)
def enabled_rules() -> Mapping[str, Rule]:
    """The enabled shipped rules."""
    return {rule_id: rule for rule_id, rule in load_rules().items() if rule.enabled}


def run_baseline(job: BaselineJob) -> BaselineResult:
    """Run the shop without attacks, unless the cache has the result."""
    path = baseline_run_folder(job) / _RESULT
    return TypeAdapter(BaselineResult).validate_json(path.read_bytes())


def baseline_run_folder(job: BaselineJob) -> Path:
    """Folder with the states, incidents, baselines and result of the run; made if it is missing."""
    cache = Cache(job.cache, job.shop)

    baselines = cache.folder("baselines", job.learnt_by, lambda folder: learn(job.shop, folder / BASELINES))

    def run(folder: Path) -> None:
        shutil.copytree(baselines, folder, dirs_exist_ok=True)
        result = _go_through(job.shop, folder)
        (folder / _RESULT).write_bytes(TypeAdapter(BaselineResult).dump_json(result))

    return cache.folder("baseline-run", job.run_by, run)


def state_folder(run: Path, moment_ms: int) -> Path:
    """Folder of the state at a moment, inside the folder of a run."""
    return run / f"state-{moment_ms}"


def baseline_incidents(run: Path) -> list[FoundIncident]:
    """Incidents of a baseline run."""
    return read_found(run / INCIDENTS)


def load_baselines(run: Path) -> Baselines:
    """The baselines that a run used.

    Raises:
        StateError: they are missing.
    """
    baselines = Baselines.load(run / BASELINES)
    if baselines is None:
        raise StateError(f"expected baselines in {run}, found none; remove that folder and evaluate again")
    return baselines


def _go_through(shop: Shop, folder: Path) -> BaselineResult:
    started = cpu_seconds()
    baselines = load_baselines(folder)
    system = SystemUnderTest(folder, enabled_rules(), shipped_runner(DetectionSettings(), baselines))
    counts = HourCounts()
    tested = 0
    moments = [shop.test_from, *shop.moments()]
    events = batches(synthesis_of(shop, (shop.warm_from, shop.test_until)))
    for table, moment in cut(events, moments):
        system.feed(table)
        if table.num_rows and to_ms(shop.test_from) <= table.column("event_time")[0].as_py().timestamp() * 1000:
            counts.add(table)
            tested += table.num_rows
        if moment is not None:
            system.save(state_folder(folder, to_ms(moment)))
    system.close()
    found = [one for one in baseline_incidents(folder) if one.detected_ms >= to_ms(shop.test_from)]
    listed = [one for one in found if one.top]
    residents, timelines = _look_at(shop, listed, baselines)
    return BaselineResult(
        seed=shop.seed,
        days=shop.days,
        events=tested,
        incidents=[replace(one, members=frozenset(), resident=one.id in residents) for one in listed],
        forecast_error=forecast_errors(baselines, counts),
        stated_error={name: profile.error for name, profile in baselines.series.items()},
        timelines=timelines,
        seconds=cpu_seconds() - started,
    )


def _look_at(shop: Shop, listed: list[FoundIncident], baselines: Baselines) -> tuple[set[str], list[Timeline]]:
    """Ids of the incidents about resident robots, and timelines of the others."""
    if not listed:
        return set(), []
    synthesis = synthesis_of(shop, (shop.warm_from, shop.test_until))
    tables = list(batches(synthesis))
    robots = frozenset(synthesis.residents())
    with closing(RunEvents(tables, robots)) as traffic:
        residents = set()
        for one, (events, hits, _) in zip(listed, traffic.claims(listed), strict=True):
            group = bool(one.members) and len(robots & one.members) >= _MAJORITY * len(one.members)
            if group or (one.about_actors and not one.members and hits >= _MAJORITY * events > 0):
                residents.add(one.id)
        false = [one for one in listed if one.id not in residents]
        return residents, [timeline_of_false(one, traffic, baselines, None) for one in false[:_MAX_BASELINE_TIMELINES]]


_SUFFIXES = (".py", ".yml", ".json", ".sql")


def default_cache() -> Path:
    """The user's cache folder (XDG_CACHE_HOME, else ~/.cache)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "shopstream" / "evaluation"


def code_digest(packages: Iterable[str]) -> str:
    """Digest of all source and data files of sub-packages of shopstream: 12 hex digits."""
    digest = hashlib.sha256()
    for package in packages:
        root = Path(str(files("shopstream"))) / package
        root.stat()  # a path that was renamed must fail here, not keep a cache for ever
        for path in sorted([root, *root.rglob("*")]):
            if path.suffix in _SUFFIXES and path.is_file():
                digest.update(path.relative_to(root.parent).as_posix().encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class Cache:
    """Cached folders of one shop.

    Args:
        root: folder of the whole cache.
        shop: the shop.
    """

    def __init__(self, root: Path, shop: Shop) -> None:
        described = hashlib.sha256(repr(shop).encode()).hexdigest()[:12]
        self._folder = root / f"shop-{shop.seed}-{described}"
        self._folder.mkdir(parents=True, exist_ok=True)

    def folder(self, kind: str, digest: str, make: Callable[[Path], None]) -> Path:
        """The folder of a kind; made under another name, and renamed when it is complete.

        Args:
            kind: what it holds; folders of the same kind with another digest are removed.
            digest: digest of everything it was made from.
            make: fills an empty folder.
        """
        target = self._folder / f"{kind}-{digest}"
        with FileLock(self._folder / f"{kind}.lock"):
            if not target.is_dir():
                for old in self._folder.glob(f"{kind}-*"):
                    shutil.rmtree(old)
                part = self._folder / f"part-{kind}"
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                make(part)
                part.rename(target)
        return target


_LEAD = timedelta(seconds=60)
"""Attacks begin 60 to 120 seconds after the moment of the saved state."""
_EASE = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Factors on a scenario's min_rate, tried in turn: the best product of a calm day has 0.43 events/s."""
_MAX_ATTACK_TIMELINES = 4


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
    nearest = ""
    timelines = [timeline_of_false(one, traffic, baselines, truth) for one in false[:_MAX_ATTACK_TIMELINES]]
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
