"""A shop without attacks: what is told falsely, how good the forecasts are, and the state from which attacks begin.

The run goes once through the day before the test (to warm up) and the test days. Where attacks will begin, everything
that the product remembers is written down.
"""

import resource
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import TypeAdapter

from shopstream.clock import to_ms
from shopstream.detection.baseline import Baselines
from shopstream.detection.detectors.shipped import shipped_runner
from shopstream.detection.rule import Rule, load_rules
from shopstream.detection.settings import DetectionSettings
from shopstream.errors import StateError
from shopstream.evaluation.cache import Cache, code_digest
from shopstream.evaluation.forecast import HourCounts, forecast_errors
from shopstream.evaluation.ground_truth import Found, read_found
from shopstream.evaluation.plan import Shop
from shopstream.evaluation.results import GenuineResult, Picture, brief_of
from shopstream.evaluation.slices import batches, cut, learn, synthesis_of
from shopstream.evaluation.system_under_test import INCIDENTS, Product
from shopstream.evaluation.timelines import draw_false
from shopstream.evaluation.traffic import Traffic

__all__ = [
    "GenuineJob",
    "cpu_seconds",
    "enabled_rules",
    "genuine_folder",
    "genuine_found",
    "load_baselines",
    "run_genuine",
    "state_folder",
]

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
    "alerting",
    "evaluation/system_under_test.py",
    "evaluation/plan.py",
)
_MAX_PICTURES = 12


@dataclass(frozen=True, slots=True)
class GenuineJob:
    """A shop to go through without attacks.

    Args:
        shop: which.
        cache: folder of what earlier evaluations left.
        learnt_by, run_by: digests of the code that makes the baselines and the states, taken once for a whole
            evaluation: somebody may edit the code meanwhile.
    """

    shop: Shop
    cache: Path
    learnt_by: str
    run_by: str

    @staticmethod
    def of(shop: Shop, cache: Path) -> "GenuineJob":
        """With the code as it stands."""
        return GenuineJob(shop, cache, code_digest(_LEARNT_FROM), code_digest(_RUN_BY))


def cpu_seconds() -> float:
    """User and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@lru_cache(maxsize=1)
def enabled_rules() -> Mapping[str, Rule]:
    """The shipped rules that are switched on."""
    return {rule_id: rule for rule_id, rule in load_rules().items() if rule.enabled}


def run_genuine(job: GenuineJob) -> GenuineResult:
    """Go through the genuine days, unless the cache holds that, and leave the states for attacks in the cache."""
    path = genuine_folder(job) / _RESULT
    return TypeAdapter(GenuineResult).validate_json(path.read_bytes())


def genuine_folder(job: GenuineJob) -> Path:
    """Where the genuine run of a shop left its states, incidents, baselines and result; made if it is missing."""
    cache = Cache(job.cache, job.shop)

    def learnt(folder: Path) -> None:
        learn(job.shop, folder / BASELINES)

    baselines = cache.folder("baselines", job.learnt_by, learnt)

    def done(folder: Path) -> None:
        shutil.copytree(baselines, folder, dirs_exist_ok=True)
        result = _go_through(job.shop, folder)
        (folder / _RESULT).write_bytes(TypeAdapter(GenuineResult).dump_json(result))

    return cache.folder("genuine", job.run_by, done)


def state_folder(genuine: Path, moment_ms: int) -> Path:
    """Where in a genuine run's folder the state at a moment is."""
    return genuine / f"state-{moment_ms}"


def genuine_found(genuine: Path) -> list[Found]:
    """Incidents of a genuine run."""
    return read_found(genuine / INCIDENTS)


def load_baselines(genuine: Path) -> Baselines:
    """Those the run was made with.

    Raises:
        StateError: they are missing.
    """
    baselines = Baselines.load(genuine / BASELINES)
    if baselines is None:
        raise StateError(f"expected baselines in {genuine}, found none; remove that folder and evaluate again")
    return baselines


def _go_through(shop: Shop, folder: Path) -> GenuineResult:
    started = cpu_seconds()
    baselines = load_baselines(folder)
    product = Product(folder, enabled_rules(), shipped_runner(DetectionSettings(), baselines))
    counts = HourCounts()
    tested = 0
    moments = [shop.test_from, *shop.moments()]
    events = batches(synthesis_of(shop, (shop.warm_from, shop.test_until)))
    for table, moment in cut(events, moments):
        product.feed(table)
        if table.num_rows and to_ms(shop.test_from) <= table.column("event_time")[0].as_py().timestamp() * 1000:
            counts.add(table)
            tested += table.num_rows
        if moment is not None:
            product.save(state_folder(folder, to_ms(moment)))
    product.close()
    found = [one for one in genuine_found(folder) if one.detected_ms >= to_ms(shop.test_from)]
    told = [one for one in found if one.top]
    residents, pictures = _look_at(shop, told, baselines)
    return GenuineResult(
        seed=shop.seed,
        days=shop.days,
        events=tested,
        incidents=[brief_of(one, resident=one.id in residents) for one in told],
        forecast_error=forecast_errors(baselines, counts),
        stated_error={name: profile.error for name, profile in baselines.series.items()},
        pictures=pictures,
        seconds=cpu_seconds() - started,
    )


def _look_at(shop: Shop, told: list[Found], baselines: Baselines) -> tuple[set[str], list[Picture]]:
    """Ids of the incidents about resident robots, and pictures of the other ones."""
    if not told:
        return set(), []
    synthesis = synthesis_of(shop, (shop.warm_from, shop.test_until))
    tables = list(batches(synthesis))
    robots = frozenset(synthesis.residents())
    with Traffic(tables, robots) as traffic:
        residents = set()
        for one, (events, hits, _) in zip(told, traffic.claims(told, 0), strict=True):
            group = bool(one.members) and len(robots & one.members) >= _MAJORITY * len(one.members)
            if group or (one.about_actors and not one.members and hits >= _MAJORITY * events > 0):
                residents.add(one.id)
        false = [one for one in told if one.id not in residents]
        return residents, [draw_false(one, traffic, baselines, None) for one in false[:_MAX_PICTURES]]
