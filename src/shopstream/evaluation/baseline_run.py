"""The baseline run of a shop, without attacks: false incidents, forecast errors, and states from which attacks start.

The run goes through the day before the test (warm-up) and the test days. Baselines and states are kept in a cache,
under a digest of the code that made them.
"""

import hashlib
import os
import resource
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from filelock import FileLock
from pydantic import TypeAdapter

from shopstream.clock import to_ms
from shopstream.detection.baseline import Baselines
from shopstream.detection.detectors.shipped import shipped_runner
from shopstream.detection.rule import Rule, load_rules
from shopstream.detection.settings import DetectionSettings
from shopstream.errors import StateError
from shopstream.evaluation.plan import Shop
from shopstream.evaluation.results import BaselineResult, FoundIncident, Timeline, read_found
from shopstream.evaluation.run_events import RunEvents
from shopstream.evaluation.system_under_test import INCIDENTS, SystemUnderTest, batches, cut, learn, synthesis_of
from shopstream.evaluation.timelines import HourCounts, forecast_errors, timeline_of_false

__all__ = [
    "BaselineJob",
    "Cache",
    "baseline_incidents",
    "baseline_run_folder",
    "code_digest",
    "cpu_seconds",
    "default_cache",
    "enabled_rules",
    "load_baselines",
    "run_baseline",
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
    "incidents",
    "notify",
    "evaluation/system_under_test.py",
    "evaluation/plan.py",
)
_MAX_TIMELINES = 12


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
        return residents, [timeline_of_false(one, traffic, baselines, None) for one in false[:_MAX_TIMELINES]]


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
