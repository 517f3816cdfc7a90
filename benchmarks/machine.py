"""Describes the machine of the measurement."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """One paragraph of facts."""

    text: str


def describe(peers: dict[str, Path]) -> Machine:
    """Collect facts about the machine.

    Args:
        peers: package name → interpreter of the environment it is installed in.
    """
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"Python {platform.python_version()}", f"DuckDB {version('duckdb')}", f"PyArrow {version('pyarrow')}"]
    for package, python in peers.items():
        if python.is_file():
            versions.append(f"{package} {_said([str(python), '-c', _VERSION, package])}")
    if shutil.which("java"):
        versions.append(f"Java {_java()}")
    changed = (
        " with uncommitted changes" if _said(["git", "status", "--porcelain", "--", "src", "benchmarks/*.py"]) else ""
    )
    commit = _said(["git", "rev-parse", "--short", "HEAD"])
    return Machine(
        f"Machine: {cpu}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB of memory, {platform.system()} "
        f"{platform.release()}. {', '.join(versions)}. Commit {commit}{changed}. "
        f"Load average at the start: {os.getloadavg()[0]:.1f}."
    )


_VERSION = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    return done.stdout.strip()


def _java() -> str:
    done = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
    return done.stderr.split('"')[1] if '"' in done.stderr else "unknown"
