"""The engines under test: variants of shopstream and other engines, each as a whole process on the same events."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ours
from measure import Measurement, run
from workload import Check, Workload, check

HERE = Path(__file__).parent
FLINK_PYTHON = Path(".work/venv-flink/bin/python")
SPARK_PYTHON = Path(".work/venv-spark/bin/python")


class Contender(Protocol):
    """One row of a table.

    Attributes:
        name: short, without spaces.
        title: for people.
        part: what `--only` calls it.
        rounds: how often it runs where the others run several times; None: as often as they.
        most_events: it gets a smaller workload above this; None: no limit.
    """

    name: str
    title: str
    part: str
    rounds: int | None
    most_events: int | None

    def run(self, made: Workload, windows: str, scratch: Path) -> tuple[Measurement, Check]:
        """One run in an empty folder, and the comparison with the batch answer."""
        ...


@dataclass(frozen=True)
class Ours:
    """shopstream on a copy of a filled stream.

    Args:
        variant: what is switched on.
        preloaded: number of events → data home with the filled stream.
    """

    variant: ours.Variant
    preloaded: Mapping[int, Path]
    part: str = "ours"
    rounds: int | None = None
    most_events: int | None = None

    @property
    def name(self) -> str:
        """Short name."""
        return self.variant.name

    @property
    def title(self) -> str:
        """Label for tables."""
        return self.variant.title

    def run(self, made: Workload, windows: str, scratch: Path) -> tuple[Measurement, Check]:
        """Copy the stream, process it, compare the result."""
        home = scratch / "home"
        ours.fresh_home(self.preloaded[made.events], home)
        measured = run(
            ours.command(home, self.variant),
            log=HERE / ".work" / "logs" / f"{self.name}-{windows}.log",
            timeout_s=900,
            env=ours.environment(windows),
        )
        return measured, ours.check_run(made, windows, home, self.variant)


@dataclass(frozen=True)
class Peer:
    """A script in `peers/`.

    Args:
        script: file name.
        python: interpreter of its environment, relative to this folder or absolute.
        source: which files of the workload it reads.
    """

    name: str
    title: str
    part: str
    script: str
    python: Path
    source: str
    rounds: int | None = None
    most_events: int | None = None

    def run(self, made: Workload, windows: str, scratch: Path) -> tuple[Measurement, Check]:
        """Run the script, compare its output."""
        output = scratch / "output"
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        os.sync()
        measured = run(
            [
                str(HERE / self.python),
                str(HERE / "peers" / self.script),
                str(getattr(made, self.source)),
                str(output),
                windows,
            ],
            log=HERE / ".work" / "logs" / f"{self.name}-{windows}.log",
            timeout_s=1_200,
            env={**os.environ, "PYTHONPATH": str(HERE), "SPARK_LOCAL_IP": "127.0.0.1"},
            cwd=scratch,
        )
        return measured, check(made, windows, output)
