"""Runs an evaluation in several processes; each result is saved at once."""

import multiprocessing
import shutil
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from shopstream.evaluation.plan import Shop, evaluated_scenarios
from shopstream.evaluation.results import AttackResult, BaselineResult
from shopstream.evaluation.runs import AttackJob, BaselineJob, baseline_run_folder, run_attack, run_baseline

_BASELINES = TypeAdapter(list[BaselineResult])
_ATTACKS = TypeAdapter(list[AttackResult])
EVERY = 4
_BASELINE_WORK = 40
"""Duration of a baseline run with history, in units of a short attack."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What to run.

    Args:
        shops: one per seed.
        scenarios: ids of scenarios.
        cache: folder of the cache.
        jobs: number of processes.
        keep_states: keep the states for the next evaluation: some hundred megabytes per shop.
    """

    shops: Sequence[Shop]
    scenarios: Sequence[str]
    cache: Path
    jobs: int
    keep_states: bool

    def scenarios_of(self, place: int) -> list[str]:
        """Scenarios of the shop with that number; only every fourth shop has days of several times the traffic."""
        rows = evaluated_scenarios()
        return [name for name in self.scenarios if place % EVERY == 0 or not rows[name].heavy]

    @property
    def work(self) -> int:
        """Duration of all runs, in units of a short attack."""
        rows = evaluated_scenarios()
        names = [name for place in range(len(self.shops)) for name in self.scenarios_of(place)]
        return len(self.shops) * _BASELINE_WORK + sum(rows[name].work for name in names)


@dataclass(slots=True)
class RunResults:
    """Results so far."""

    baseline: list[BaselineResult] = field(default_factory=list)
    attacks: dict[str, list[AttackResult]] = field(default_factory=dict)


Progress = Callable[[int, str], None]
"""Called with (units of work, what was done) after each run."""


def run_all(plan: RunPlan, out: Path, progress: Progress, results: RunResults) -> None:
    """Run everything.

    Args:
        plan: what to run.
        out: gets `baseline.json` and `scenarios/ID.json`; files of an earlier evaluation are removed.
        progress: called after each run.
        results: filled in place, so that an interrupted caller has the results so far.
    """
    (out / "scenarios").mkdir(parents=True, exist_ok=True)
    for old in (out / "baseline.json", *(out / "scenarios").glob("*.json")):
        old.unlink(missing_ok=True)
    shops = deque(BaselineJob.of(shop, plan.cache) for shop in plan.shops)
    ready: deque[AttackJob] = deque()
    plans = {shop.seed: plan.scenarios_of(place) for place, shop in enumerate(plan.shops)}
    left = {seed: len(names) for seed, names in plans.items()}
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="shopstream-evaluation-") as work,
        ProcessPoolExecutor(plan.jobs, mp_context=context, initializer=_leave_interrupts) as pool,
    ):
        running: dict[Future[AttackResult | BaselineResult], AttackJob | BaselineJob] = {}
        try:
            while shops or ready or running:
                while len(running) < plan.jobs and (ready or shops):
                    job = ready.popleft() if ready else shops.popleft()
                    running[pool.submit(_run, job)] = job
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    job = running.pop(future)
                    result = future.result()
                    baseline = job.baseline if isinstance(job, AttackJob) else job
                    seed = baseline.shop.seed
                    if isinstance(job, AttackJob):
                        left[seed] -= 1
                    else:
                        ready.extend(AttackJob(job, name, Path(work)) for name in plans[seed])
                    if not left[seed] and not plan.keep_states:
                        shutil.rmtree(baseline_run_folder(baseline))
                    _note(result, out, results)
                    progress(*_described(result))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _leave_interrupts() -> None:
    """Ctrl-C reaches every process; only the parent handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(job: AttackJob | BaselineJob) -> AttackResult | BaselineResult:
    return run_attack(job) if isinstance(job, AttackJob) else run_baseline(job)


def _described(result: AttackResult | BaselineResult) -> tuple[int, str]:
    if isinstance(result, BaselineResult):
        return _BASELINE_WORK, f"seed {result.seed}: days without attacks"
    return evaluated_scenarios()[result.scenario].work, f"seed {result.seed}: {result.scenario}"


def _note(result: AttackResult | BaselineResult, out: Path, results: RunResults) -> None:
    if isinstance(result, BaselineResult):
        results.baseline.append(result)
        results.baseline.sort(key=lambda one: one.seed)
        _write(out / "baseline.json", _BASELINES.dump_json(results.baseline, indent=1))
    else:
        attacks = results.attacks.setdefault(result.scenario, [])
        attacks.append(result)
        attacks.sort(key=lambda one: (one.seed, one.place))
        _write(out / "scenarios" / f"{result.scenario}.json", _ATTACKS.dump_json(attacks, indent=1))


def _write(path: Path, content: bytes) -> None:
    """Write a file that appears when it is complete."""
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)
