"""All runs of an evaluation, on several processes; what is done is on disk, whatever happens next."""

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

from shopstream.evaluation.attack import AttackJob, run_attack
from shopstream.evaluation.baseline_run import GenuineJob, genuine_folder, run_genuine
from shopstream.evaluation.plan import Shop, load_rows
from shopstream.evaluation.results import AttackResult, GenuineResult

__all__ = ["EVERY", "Done", "Matrix", "Watch", "run_matrix"]

_GENUINE = TypeAdapter(list[GenuineResult])
_ATTACKS = TypeAdapter(list[AttackResult])
EVERY = 4
_GENUINE_WORK = 40
"""A genuine run, history included, takes about as long as so many short attacks."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """What to run.

    Args:
        shops: one a seed.
        scenarios: ids of rows.
        cache: folder of baselines and states.
        jobs: processes.
        keep_states: leave the states for the next evaluation; they take some hundred megabytes a shop.
    """

    shops: Sequence[Shop]
    scenarios: Sequence[str]
    cache: Path
    jobs: int
    keep_states: bool

    def scenarios_of(self, place: int) -> list[str]:
        """What is laid over the shop at that place: days of several times the traffic only over every fourth."""
        rows = load_rows()
        return [name for name in self.scenarios if place % EVERY == 0 or not rows[name].heavy]

    @property
    def work(self) -> int:
        """In units of one short attack."""
        rows = load_rows()
        names = [name for place in range(len(self.shops)) for name in self.scenarios_of(place)]
        return len(self.shops) * _GENUINE_WORK + sum(rows[name].work for name in names)


@dataclass(slots=True)
class Done:
    """What was run so far."""

    genuine: list[GenuineResult] = field(default_factory=list)
    attacks: dict[str, list[AttackResult]] = field(default_factory=dict)


Watch = Callable[[int, str], None]
"""Called with (units of work done, what was done) after each run."""


def run_matrix(matrix: Matrix, out: Path, watch: Watch, done: Done) -> None:
    """Run everything; results are in `done` and in JSON files under `out` as they come.

    Args:
        matrix: what to run.
        out: gets `genuine.json` and `scenarios/ID.json`; those of an earlier evaluation go.
        watch: told of each run.
        done: filled in place, so that an interrupted caller has what there is.
    """
    (out / "scenarios").mkdir(parents=True, exist_ok=True)
    for old in (out / "genuine.json", *(out / "scenarios").glob("*.json")):
        old.unlink(missing_ok=True)
    shops = deque(GenuineJob.of(shop, matrix.cache) for shop in matrix.shops)
    ready: deque[AttackJob] = deque()
    plans = {shop.seed: matrix.scenarios_of(place) for place, shop in enumerate(matrix.shops)}
    left = {seed: len(names) for seed, names in plans.items()}
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="shopstream-evaluation-") as work,
        ProcessPoolExecutor(matrix.jobs, mp_context=context, initializer=_leave_interrupts) as pool,
    ):
        running: dict[Future[AttackResult | GenuineResult], AttackJob | GenuineJob] = {}
        try:
            while shops or ready or running:
                while len(running) < matrix.jobs and (ready or shops):
                    job = ready.popleft() if ready else shops.popleft()
                    running[pool.submit(_run, job)] = job
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    job = running.pop(future)
                    result = future.result()
                    genuine = job.genuine if isinstance(job, AttackJob) else job
                    seed = genuine.shop.seed
                    if isinstance(job, AttackJob):
                        left[seed] -= 1
                    else:
                        ready.extend(AttackJob(job, name, Path(work)) for name in plans[seed])
                    if not left[seed] and not matrix.keep_states:
                        shutil.rmtree(genuine_folder(genuine))
                    _note(result, out, done)
                    watch(*_told(result))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _leave_interrupts() -> None:
    """Ctrl-C reaches every process; the one that started the others ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(job: AttackJob | GenuineJob) -> AttackResult | GenuineResult:
    return run_attack(job) if isinstance(job, AttackJob) else run_genuine(job)


def _told(result: AttackResult | GenuineResult) -> tuple[int, str]:
    if isinstance(result, GenuineResult):
        return _GENUINE_WORK, f"seed {result.seed}: genuine days"
    return load_rows()[result.scenario].work, f"seed {result.seed}: {result.scenario}"


def _note(result: AttackResult | GenuineResult, out: Path, done: Done) -> None:
    if isinstance(result, GenuineResult):
        done.genuine.append(result)
        done.genuine.sort(key=lambda one: one.seed)
        _write(out / "genuine.json", _GENUINE.dump_json(done.genuine, indent=1))
    else:
        attacks = done.attacks.setdefault(result.scenario, [])
        attacks.append(result)
        attacks.sort(key=lambda one: (one.seed, one.place))
        _write(out / "scenarios" / f"{result.scenario}.json", _ATTACKS.dump_json(attacks, indent=1))


def _write(path: Path, content: bytes) -> None:
    """A JSON file that appears when it is whole."""
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)
